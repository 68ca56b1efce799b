//! CA certificates for servers below this one, and for this one by a CA in files.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::authority::X509Ca;
use super::profile::{Name, Tbs};
use super::svid::{IssueError, Issued, OpenCertificate};
use super::{MAX_BACKDATE_SECS, Subject};
use crate::der::time;
use crate::public_key::subject_key_id;
use crate::random::serial_number;
use crate::signer::{self, Signer};

/// What the CA certificate of a downstream server should say.
#[derive(Clone, Copy, Debug)]
pub struct DownstreamTemplate<'a> {
    /// SubjectPublicKeyInfo, DER, copied as it is: parse it first ([`crate::x509::csr::parse_csr`]).
    pub public_key_der: &'a [u8],
    /// How long it should live, from `now`; cut at the end of the authority.
    pub ttl: Duration,
    /// The time of issue.
    pub now: SystemTime,
}

/// Certifies the CA of a downstream server. Its name is that of `ca` with `OU=DOWNSTREAM-<n>`, where n counts the CAs
/// from `ca` to the root, of which only a self-signed `ca` is counted itself: the first two levels share n = 1, as with
/// the reference.
///
/// # Errors
///
/// [`IssueError`]; nothing is recorded anywhere, so any retry is safe.
pub async fn issue_downstream_ca(
    ca: &X509Ca,
    template: &DownstreamTemplate<'_>,
) -> Result<Issued, IssueError> {
    let mut subject = Subject::parse(ca.subject_raw()).map_err(IssueError::Subject)?;
    subject.organizational_unit = vec![format!("DOWNSTREAM-{}", ca.chain().len().max(1))];
    let issuer = CaIssuer {
        signer: ca.signer(),
        subject_raw: ca.subject_raw(),
        subject_key_id: Some(ca.subject_key_id()),
        not_after: ca.not_after(),
    };
    let uri = ca.trust_domain().id_string();
    let request = CaRequest {
        subject: Name::Written(&subject),
        public_key_der: template.public_key_der,
        uri: &uri,
        ttl: template.ttl,
        now: time::unix(template.now),
    };
    let mut issued = certify(&issuer, &request).await?;
    issued.chain.extend(ca.chain().iter().cloned());
    Ok(issued)
}

/// Who certifies a CA.
pub(crate) struct CaIssuer<'a> {
    pub(crate) signer: &'a dyn Signer,
    pub(crate) subject_raw: &'a [u8],
    pub(crate) subject_key_id: Option<&'a [u8]>,
    pub(crate) not_after: i64,
}

/// A CA that asks to be certified.
pub(crate) struct CaRequest<'a> {
    pub(super) subject: Name<'a>,
    pub(super) public_key_der: &'a [u8],
    pub(super) uri: &'a str,
    pub(super) ttl: Duration,
    pub(super) now: i64,
}

impl<'a> CaRequest<'a> {
    /// What a CSR asks for.
    pub(crate) fn of(csr: &'a super::csr::Csr, uri: &'a str, ttl: Duration, now: i64) -> Self {
        Self { subject: Name::Copied(&csr.subject_raw), public_key_der: &csr.public_key_der, uri, ttl, now }
    }
}

/// A CA certificate by `issuer`, alone in its chain.
pub(crate) async fn certify(issuer: &CaIssuer<'_>, request: &CaRequest<'_>) -> Result<Issued, IssueError> {
    let now = request.now;
    let ttl = i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX);
    let not_after = now.saturating_add(ttl).min(issuer.not_after);
    if not_after <= now {
        return Err(IssueError::Expired { not_after, now });
    }
    let serial = serial_number().map_err(IssueError::Serial)?;
    let subject_key_id = subject_key_id(request.public_key_der).map_err(IssueError::PublicKey)?;
    let certificate = OpenCertificate::new(&Tbs {
        serial,
        algorithm: issuer.signer.algorithm(),
        issuer: Name::Copied(issuer.subject_raw),
        not_before: now.saturating_sub(MAX_BACKDATE_SECS),
        not_after,
        subject: request.subject,
        public_key_der: request.public_key_der,
        is_ca: true,
        subject_key_id: &subject_key_id,
        authority_key_id: issuer.subject_key_id,
        uri: request.uri,
        dns_names: &[],
    });
    let signature = signer::sign(issuer.signer, certificate.message()).await.map_err(IssueError::Sign)?;
    let der: Arc<[u8]> = certificate.finish(issuer.signer.algorithm().identifier(), &signature).into();
    Ok(Issued { chain: vec![der], not_after, serial: serial.to_string() })
}
