//! `x509 mint`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::{CsrTemplate, create_csr_local};
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::svid::v1::MintX509svidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_types::{SpiffeId, pem};

use super::mint_jwt::warn_if_capped;
use super::ttl_seconds;
use crate::cli::output::{Format, OutputArgs, print_json};
use crate::cli::socket::ServerSocketArgs;
use crate::cli::{disk, proto_json};
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct MintArgs {
    /// DNS name that will be included in SVID. Can be used more than once.
    #[arg(long = "dns", value_name = "name")]
    dns: Vec<String>,
    /// SPIFFE ID of the X509-SVID
    #[arg(long = "spiffeID", value_name = "id")]
    spiffe_id: Option<String>,
    /// TTL of the X509-SVID
    #[arg(long = "ttl", value_name = "duration", default_value = "0s", value_parser = go::parse_duration)]
    ttl: Duration,
    /// Directory to write output to instead of stdout
    #[arg(long = "write", value_name = "directory")]
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
    let id = SpiffeId::parse(&id)?;
    let ttl = ttl_seconds(arguments.ttl)?;
    let key = PrivateKey::generate(KeyType::EcP256).context("unable to generate key")?;
    // Without a subject of its own the SVID gets the server's.
    let subject = Subject::default();
    let template = CsrTemplate { subject: &subject, uri: Some(&id), dns_names: &arguments.dns };
    let csr = create_csr_local(&key, &template).context("unable to generate CSR")?;

    let channel = arguments.socket.target(console)?.connect().await?;
    let minted =
        SvidClient::new(channel.clone()).mint_x509svid(MintX509svidRequest { csr: csr.into(), ttl }).await;
    let minted =
        minted.map_err(|status| anyhow!("unable to mint SVID: {}", go::rpc_error(&status)))?.into_inner();
    let Some(svid) = minted.svid.filter(|svid| !svid.cert_chain.is_empty()) else {
        bail!("server response missing SVID chain");
    };
    let bundle = BundleClient::new(channel).get_bundle(GetBundleRequest { output_mask: None }).await;
    let bundle =
        bundle.map_err(|status| anyhow!("unable to get bundle: {}", go::rpc_error(&status)))?.into_inner();
    if bundle.x509_authorities.is_empty() {
        bail!("server response missing X509 Authorities");
    }
    warn_if_capped("X509-SVID", svid.expires_at, arguments.ttl, console)?;

    let roots: Vec<_> = bundle.x509_authorities.into_iter().map(|authority| authority.asn1).collect();
    let key = key.pkcs8().context("unable to encode key")?;
    let directory = arguments.write.filter(|path| !path.as_os_str().is_empty());
    if directory.is_none() && arguments.output.output == Format::Json {
        return Ok(print_json(console, vec![proto_json::minted_x509(&svid.cert_chain, &key, &roots)])?);
    }
    let minted = Minted {
        svid: certificates(&svid.cert_chain),
        key: pem::encode("PRIVATE KEY", &key),
        roots: certificates(&roots),
    };
    match directory {
        Some(directory) => minted.write(&directory, console),
        None => minted.print(console),
    }
}

fn certificates(ders: &[impl AsRef<[u8]>]) -> String {
    let mut text = String::new();
    for der in ders {
        pem::append(&mut text, "CERTIFICATE", der.as_ref());
    }
    text
}

struct Minted {
    svid: String,
    key: String,
    roots: String,
}

impl Minted {
    fn print(&self, console: &mut Console<'_>) -> anyhow::Result<()> {
        writeln!(console.stdout, "X509-SVID:\n{}", self.svid)?;
        writeln!(console.stdout, "Private key:\n{}", self.key)?;
        Ok(writeln!(console.stdout, "Root CAs:\n{}", self.roots)?)
    }

    fn write(&self, directory: &std::path::Path, console: &mut Console<'_>) -> anyhow::Result<()> {
        let (svid, key, roots) =
            (directory.join("svid.pem"), directory.join("key.pem"), directory.join("bundle.pem"));
        let written = disk::write_public(&svid, self.svid.as_bytes());
        written.map_err(|error| anyhow!("unable to write SVID: {error}"))?;
        writeln!(console.stdout, "X509-SVID written to {}", svid.display())?;
        let written = disk::write_private(&key, self.key.as_bytes());
        written.map_err(|error| anyhow!("unable to write key: {error}"))?;
        writeln!(console.stdout, "Private key written to {}", key.display())?;
        let written = disk::write_public(&roots, self.roots.as_bytes());
        written.map_err(|error| anyhow!("unable to write bundle: {error}"))?;
        Ok(writeln!(console.stdout, "Root CAs written to {}", roots.display())?)
    }
}
