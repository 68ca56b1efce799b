//! Chains of a foreign PKI: certificates of nodes, which need not be X.509-SVIDs.

use std::cell::RefCell;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use vouchsafe_types::certificate::Certificate;
use webpki::{EndEntityCert, VerifiedPath};

use crate::verify::{AnyUsage, algorithms};

/// The authorities of a PKI.
#[derive(Clone, Default)]
pub struct Authorities {
    held: Vec<Held>,
}

#[derive(Clone)]
struct Held {
    anchor: TrustAnchor<'static>,
    der: Arc<[u8]>,
    /// Its life, in seconds since 1970.
    not_before: i64,
    not_after: i64,
}

impl Held {
    fn is_valid(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

impl Authorities {
    /// Believes these certificates (DER). One that cannot be read as an authority is left out with a warning.
    #[must_use]
    pub fn new(certificates: impl IntoIterator<Item = Arc<[u8]>>) -> Self {
        let mut held = Vec::new();
        for der in certificates {
            let anchor =
                webpki::anchor_from_trusted_cert(&CertificateDer::from(&*der)).map(|it| it.to_owned());
            match (anchor, Certificate::parse(&der)) {
                (Ok(anchor), Ok(Certificate { not_before, not_after, .. })) => {
                    held.push(Held { anchor, der, not_before, not_after });
                }
                (Err(error), _) => tracing::warn!(%error, "authority of a PKI is unusable"),
                (_, Err(error)) => tracing::warn!(%error, "authority of a PKI is unusable"),
            }
        }
        Self { held }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Every certificate besides the leaf on every path that leads from the first of `chain` to one of the
    /// authorities at `now`, each once. Names, and what the certificates may be used for, are not looked at.
    ///
    /// A leaf that is itself one of the authorities needs no path, and an authority whose life has ended or not begun is
    /// none, as in Go.
    ///
    /// # Errors
    ///
    /// [`PathError`] when there is no path. webpki bounds the search.
    pub fn issuers_of(&self, chain: &[Arc<[u8]>], now: UnixTime) -> Result<Vec<Arc<[u8]>>, PathError> {
        let [leaf, intermediates @ ..] = chain else { return Err(PathError::UnknownAuthority) };
        let unix = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if let Some(itself) = self.held.iter().find(|held| held.der == *leaf) {
            return if itself.is_valid(unix) { Ok(Vec::new()) } else { Err(PathError::NotValidNow) };
        }
        let leaf = CertificateDer::from(&**leaf);
        let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(&**der)).collect();
        let valid: Vec<_> = self.held.iter().filter(|held| held.is_valid(unix)).collect();
        let anchors: Vec<_> = valid.iter().map(|held| held.anchor.clone()).collect();
        let found: RefCell<Vec<Arc<[u8]>>> = RefCell::default();
        // Refusing each path makes webpki look for the next one.
        let collect = |path: &VerifiedPath<'_>| {
            let between = path.intermediate_certificates().map(|certificate| Arc::from(&*certificate.der()));
            let root = path.anchor();
            let roots = valid.iter().filter(|held| {
                held.anchor.subject == root.subject
                    && held.anchor.subject_public_key_info == root.subject_public_key_info
            });
            let mut found = found.borrow_mut();
            for der in between.chain(roots.map(|held| held.der.clone())) {
                if !found.contains(&der) {
                    found.push(der);
                }
            }
            Err(webpki::Error::UnknownIssuer)
        };
        let leaf = EndEntityCert::try_from(&leaf).map_err(PathError::of)?;
        let searched = leaf.verify_for_usage(
            algorithms(),
            &anchors,
            &intermediates,
            now,
            AnyUsage,
            None,
            Some(&collect),
        );
        let error = searched.err().map_or(PathError::UnknownAuthority, PathError::of);
        let found = found.into_inner();
        if found.is_empty() { Err(error) } else { Ok(found) }
    }
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities").field("certificates", &self.held.len()).finish()
    }
}

/// Why a certificate leads to no authority. The texts are Go's, which operators search for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nobody that we believe has signed it.
    #[error("x509: certificate signed by unknown authority")]
    UnknownAuthority,
    /// Its life, or that of a certificate on the path, has ended or not begun.
    #[error("x509: certificate has expired or is not yet valid")]
    NotValidNow,
    /// Another reason.
    #[error("x509: {0}")]
    Other(webpki::Error),
}

