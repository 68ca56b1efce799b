//! `federation create` and `federation update`.

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Response, Status};
use vouchsafe_proto::spire::api::server::trustdomain::v1 as api;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use vouchsafe_proto::spire::api::types;

use super::super::bundle::message;
use super::super::{ServerCall, is_ok};
use super::relationship::{self, RelationshipFlags};
use crate::cli::proto_json;
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct ChangeArgs {
    /// Path to a file containing federation relationships in JSON format (optional). If set to '-', read the JSON from
    /// stdin.
    #[arg(long = "data", value_name = "path", default_value = "", hide_default_value = true)]
    data: String,
    #[command(flatten)]
    flags: RelationshipFlags,
    #[command(flatten)]
    call: ServerCall,
}

/// What became of one relationship.
type Outcome = (Option<types::Status>, Option<types::FederationRelationship>);

pub(super) async fn create(arguments: ChangeArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    change("create", arguments, console, async |channel, federation_relationships| {
        let request =
            api::BatchCreateFederationRelationshipRequest { federation_relationships, output_mask: None };
        let answer = TrustDomainClient::new(channel).batch_create_federation_relationship(request).await?;
        let results = answer.into_inner().results.into_iter();
        Ok(Response::new(results.map(|result| (result.status, result.federation_relationship)).collect()))
    })
    .await
}

pub(super) async fn update(arguments: ChangeArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    change("update", arguments, console, async |channel, federation_relationships| {
        let request = api::BatchUpdateFederationRelationshipRequest {
            federation_relationships,
            input_mask: None,
            output_mask: None,
        };
        let answer = TrustDomainClient::new(channel).batch_update_federation_relationship(request).await?;
        let results = answer.into_inner().results.into_iter();
        Ok(Response::new(results.map(|result| (result.status, result.federation_relationship)).collect()))
    })
    .await
}

async fn change(
    verb: &str,
    arguments: ChangeArgs,
    console: &mut Console<'_>,
    ask: impl AsyncFnOnce(Channel, Vec<types::FederationRelationship>) -> Result<Response<Vec<Outcome>>, Status>,
) -> anyhow::Result<()> {
    let asked = relationship::asked(&arguments.flags, &arguments.data, console)?;
    let request = asked.clone();
    let answer = arguments.call.call("request failed", console, async |channel| ask(channel, request).await);
    let outcomes = answer.await?;
    let json = || {
        let relationship =
            |of: &Option<_>| of.as_ref().map_or(Value::Null, proto_json::federation_relationship);
        let outcomes = outcomes.iter().map(|(status, of)| (status, relationship(of)));
        proto_json::results("federation_relationship", outcomes)
    };
    arguments.call.output.print(console, json, |console| print(verb, &asked, &outcomes, console))
}

/// What succeeded on standard output, then what failed on standard error. What failed is not in the answer.
fn print(
    verb: &str,
    asked: &[types::FederationRelationship],
    outcomes: &[Outcome],
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    for (_, relationship) in outcomes.iter().filter(|(status, _)| is_ok(status)) {
        let text = relationship.as_ref().map(relationship::render).unwrap_or_default();
        write!(console.stdout, "\n{text}")?;
    }
    let mut failed = false;
    for ((status, _), asked) in outcomes.iter().zip(asked).filter(|((status, _), _)| !is_ok(status)) {
        failed = true;
        writeln!(console.stdout)?;
        console.stdout.flush()?;
        let code = go::code_name(status.as_ref().map(|status| status.code).unwrap_or_default());
        let text = go::quote(message(status));
        writeln!(
            console.stderr,
            "Failed to {verb} the following federation relationship (code: {code}, msg: {text}):"
        )?;
        write!(console.stderr, "{}", relationship::render(asked))?;
    }
    if failed {
        bail!("failed to {verb} one or more federation relationships");
    }
    Ok(())
}
