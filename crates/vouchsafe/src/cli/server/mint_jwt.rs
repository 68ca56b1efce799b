//! `jwt mint`.

use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::Args;
use vouchsafe_proto::convert::spiffe_id_to_proto;
use vouchsafe_proto::spire::api::server::svid::v1::MintJwtsvidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_types::JwtSvid;

use super::mint::MintFlags;
use crate::cli::{disk, proto_json};
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct MintArgs {
    /// Audience claim that will be included in the SVID. Can be used more than once.
    #[arg(long = "audience", value_name = "audience")]
    audience: Vec<String>,
    /// File to write token to instead of stdout
    #[arg(long = "write", value_name = "path")]
    write: Option<PathBuf>,
    #[command(flatten)]
    flags: MintFlags,
}

pub(super) async fn mint(arguments: MintArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let flags = arguments.flags;
    flags.require_id()?;
    if arguments.audience.is_empty() {
        bail!("at least one audience must be specified");
    }
    let request = MintJwtsvidRequest {
        id: Some(spiffe_id_to_proto(&flags.id()?)),
        audience: arguments.audience,
        ttl: flags.ttl_seconds()?,
    };
    let minted =
        flags.mint(console, async |channel| SvidClient::new(channel).mint_jwtsvid(request).await).await?;
    let Some(svid) = minted.svid.filter(|svid| !svid.token.is_empty()) else {
        bail!("server response missing token");
    };
    match JwtSvid::parse_unverified(&svid.token) {
        Err(error) => writeln!(console.stderr, "Unable to determine JWT-SVID lifetime: {error}")?,
        Ok(token) => flags.warn_if_capped("JWT-SVID", token.expires_at, console)?,
    }
    if let Some(path) = arguments.write.filter(|path| !path.as_os_str().is_empty()) {
        let written = disk::write_private(&path, svid.token.as_bytes());
        written
            .map_err(|error| anyhow!("unable to write token: {}", go::file_error("open", &path, &error)))?;
        return Ok(writeln!(console.stdout, "JWT-SVID written to {}", path.display())?);
    }
    flags.call.output.print(
        console,
        || proto_json::minted_jwt(&svid),
        |console| Ok(writeln!(console.stdout, "{}", svid.token)?),
    )
}
