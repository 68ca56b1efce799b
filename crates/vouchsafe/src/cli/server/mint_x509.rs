//! `x509 mint`.

use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use vouchsafe_ca::key::{KeyType, PrivateKey};
use vouchsafe_ca::x509::csr::{CsrTemplate, create_csr_local};
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::svid::v1::MintX509svidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_types::pem;

use super::mint::MintFlags;
use crate::cli::output::{Format, print_struct};
use crate::cli::{disk, proto_json};
use crate::console::Console;
use crate::go;

#[derive(Args, Debug)]
pub(in crate::cli) struct MintArgs {
    /// DNS name that will be included in SVID. Can be used more than once.
    #[arg(long = "dns", value_name = "name")]
    dns: Vec<String>,
    /// Directory to write output to instead of stdout
    #[arg(long = "write", value_name = "directory")]
    write: Option<PathBuf>,
    #[command(flatten)]
    flags: MintFlags,
}

pub(super) async fn mint(arguments: MintArgs, console: &mut Console<'_>) -> anyhow::Result<()> {
    let flags = arguments.flags;
    flags.require_id()?;
    let id = flags.id()?;
    let ttl = flags.ttl_seconds()?;
    let key = PrivateKey::generate(KeyType::EcP256).context("unable to generate key")?;
    // Without a subject of its own the SVID gets the server's.
    let subject = Subject::default();
    let template = CsrTemplate { subject: &subject, uri: Some(&id), dns_names: &arguments.dns };
    let csr = create_csr_local(&key, &template).context("unable to generate CSR")?;

    let request = MintX509svidRequest { csr: csr.into(), ttl };
    let minted =
        flags.mint(console, async |channel| SvidClient::new(channel).mint_x509svid(request).await).await?;
    let Some(svid) = minted.svid.filter(|svid| !svid.cert_chain.is_empty()) else {
        bail!("server response missing SVID chain");
    };
    let bundle = flags.call.call("unable to get bundle", console, async |channel| {
        BundleClient::new(channel).get_bundle(GetBundleRequest { output_mask: None }).await
    });
    let bundle = bundle.await?;
    if bundle.x509_authorities.is_empty() {
        bail!("server response missing X509 Authorities");
    }
    flags.warn_if_capped("X509-SVID", svid.expires_at, console)?;

    let roots: Vec<_> = bundle.x509_authorities.into_iter().map(|authority| authority.asn1).collect();
    let key = key.pkcs8().context("unable to encode key")?;
    let minted = Minted {
        svid: certificates(&svid.cert_chain),
        key: pem::encode("PRIVATE KEY", &key),
        roots: certificates(&roots),
    };
    match arguments.write.filter(|path| !path.as_os_str().is_empty()) {
        Some(directory) => minted.write(&directory, console),
        None => match flags.call.output.output {
            Format::Json => {
                let minted = proto_json::MintedX509::new(&svid.cert_chain, &key, &roots);
                Ok(print_struct(console, &minted)?)
            }
            Format::Pretty => minted.print(console),
        },
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
        written
            .map_err(|error| anyhow!("unable to write SVID: {}", go::file_error("open", &svid, &error)))?;
        writeln!(console.stdout, "X509-SVID written to {}", svid.display())?;
        let written = disk::write_private(&key, self.key.as_bytes());
        written.map_err(|error| anyhow!("unable to write key: {}", go::file_error("open", &key, &error)))?;
        writeln!(console.stdout, "Private key written to {}", key.display())?;
        let written = disk::write_public(&roots, self.roots.as_bytes());
        written
            .map_err(|error| anyhow!("unable to write bundle: {}", go::file_error("open", &roots, &error)))?;
        Ok(writeln!(console.stdout, "Root CAs written to {}", roots.display())?)
    }
}
