//! X509-SVIDs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vouchsafe_types::spiffe_id::SpiffeId;

use super::authority::X509Ca;
use super::profile::{Name, SVID_SUBJECT, Tbs};
use super::{Subject, backdate_secs};
use crate::der::reader::DerError;
use crate::der::{Writer, tag, time};
use crate::public_key::{PublicKeyError, subject_key_id};
use crate::random::{NoEntropy, serial_number};
use crate::signer::{self, SignError, Signature};
use vouchsafe_runtime::class::Class;

/// What an SVID should say.
#[derive(Clone, Copy, Debug)]
pub struct SvidTemplate<'a> {
    /// Whose it is: a member of the authority's trust domain, with a path.
    pub spiffe_id: &'a SpiffeId,
    /// SubjectPublicKeyInfo, DER, copied as it is: parse it first ([`crate::x509::csr::parse_csr`]).
    pub public_key_der: &'a [u8],
    /// Valid DNS names; the first also becomes the common name.
    pub dns_names: &'a [String],
    /// How long it should live, from `now`; cut at the end of the authority.
    pub ttl: Duration,
    /// The time of issue.
    pub now: SystemTime,
    /// The subject, instead of `C=US, O=SPIRE`. An empty one counts as none.
    pub subject: Option<&'a Subject>,
}

/// An SVID that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The SVID first, then what leads to a root of the bundle, without that root.
    pub chain: Vec<Arc<[u8]>>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// Serial number, decimal.
    pub serial: String,
}

/// No SVID was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Not an id of this trust domain.
    #[error("invalid X509-SVID ID: {id:?} is not a member of trust domain {trust_domain:?}")]
    ForeignId {
        /// The id.
        id: String,
        /// Our trust domain.
        trust_domain: String,
    },
    /// The id names the trust domain itself.
    #[error("invalid X509-SVID ID: {id:?} is not a member of trust domain {trust_domain:?}; path is empty")]
    NoPath {
        /// The id.
        id: String,
        /// Our trust domain.
        trust_domain: String,
    },
    /// A DNS name that cannot be in a certificate.
    #[error("DNS name {0:?} is not usable in a certificate")]
    DnsName(String),
    /// The authority's name cannot be made a name below it.
    #[error("name of the authority is not usable")]
    Subject(#[source] DerError),
    /// The public key is none.
    #[error("public key is not usable")]
    PublicKey(#[source] PublicKeyError),
    /// The authority has ended, or the TTL is zero.
    #[error("X509-SVID would end at {not_after}, which is not after now ({now}): is the clock right?")]
    Expired {
        /// End of the SVID, in seconds since 1970.
        not_after: i64,
        /// Now, in seconds since 1970.
        now: i64,
    },
    /// No random serial number.
    #[error("no serial number")]
    Serial(#[source] NoEntropy),
    /// The key did not sign.
    #[error("failed to sign X509 SVID")]
    Sign(#[source] SignError),
}

impl IssueError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::ForeignId { .. } | Self::NoPath { .. } | Self::DnsName(_) | Self::PublicKey(_) => {
                Class::Caller
            }
            Self::Subject(_) => Class::Permanent,
            Self::Expired { .. } | Self::Serial(_) => Class::Transient,
            Self::Sign(error) => error.class(),
        }
    }
}

/// Issues an SVID; signs on the spot if the key is in this process.
///
/// # Errors
///
/// [`IssueError`]; nothing is recorded anywhere, so any retry is safe.
pub async fn issue_svid(ca: &X509Ca, template: &SvidTemplate<'_>) -> Result<Issued, IssueError> {
    let draft = Draft::new(ca, template)?;
    let signed = signer::sign(ca.signer(), draft.message()).await;
    Ok(draft.finish(ca, &signed.map_err(IssueError::Sign)?))
}

/// Issues an SVID without waiting, or gives `None` if the authority's key is elsewhere.
pub fn issue_svid_now(ca: &X509Ca, template: &SvidTemplate<'_>) -> Option<Result<Issued, IssueError>> {
    let draft = match Draft::new(ca, template) {
        Ok(draft) => draft,
        Err(error) => return Some(Err(error)),
    };
    let signed = ca.signer().sign_now(draft.message())?;
    Some(signed.map(|signature| draft.finish(ca, &signature)).map_err(IssueError::Sign))
}

/// A certificate that lacks only its signature: an open outer SEQUENCE with the TBSCertificate in it.
struct Draft {
    certificate: OpenCertificate,
    not_after: i64,
    serial: u128,
}

