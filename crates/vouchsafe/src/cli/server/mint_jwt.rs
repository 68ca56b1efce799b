//! `jwt mint`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use vouchsafe_proto::spire::api::server::svid::v1::MintJwtsvidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_types::JwtSvid;

use super::{parse_id, ttl_seconds};
use crate::cli::output::{Format, OutputArgs, print_json};
use crate::cli::socket::ServerSocketArgs;
use crate::cli::{disk, proto_json};
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct MintArgs {
    /// Audience claim that will be included in the SVID. Can be used more than once.
    #[arg(long = "audience", value_name = "audience")]
    audience: Vec<String>,
    /// SPIFFE ID of the JWT-SVID
    #[arg(long = "spiffeID", value_name = "id")]
    spiffe_id: Option<String>,
    /// TTL of the JWT-SVID
    #[arg(long = "ttl", value_name = "duration", default_value = "0s", value_parser = go::parse_duration)]
    ttl: Duration,
    /// File to write token to instead of stdout
    #[arg(long = "write", value_name = "path")]
    write: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    socket: ServerSocketArgs,
}

pub(super) async fn mint(arguments: MintArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let Some(id) = arguments.spiffe_id.filter(|id| !id.is_empty()) else {
        bail!("spiffeID must be specified")
    };
    if arguments.audience.is_empty() {
        bail!("at least one audience must be specified");
    }
    let request = MintJwtsvidRequest {
        id: Some(parse_id(&id)?),
        audience: arguments.audience,
        ttl: ttl_seconds(arguments.ttl)?,
    };
    let channel = arguments.socket.target(console)?.connect().await?;
    let minted = SvidClient::new(channel).mint_jwtsvid(request).await;
    let minted =
        minted.map_err(|status| anyhow!("unable to mint SVID: {}", go::rpc_error(&status)))?.into_inner();
    let Some(svid) = minted.svid.filter(|svid| !svid.token.is_empty()) else {
        bail!("server response missing token");
    };
    match JwtSvid::parse_unverified(&svid.token) {
        Err(error) => writeln!(console.stderr, "Unable to determine JWT-SVID lifetime: {error}")?,
        Ok(token) => warn_if_capped("JWT-SVID", token.expires_at, arguments.ttl, console)?,
    }
    match arguments.write.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => {
            let written = disk::write_private(&path, svid.token.as_bytes());
            written.map_err(|error| anyhow!("unable to write token: {error}"))?;
            writeln!(console.stdout, "JWT-SVID written to {}", path.display())?;
        }
        None if arguments.output.output == Format::Json => {
            print_json(console, vec![proto_json::minted_jwt(&svid)])?;
        }
        None => writeln!(console.stdout, "{}", svid.token)?,
    }
    Ok(())
}

/// Says so when an SVID lives for less than was asked for.
pub(super) fn warn_if_capped(
    kind: &str,
    expires_at: i64,
    ttl: Duration,
    console: &mut Console<'_>,
) -> anyhow::Result<()> {
    let remaining = u64::try_from(expires_at - console.clock.unix_now()).unwrap_or(0);
    // The token says whole seconds, and a moment has passed since it was made.
    if Duration::from_secs(remaining + 2) < ttl {
        let end = go::quote(&go::rfc3339(expires_at));
        writeln!(console.stderr, "{kind} lifetime was capped shorter than specified ttl; expires {end}")?;
    }
    Ok(())
}