impl PathError {
    fn of(error: webpki::Error) -> Self {
        match error {
            // An authority of the same name has another key.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Self::UnknownAuthority
            }
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => Self::NotValidNow,
            error => Self::Other(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    use std::time::{Duration, SystemTime};

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
    }

    fn params(name: &str, ca: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
        params
    }

    fn root(name: &str) -> (Issuer<'static, KeyPair>, Arc<[u8]>) {
        let key = KeyPair::generate().unwrap();
        let params = params(name, true);
        let der = Arc::from(&**params.self_signed(&key).unwrap().der());
        (Issuer::new(params, key), der)
    }

    fn under(
        issuer: &Issuer<'_, KeyPair>,
        params: CertificateParams,
    ) -> (Issuer<'static, KeyPair>, Arc<[u8]>) {
        let key = KeyPair::generate().unwrap();
        let der = Arc::from(&**params.signed_by(&key, issuer).unwrap().der());
        (Issuer::new(params, key), der)
    }

    #[test]
    fn every_certificate_of_the_path_but_the_leaf_is_told() {
        let (root_key, root_der) = root("root");
        let (middle_key, middle_der) = under(&root_key, params("middle", true));
        let (_, leaf) = under(&middle_key, params("leaf", false));
        let (_, unrelated) = under(&root_key, params("unrelated", true));
        let authorities = Authorities::new([root_der.clone(), root("other").1]);
        let chain = [leaf, middle_der.clone(), unrelated];
        assert_eq!(authorities.issuers_of(&chain, now()).unwrap(), [middle_der, root_der]);
    }

    #[test]
    fn a_path_may_end_at_an_intermediate_that_is_believed() {
        let (root_key, root_der) = root("root");
        let (middle_key, middle_der) = under(&root_key, params("middle", true));
        let (_, leaf) = under(&middle_key, params("leaf", false));
        let both = Authorities::new([root_der.clone(), middle_der.clone()]);
        let found = both.issuers_of(&[leaf.clone(), middle_der.clone()], now()).unwrap();
        assert_eq!(found, [middle_der.clone(), root_der], "both paths");
        let found = Authorities::new([middle_der.clone()]).issuers_of(&[leaf], now()).unwrap();
        assert_eq!(found, [middle_der]);
    }

    #[test]
    fn a_leaf_that_is_believed_itself_needs_no_path() {
        let (_, leaf) = root("self");
        assert_eq!(
            Authorities::new([leaf.clone()]).issuers_of(&[leaf], now()).unwrap(),
            [] as [Arc<[u8]>; 0]
        );
    }

    #[test]
    fn an_authority_whose_life_has_ended_vouches_for_nobody() {
        let key = KeyPair::generate().unwrap();
        let mut ended = params("ended", true);
        ended.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).into();
        let root: Arc<[u8]> = Arc::from(&**ended.self_signed(&key).unwrap().der());
        let (_, leaf) = under(&Issuer::new(ended, key), params("leaf", false));
        let authorities = Authorities::new([root.clone()]);
        assert!(authorities.issuers_of(&[leaf], now()).is_err());
        assert!(
            matches!(authorities.issuers_of(&[root], now()), Err(PathError::NotValidNow)),
            "nor for itself"
        );
    }

    #[test]
    fn what_leads_nowhere_is_refused_with_the_reason() {
        let (root_key, root_der) = root("root");
        let (_, leaf) = under(&root_key, params("leaf", false));
        let stranger = Authorities::new([root("root").1]);
        let refused = stranger.issuers_of(std::slice::from_ref(&leaf), now()).unwrap_err();
        assert_eq!(refused.to_string(), "x509: certificate signed by unknown authority");
        let mut old = params("old", false);
        old.not_after = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).into();
        let (_, old) = under(&root_key, old);
        let authorities = Authorities::new([root_der]);
        let refused = authorities.issuers_of(&[old], now()).unwrap_err();
        assert_eq!(refused.to_string(), "x509: certificate has expired or is not yet valid");
        assert!(Authorities::default().issuers_of(&[leaf], now()).is_err());
        assert!(authorities.issuers_of(&[Arc::from(&b"x"[..])], now()).is_err());
        assert!(authorities.issuers_of(&[], now()).is_err());
    }
}