impl Draft {
    fn new(ca: &X509Ca, template: &SvidTemplate<'_>) -> Result<Self, IssueError> {
        check_member(ca, template.spiffe_id)?;
        if let Some(name) = template.dns_names.iter().find(|name| name.is_empty() || !name.is_ascii()) {
            return Err(IssueError::DnsName(name.clone()));
        }
        let now = time::unix(template.now);
        let ttl = i64::try_from(template.ttl.as_secs()).unwrap_or(i64::MAX);
        let not_after = now.saturating_add(ttl).min(ca.not_after());
        if not_after <= now {
            return Err(IssueError::Expired { not_after, now });
        }
        let serial = serial_number().map_err(IssueError::Serial)?;
        let subject_key_id = subject_key_id(template.public_key_der).map_err(IssueError::PublicKey)?;
        let subject = subject(template);
        let certificate = OpenCertificate::new(&Tbs {
            serial,
            algorithm: ca.signer().algorithm(),
            issuer: Name::Copied(ca.subject_raw()),
            not_before: now.saturating_sub(backdate_secs(not_after.saturating_sub(now))),
            not_after,
            subject: subject.as_ref().map_or(Name::Copied(SVID_SUBJECT), Name::Written),
            public_key_der: template.public_key_der,
            is_ca: false,
            subject_key_id: &subject_key_id,
            authority_key_id: Some(ca.subject_key_id()),
            uri: template.spiffe_id.as_str(),
            dns_names: template.dns_names,
        });
        Ok(Self { certificate, not_after, serial })
    }

    fn message(&self) -> &[u8] {
        self.certificate.message()
    }

    fn finish(self, ca: &X509Ca, signature: &Signature) -> Issued {
        let leaf = self.certificate.finish(ca.signer().algorithm().identifier(), signature);
        let mut chain = Vec::with_capacity(1 + ca.chain().len());
        chain.push(Arc::from(leaf));
        chain.extend(ca.chain().iter().cloned());
        Issued { chain, not_after: self.not_after, serial: self.serial.to_string() }
    }
}

/// The subject, unless it is the default one.
fn subject(template: &SvidTemplate<'_>) -> Option<Subject> {
    let given = template.subject.filter(|subject| !subject.is_empty());
    let Some(first) = template.dns_names.first() else { return given.cloned() };
    let base = given.cloned().unwrap_or_else(Subject::svid_default);
    Some(Subject { common_name: first.clone(), ..base })
}

fn check_member(ca: &X509Ca, id: &SpiffeId) -> Result<(), IssueError> {
    let names = || (id.as_str().to_owned(), ca.trust_domain().as_str().to_owned());
    if !id.is_member_of(ca.trust_domain()) {
        let (id, trust_domain) = names();
        return Err(IssueError::ForeignId { id, trust_domain });
    }
    if id.path().is_empty() {
        let (id, trust_domain) = names();
        return Err(IssueError::NoPath { id, trust_domain });
    }
    Ok(())
}

/// A certificate or request in the making: one buffer, signed from its middle.
pub(super) struct OpenCertificate {
    writer: Writer,
    outer: crate::der::Open,
    start: usize,
}

impl OpenCertificate {
    pub(super) fn new(tbs: &Tbs<'_>) -> Self {
        let names = tbs.uri.len() + tbs.dns_names.iter().map(|name| name.len() + 4).sum::<usize>();
        let room = ROOM + tbs.public_key_der.len() + names;
        Self::with_content(room, |writer| tbs.write(writer))
    }

    pub(super) fn with_content(room: usize, write: impl FnOnce(&mut Writer)) -> Self {
        let mut writer = Writer::with_capacity(room);
        let outer = writer.begin(tag::SEQUENCE);
        let start = writer.position();
        write(&mut writer);
        Self { writer, outer, start }
    }

    /// What is signed.
    pub(super) fn message(&self) -> &[u8] {
        &self.writer.bytes()[self.start..]
    }

    pub(super) fn finish(mut self, algorithm: &[u8], signature: &Signature) -> Vec<u8> {
        self.writer.raw(algorithm);
        self.writer.bit_string(signature.as_der());
        self.writer.end(self.outer);
        self.writer.into_bytes()
    }
}

/// Room for a certificate with an ECDSA signature and ordinary names; others grow once.
const ROOM: usize = 640;
