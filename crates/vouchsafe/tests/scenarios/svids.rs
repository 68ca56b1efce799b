//! What a workload got, verified as a peer would.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::verify::SvidVerifier;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::bundle::format;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::pem;
use vouchsafe_types::trust_domain::TrustDomain;
use vouchsafe_types::x509_svid::X509Svid;

/// An X.509-SVID that was written by `api fetch x509 -write`.
pub(crate) struct Fetched {
    pub(crate) svid: X509Svid,
    /// Subject key identifiers of the bundle's authorities, in hex.
    pub(crate) authorities: Vec<String>,
    /// Subject key identifier of the authority that signed the leaf, in hex.
    pub(crate) signed_by: String,
}

/// Reads `svid.<n>.pem` and `bundle.<n>.pem` in `folder`; the chain must verify with the bundle.
pub(crate) fn read(folder: &Path, n: usize) -> Fetched {
    let chain = certificates(&std::fs::read(folder.join(format!("svid.{n}.pem"))).unwrap());
    let bundle = std::fs::read(folder.join(format!("bundle.{n}.pem"))).unwrap();
    let parsed = X509Svid::parse(chain.clone()).unwrap();
    let svid = verify(&chain, &parsed.id.trust_domain(), &bundle).unwrap();
    let roots = pem::parse(&bundle).unwrap();
    let authorities =
        roots.iter().map(|root| Certificate::parse(&root.der).unwrap().authority_id()).collect();
    let signed_by = Certificate::parse(&chain[0]).unwrap().issuer_authority_id();
    Fetched { svid, authorities, signed_by }
}

/// The certificates of a PEM text.
pub(crate) fn certificates(text: &[u8]) -> Vec<Arc<[u8]>> {
    pem::parse(text).unwrap().into_iter().map(|block| block.der.as_slice().into()).collect()
}

/// Verifies `chain` by a PEM bundle of `trust_domain`, now.
pub(crate) fn verify(
    chain: &[Arc<[u8]>],
    trust_domain: &TrustDomain,
    bundle: &[u8],
) -> Result<X509Svid, String> {
    let bundle = format::from_pem(trust_domain, bundle).unwrap();
    let verifier = SvidVerifier::new(RootsCell::new(TrustRoots::of([&bundle])));
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let now = Duration::from_secs(u64::try_from(Clock::system().unix_now()).unwrap());
    verifier.verify(&chain, UnixTime::since_unix_epoch(now)).map_err(|error| error.to_string())
}
