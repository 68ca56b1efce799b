//! `api fetch jwt`.

use anyhow::{Context, bail};
use clap::Args;
use vouchsafe_proto::workload::{JwtBundlesRequest, JwtsvidRequest};

use super::workload::{self, WorkloadArgs};
use crate::cli::output::{Format, parse_format, print_json};
use crate::cli::proto_json;
use crate::cli::socket::SocketArgs;
use crate::console::Console;

#[derive(Args, Debug)]
pub(in crate::cli) struct FetchJwtArgs {
    /// comma separated list of audience values
    #[arg(long = "audience", value_name = "audience,…", default_value = "", hide_default_value = true)]
    audience: String,
    /// Desired output format: pretty or json
    #[arg(long = "output", alias = "format", value_name = "format", default_value = "pretty", value_parser = parse_format)]
    output: Format,
    /// SPIFFE ID subject (optional)
    #[arg(long = "spiffeID", value_name = "id", default_value = "", hide_default_value = true)]
    spiffe_id: String,
    #[command(flatten)]
    workload: WorkloadArgs,
}

pub(super) async fn fetch(arguments: FetchJwtArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    if arguments.audience.is_empty() {
        bail!("audience must be specified");
    }
    let audience = arguments.audience.split(',').map(str::to_owned).collect();
    let target = arguments.workload.socket.target(console)?;
    let timeout = arguments.workload.timeout;
    let mut client = workload::connect(&target).await.context("failed to receive JWT bundles")?;
    let bundles = workload::first(client.fetch_jwt_bundles(workload::request(JwtBundlesRequest {})));
    let bundles = workload::within(timeout, bundles).await.map_err(workload::failed)?;
    let request = workload::request(JwtsvidRequest { audience, spiffe_id: arguments.spiffe_id });
    let svids = workload::within(timeout, client.fetch_jwtsvid(request))
        .await
        .map_err(workload::failed)?
        .into_inner();
    if arguments.output == Format::Json {
        let messages = vec![proto_json::jwt_svids(&svids), proto_json::jwt_bundles(&bundles)];
        return Ok(print_json(console, messages)?);
    }
    for svid in &svids.svids {
        writeln!(console.stdout, "token({}):\n\t{}", svid.spiffe_id, svid.svid)?;
        if !svid.hint.is_empty() {
            writeln!(console.stdout, "hint({}):\n\t{}", svid.spiffe_id, svid.hint)?;
        }
    }
    for (trust_domain, jwks) in &bundles.bundles {
        writeln!(console.stdout, "bundle({trust_domain}):\n\t{}", String::from_utf8_lossy(jwks))?;
    }
    Ok(())
}
