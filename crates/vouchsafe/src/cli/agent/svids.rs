//! X.509-SVIDs as they come from the Workload API: read, checked, printed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::pki_types::{CertificateDer, UnixTime};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::verify::SvidVerifier;
use vouchsafe_proto::workload::X509svidResponse;
use vouchsafe_types::SpiffeId;
use vouchsafe_types::certificate::{self, Certificate};

use crate::console::Console;
use crate::go;

/// An SVID with everything that came with it.
pub(super) struct Svid {
    pub(super) spiffe_id: String,
    hint: String,
    pub(super) chain: Vec<Parsed>,
    pub(super) private_key: bytes::Bytes,
    pub(super) bundle: Vec<Parsed>,
    pub(super) federated_bundles: Arc<BTreeMap<String, Vec<Parsed>>>,
}

/// A certificate and its bytes.
#[derive(Clone)]
pub(super) struct Parsed {
    pub(super) der: Arc<[u8]>,
    not_before: i64,
    not_after: i64,
}

impl Svid {
    /// As `api watch` shows it: without a hint, and with the names of trust domains instead of their SPIFFE IDs.
    pub(super) fn without_origin(self) -> Self {
        let named = |(id, bundle): (&String, &Vec<Parsed>)| {
            (id.strip_prefix("spiffe://").unwrap_or(id).to_owned(), bundle.clone())
        };
        let federated_bundles = Arc::new(self.federated_bundles.iter().map(named).collect());
        Self { hint: String::new(), federated_bundles, ..self }
    }
}

/// Reads an answer and verifies each SVID against the bundle that came with it, at the Unix time `now`.
pub(super) fn parse(response: &X509svidResponse, now: i64) -> anyhow::Result<Vec<Svid>> {
    if response.svids.is_empty() {
        bail!("workload response contains no svids");
    }
    let mut federated = BTreeMap::new();
    for (id, der) in &response.federated_bundles {
        let quoted = go::quote(id);
        let bundle = certificates(der)
            .with_context(|| format!("failed to parse bundle for federated domain {quoted}"))?;
        if bundle.is_empty() {
            bail!("no certificates in bundle for federated domain {quoted}");
        }
        federated.insert(id.clone(), bundle);
    }
    let federated = Arc::new(federated);
    let mut svids = Vec::with_capacity(response.svids.len());
    for (index, svid) in response.svids.iter().enumerate() {
        let context =
            || format!("failed to parse svid entry {index} for spiffe id {}", go::quote(&svid.spiffe_id));
        let read = || -> anyhow::Result<Svid> {
            let chain = certificates(&svid.x509_svid)?;
            if chain.is_empty() {
                bail!("no certificates found");
            }
            if svid.x509_svid_key.is_empty() {
                bail!("failed to parse private key: it is empty");
            }
            let bundle = certificates(&svid.bundle).context("failed to parse trust bundle")?;
            if bundle.is_empty() {
                bail!("no certificates in trust bundle");
            }
            Ok(Svid {
                spiffe_id: svid.spiffe_id.clone(),
                hint: svid.hint.clone(),
                chain,
                private_key: svid.x509_svid_key.clone(),
                bundle,
                federated_bundles: Arc::clone(&federated),
            })
        };
        svids.push(read().with_context(context)?);
    }
    for svid in &svids {
        verify(svid, now)?;
    }
    Ok(svids)
}

fn certificates(der: &[u8]) -> anyhow::Result<Vec<Parsed>> {
    let mut parsed = Vec::new();
    for der in certificate::split(der)? {
        let certificate = Certificate::parse(&der)?;
        parsed.push(Parsed { der, not_before: certificate.not_before, not_after: certificate.not_after });
    }
    Ok(parsed)
}

fn verify(svid: &Svid, now: i64) -> anyhow::Result<()> {
    let id = SpiffeId::parse(&svid.spiffe_id)?;
    let mut roots = TrustRoots::new();
    roots.insert(&id.trust_domain(), svid.bundle.iter().map(|authority| &*authority.der));
    let chain: Vec<_> =
        svid.chain.iter().map(|certificate| CertificateDer::from(&*certificate.der)).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
    let verified = SvidVerifier::new(RootsCell::new(roots)).verify(&chain, now);
    let quoted = go::quote(&svid.spiffe_id);
    let peer = verified.with_context(|| format!("{quoted} SVID failed verification against bundle"))?;
    if peer.id != id {
        bail!("{quoted} SVID failed verification against bundle: its certificate says {}", peer.id);
    }
    Ok(())
}

/// Prints SVIDs that took `elapsed` to come.
pub(super) fn print(svids: &[Svid], elapsed: Duration, console: &mut Console<'_>) -> std::io::Result<()> {
    let plural = if svids.len() == 1 { "" } else { "s" };
    writeln!(console.stdout, "Received {} svid{plural} after {}", svids.len(), go::format_duration(elapsed))?;
    for svid in svids {
        writeln!(console.stdout)?;
        print_one(svid, console)?;
    }
    writeln!(console.stdout)
}

fn print_one(svid: &Svid, console: &mut Console<'_>) -> std::io::Result<()> {
    writeln!(console.stdout, "SPIFFE ID:\t\t{}", svid.spiffe_id)?;
    if !svid.hint.is_empty() {
        writeln!(console.stdout, "Hint:\t\t\t{}", svid.hint)?;
    }
    let numbered = |list: &[Parsed], label: &str| -> Vec<(String, Parsed)> {
        list.iter().enumerate().map(|(index, c)| (format!("{label} #{}", index + 1), c.clone())).collect()
    };
    let (leaf, intermediates) = svid.chain.split_at(1);
    let mut lines: Vec<_> = leaf.iter().map(|leaf| ("SVID".to_owned(), leaf.clone())).collect();
    lines.extend(numbered(intermediates, "Intermediate"));
    lines.extend(numbered(&svid.bundle, "CA"));
    for (trust_domain, bundle) in &*svid.federated_bundles {
        lines.extend(numbered(bundle, &format!("[{trust_domain}] CA")));
    }
    for (label, certificate) in lines {
        writeln!(console.stdout, "{label} Valid After:\t{}", go::time_string(certificate.not_before))?;
        writeln!(console.stdout, "{label} Valid Until:\t{}", go::time_string(certificate.not_after))?;
    }
    Ok(())
}
