//! Trust bundles: the server's own, and those of the trust domains it federates with.

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::Response;
use vouchsafe_proto::spire::api::server::bundle::v1 as api;
use vouchsafe_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::types;

use super::bundle_data::{self, BundleFormat};
use super::{ServerCall, is_ok, json_file};
use crate::cli::output::counted;
use crate::cli::socket::MAX_ANSWER_BYTES;
use crate::cli::{pages, proto_json};
use crate::console::Console;
use crate::go;

/// Bundles asked for at once.
const PAGE_SIZE: i32 = 100;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BundleCommand {
    /// Prints server CA bundle to stdout
    #[command(after_help = "Example:\n  spire-server bundle show -format spiffe > bundle.json")]
    Show(ShowArgs),
    /// Count bundles
    Count(ServerCall),
    /// Lists federated bundle data
    #[command(after_help = "Example:\n  spire-server bundle list -id spiffe://other.org -format spiffe")]
    List(ListArgs),
    /// Creates or updates federated bundle data
    #[command(
        after_help = "Example:\n  spire-server bundle set -id spiffe://other.org -format spiffe -path other.json"
    )]
    Set(SetArgs),
    /// Deletes federated bundle data
    #[command(after_help = "Example:\n  spire-server bundle delete -id spiffe://other.org -mode dissociate")]
    Delete(DeleteArgs),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ShowArgs {
    /// The format to show the bundle (only pretty output format supports this flag): pem or spiffe
    #[arg(long = "format", value_name = "format", default_value = "pem")]
    format: String,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ListArgs {
    /// SPIFFE ID of the trust domain
    #[arg(long = "id", value_name = "id", default_value = "", hide_default_value = true)]
    id: String,
    /// The format to list federated bundles (only pretty output format supports this flag): pem or spiffe
    #[arg(long = "format", value_name = "format", default_value = "pem")]
    format: String,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct SetArgs {
    /// SPIFFE ID of the trust domain
    #[arg(long = "id", value_name = "id", default_value = "", hide_default_value = true)]
    id: String,
    /// The format of the bundle data: pem or spiffe
    #[arg(long = "format", value_name = "format", default_value = "pem")]
    format: String,
    /// Path to the bundle data; without it, the data is read from standard input
    #[arg(long = "path", value_name = "path", default_value = "", hide_default_value = true)]
    path: String,
    #[command(flatten)]
    call: ServerCall,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeleteArgs {
    /// SPIFFE ID of the trust domain
    #[arg(long = "id", value_name = "id", default_value = "", hide_default_value = true)]
    id: String,
    /// Deletion mode: one of restrict, delete, or dissociate
    #[arg(long = "mode", value_name = "mode", default_value = "restrict")]
    mode: String,
    #[command(flatten)]
    call: ServerCall,
}

pub(super) async fn execute(command: BundleCommand, console: &mut Console<'_>) -> anyhow::Result<()> {
    match command {
        BundleCommand::Show(arguments) => show(arguments, console).await,
        BundleCommand::Count(call) => count(call, console).await,
        BundleCommand::List(arguments) if arguments.id.is_empty() => list(arguments, console).await,
        BundleCommand::List(arguments) => list_one(arguments, console).await,
        BundleCommand::Set(arguments) => set(arguments, console).await,
        BundleCommand::Delete(arguments) => delete(arguments, console).await,
    }
}

async fn show(arguments: ShowArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let bundle = arguments.call.call("", console, async |channel| {
        BundleClient::new(channel).get_bundle(api::GetBundleRequest { output_mask: None }).await
    });
    print_one(&bundle.await?, &arguments.format, &arguments.call, console)
}

fn print_one(
    bundle: &types::Bundle,
    format: &str,
    call: &ServerCall,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    call.output.print(
        console,
        || proto_json::bundle(bundle),
        |console| {
            let text = bundle_data::render(bundle, BundleFormat::parse(format)?)?;
            Ok(write!(console.stdout, "{text}")?)
        },
    )
}

async fn count(call: ServerCall, console: &mut Console<'_>) -> anyhow::Result<()> {
    let answer = call.call("", console, async |channel| {
        BundleClient::new(channel).count_bundles(api::CountBundlesRequest {}).await
    });
    let count = answer.await?.count;
    call.output.print(
        console,
        || proto_json::count(count),
        |console| {
            let text = counted(usize::try_from(count).unwrap_or(0), "", "bundle", "bundles");
            Ok(writeln!(console.stdout, "{text}")?)
        },
    )
}

async fn list_one(arguments: ListArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let trust_domain = arguments.id;
    let bundle = arguments.call.call("", console, async |channel| {
        let request = api::GetFederatedBundleRequest { trust_domain, output_mask: None };
        BundleClient::new(channel).get_federated_bundle(request).await
    });
    print_one(&bundle.await?, &arguments.format, &arguments.call, console)
}

async fn list(arguments: ListArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let bundles = arguments.call.call("", console, async |channel| {
        let mut client = BundleClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let bundles = pages::all(async |page_token| {
            let request =
                api::ListFederatedBundlesRequest { output_mask: None, page_size: PAGE_SIZE, page_token };
            let page = client.list_federated_bundles(request).await?.into_inner();
            Ok((page.bundles, page.next_page_token))
        });
        bundles.await.map(Response::new)
    });
    let bundles = bundles.await?;
    arguments.call.output.print(
        console,
        || proto_json::bundles(&bundles),
        |console| {
            for (index, bundle) in bundles.iter().enumerate() {
                if index > 0 {
                    writeln!(console.stdout)?;
                }
                let format = BundleFormat::parse(&arguments.format)?;
                let frame = "*".repeat(40);
                writeln!(console.stdout, "{frame}\n* {}\n{frame}", bundle.trust_domain)?;
                write!(console.stdout, "{}", bundle_data::render(bundle, format)?)?;
            }
            Ok(())
        },
    )
}

async fn set(arguments: SetArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    if arguments.id.is_empty() {
        bail!("id flag is required");
    }
    let format = BundleFormat::parse(&arguments.format)?;
    let path = Some(arguments.path.as_str()).filter(|path| !path.is_empty());
    let data = json_file::read_bytes(path, console)
        .map_err(|error| anyhow!("unable to load bundle data: {error}"))?;
    let request = api::BatchSetFederatedBundleRequest {
        bundle: vec![bundle_data::parse(&data, format, &arguments.id)?],
        output_mask: None,
    };
    let answer = arguments.call.call("failed to set federated bundle", console, async |channel| {
        BundleClient::new(channel).batch_set_federated_bundle(request).await
    });
    let results = answer.await?.results;
    let json = || {
        let bundle = |bundle: &Option<_>| bundle.as_ref().map_or(Value::Null, proto_json::bundle);
        proto_json::results("bundle", results.iter().map(|result| (&result.status, bundle(&result.bundle))))
    };
    arguments.call.output.print(console, json, |console| match results.first() {
        None => bail!("the server answered without a result"),
        Some(result) if is_ok(&result.status) => Ok(writeln!(console.stdout, "bundle set.")?),
        Some(result) => bail!("failed to set federated bundle: {}", message(&result.status)),
    })
}

async fn delete(arguments: DeleteArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    if arguments.id.is_empty() {
        bail!("id is required");
    }
    let mode = match arguments.mode.as_str() {
        "" | "restrict" => Mode::Restrict,
        "delete" => Mode::Delete,
        "dissociate" => Mode::Dissociate,
        other => bail!("unsupported mode {}", go::quote(other)),
    };
    let request =
        api::BatchDeleteFederatedBundleRequest { trust_domains: vec![arguments.id], mode: mode.into() };
    let answer = arguments.call.call("failed to delete federated bundle", console, async |channel| {
        BundleClient::new(channel).batch_delete_federated_bundle(request).await
    });
    let results = answer.await?.results;
    let json = || {
        let results = results.iter().map(|result| (&result.status, json!(result.trust_domain)));
        proto_json::results("trust_domain", results)
    };
    arguments.call.output.print(console, json, |console| match results.first() {
        None => bail!("the server answered without a result"),
        Some(result) if is_ok(&result.status) => Ok(writeln!(console.stdout, "bundle deleted.")?),
        Some(result) => {
            let trust_domain = go::quote(&result.trust_domain);
            bail!("failed to delete federated bundle {trust_domain}: {}", message(&result.status))
        }
    })
}

/// What a status says.
pub(super) fn message(status: &Option<types::Status>) -> &str {
    status.as_ref().map(|status| status.message.as_str()).unwrap_or_default()
}
