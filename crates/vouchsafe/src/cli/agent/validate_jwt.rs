//! `api validate jwt`.

use anyhow::{anyhow, bail};
use clap::Args;
use tonic::Code;
use vouchsafe_proto::workload::ValidateJwtsvidRequest;

use super::workload::{self, WorkloadArgs};
use crate::cli::output::{Format, OutputArgs, print_json};
use crate::cli::proto_json;
use crate::cli::socket::SocketArgs;
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct ValidateJwtArgs {
    /// expected audience value
    #[arg(long = "audience", value_name = "audience", default_value = "", hide_default_value = true)]
    audience: String,
    /// JWT SVID
    #[arg(long = "svid", value_name = "token", default_value = "", hide_default_value = true)]
    svid: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    workload: WorkloadArgs,
}

pub(super) async fn validate(arguments: ValidateJwtArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    if arguments.audience.is_empty() {
        bail!("audience must be specified");
    }
    if arguments.svid.is_empty() {
        bail!("svid must be specified");
    }
    let target = arguments.workload.socket.target(console)?;
    let mut client = workload::connect(&target).await?;
    let request =
        workload::request(ValidateJwtsvidRequest { audience: arguments.audience, svid: arguments.svid });
    let response = workload::within(arguments.workload.timeout, client.validate_jwtsvid(request)).await;
    let response = response.map_err(|status| match status.code() {
        Code::InvalidArgument => anyhow!("SVID is not valid: {}", status.message()),
        _ => anyhow!("unable to validate JWT SVID: {}", go::rpc_error(&status)),
    })?;
    let response = response.into_inner();
    if arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::validated_jwt(&response)])?);
    }
    let claims = response
        .claims
        .as_ref()
        .map_or_else(|| "{}".to_owned(), |claims| go::to_json(&proto_json::structure(claims)));
    writeln!(console.stdout, "SVID is valid.")?;
    writeln!(console.stdout, "SPIFFE ID : {}", response.spiffe_id)?;
    Ok(writeln!(console.stdout, "Claims    : {claims}")?)
}
