//! Dynamic federation relationships: with whom, and where their bundles come from.

mod change;
mod relationship;

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use tonic::{Code, Response};
use vouchsafe_proto::spire::api::server::trustdomain::v1 as api;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use vouchsafe_proto::spire::api::types;

use super::bundle::message;
use super::{ServerCall, is_ok};
use crate::cli::call::failed_to;
use crate::cli::output::counted;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::cli::{pages, proto_json};
use crate::console::Console;
use crate::go;

/// Relationships asked for at once. Each may carry a bundle.
const PAGE_SIZE: i32 = 100;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FederationCommand {
    /// Creates a dynamic federation relationship with a foreign trust domain
    #[command(after_help = "Examples:\n  \
        spire-server federation create -trustDomain other.org \\\n    \
        -bundleEndpointURL https://other.org:8443 -bundleEndpointProfile https_spiffe \\\n    \
        -endpointSpiffeID spiffe://other.org/spire/server -trustDomainBundlePath other.pem\n  \
        spire-server federation create -data relationships.json")]
    Create(change::ChangeArgs),
    /// Updates a dynamic federation relationship with a foreign trust domain
    #[command(after_help = "Example:\n  \
        spire-server federation update -trustDomain other.org -bundleEndpointURL https://other.org/bundle \\\n    \
        -bundleEndpointProfile https_web")]
    Update(change::ChangeArgs),
    /// Lists all dynamic federation relationships
    List(ServerCall),
    /// Shows a dynamic federation relationship
    #[command(after_help = "Example:\n  spire-server federation show -trustDomain other.org")]
    Show(ShowArgs),
    /// Deletes a dynamic federation relationship
    #[command(after_help = "Example:\n  spire-server federation delete -id other.org")]
    Delete(OneArgs),
    /// Refreshes the bundle from the specified federated trust domain
    #[command(after_help = "Example:\n  spire-server federation refresh -id other.org")]
    Refresh(OneArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ShowArgs {
    /// The trust domain name of the federation relationship to show
    #[arg(long = "trustDomain", value_name = "name", default_value = "", hide_default_value = true)]
    trust_domain: String,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct OneArgs {
    /// SPIFFE ID of the trust domain
    #[arg(long = "id", value_name = "id", default_value = "", hide_default_value = true)]
    id: String,
    #[command(flatten)]
    call: ServerCall,
}

pub(super) async fn execute(command: FederationCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    match command {
        FederationCommand::Create(arguments) => change::create(arguments, console).await,
        FederationCommand::Update(arguments) => change::update(arguments, console).await,
        FederationCommand::List(call) => list(call, console).await,
        FederationCommand::Show(arguments) => show(arguments, console).await,
        FederationCommand::Delete(arguments) => delete(arguments, console).await,
        FederationCommand::Refresh(arguments) => refresh(arguments, console).await,
    }
}

async fn list(call: ServerCall, console: &mut Console<'_>) -> anyhow::Result<()> {
    let what = "error listing federation relationship";
    let relationships = call.call(what, console, async |channel| {
        let mut client = TrustDomainClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let relationships = pages::all(async |page_token| {
            let request = api::ListFederationRelationshipsRequest {
                output_mask: None,
                page_size: PAGE_SIZE,
                page_token,
            };
            let page = client.list_federation_relationships(request).await?.into_inner();
            Ok((page.federation_relationships, page.next_page_token))
        });
        relationships.await.map(Response::new)
    });
    let relationships = relationships.await?;
    call.output.print(
        console,
        || proto_json::federation_relationships(&relationships),
        |console| {
            let (one, many) = ("federation relationship", "federation relationships");
            writeln!(console.stdout, "Found {}", counted(relationships.len(), "", one, many))?;
            for one in &relationships {
                write!(console.stdout, "\n{}", relationship::render(one))?;
            }
            Ok(())
        },
    )
}

async fn show(arguments: ShowArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let trust_domain = arguments.trust_domain;
    if trust_domain.is_empty() {
        bail!("a trust domain name is required");
    }
    let request =
        api::GetFederationRelationshipRequest { trust_domain: trust_domain.clone(), output_mask: None };
    let found = arguments.call.call("error showing federation relationship", console, async |channel| {
        TrustDomainClient::new(channel).get_federation_relationship(request).await
    });
    let found = found.await?;
    arguments.call.output.print(
        console,
        || proto_json::federation_relationship(&found),
        |console| {
            let text = relationship::render(&found);
            let title = format!("Found a federation relationship with trust domain {trust_domain}:");
            Ok(write!(console.stdout, "{title}\n\n{text}")?)
        },
    )
}

async fn delete(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    if arguments.id.is_empty() {
        bail!("id is required");
    }
    let request = api::BatchDeleteFederationRelationshipRequest { trust_domains: vec![arguments.id] };
    let what = "failed to delete federation relationship";
    let answer = arguments.call.call(what, console, async |channel| {
        TrustDomainClient::new(channel).batch_delete_federation_relationship(request).await
    });
    let results = answer.await?.results;
    let json = || {
        let results = results.iter().map(|result| (&result.status, json!(result.trust_domain)));
        proto_json::results("trust_domain", results)
    };
    arguments.call.output.print(console, json, |console| match results.first() {
        None => bail!("the server answered without a result"),
        Some(result) if is_ok(&result.status) => {
            Ok(writeln!(console.stdout, "federation relationship deleted.")?)
        }
        Some(result) => {
            bail!("{what} {}: {}", go::quote(&result.trust_domain), message(&result.status))
        }
    })
}

async fn refresh(arguments: OneArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let id = arguments.id;
    if id.is_empty() {
        bail!("id is required");
    }
    let failed = failed_to("failed to refresh bundle");
    let channel = arguments.call.connect(console).await?.map_err(&failed)?;
    let request = api::RefreshBundleRequest { trust_domain: id.clone() };
    match TrustDomainClient::new(channel).refresh_bundle(request).await {
        Ok(_) => {}
        Err(status) if status.code() == Code::NotFound => {
            return Err(anyhow!("there is no federation relationship with trust domain {}", go::quote(&id)));
        }
        Err(status) => return Err(failed(status)),
    }
    arguments.call.output.print(
        console,
        || proto_json::status(&Some(types::Status { code: 0, message: "OK".to_owned() })),
        |console| Ok(writeln!(console.stdout, "Bundle refreshed")?),
    )
}
