//! Bundles that an operator hands over, and how they are printed.

use anyhow::{Context, anyhow, bail};
use vouchsafe_proto::convert::{bundle_from_proto, bundle_to_proto};
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::TrustDomain;
use vouchsafe_types::bundle::format::{from_spiffe_json, to_spiffe_json};
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::pem;

use crate::go;

/// The form of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BundleFormat {
    Pem,
    Spiffe,
}

impl BundleFormat {
    /// Reads a flag: empty is PEM.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "" | "pem" => Ok(Self::Pem),
            "spiffe" => Ok(Self::Spiffe),
            format => bail!("invalid format: {}", go::quote(format)),
        }
    }
}

/// Reads the bundle of the trust domain `id`. Of PEM, the server looks at the id.
pub(super) fn parse(data: &[u8], format: BundleFormat, id: &str) -> anyhow::Result<types::Bundle> {
    match format {
        BundleFormat::Pem => {
            let x509_authorities = certificates(data).context("unable to parse bundle data")?;
            Ok(types::Bundle { trust_domain: id.to_owned(), x509_authorities, ..Default::default() })
        }
        BundleFormat::Spiffe => {
            let trust_domain = TrustDomain::parse(id)?;
            let bundle = from_spiffe_json(&trust_domain, data)
                .context("unable to parse to spiffe bundle: spiffebundle: unable to parse JWKS")?;
            Ok(bundle_to_proto(&bundle, None))
        }
    }
}

fn certificates(data: &[u8]) -> anyhow::Result<Vec<types::X509Certificate>> {
    let blocks = pem::parse(data)?;
    if blocks.is_empty() {
        bail!("no PEM blocks");
    }
    let mut certificates = Vec::with_capacity(blocks.len());
    for (index, block) in blocks.into_iter().enumerate() {
        if block.label != "CERTIFICATE" {
            bail!("expected block type \"CERTIFICATE\"; got {}", go::quote(&block.label));
        }
        Certificate::parse(&block.der)
            .map_err(|error| anyhow!("unable to parse \"CERTIFICATE\" PEM block {index}: {error}"))?;
        certificates.push(types::X509Certificate { asn1: block.der.to_vec().into(), tainted: false });
    }
    Ok(certificates)
}

/// The bundle as text in this form.
pub(super) fn render(bundle: &types::Bundle, format: BundleFormat) -> anyhow::Result<String> {
    match format {
        BundleFormat::Pem => {
            let mut text = String::new();
            for authority in &bundle.x509_authorities {
                pem::append(&mut text, "CERTIFICATE", &authority.asn1);
            }
            Ok(text)
        }
        BundleFormat::Spiffe => Ok(to_spiffe_json(&bundle_from_proto(bundle)?)? + "\n"),
    }
}
