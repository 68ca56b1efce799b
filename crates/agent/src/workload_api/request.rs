//! What every method of the Workload API does first: security header, readiness, attestation.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use tracing::error;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::{Counter, Gauge};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::attest::Attestors;
use crate::callers::{Attested, Caller};
use crate::identities::Identities;
use crate::identity_set::{IdentitySet, IdentitySets};
use crate::jwt_issue::JwtIssuer;
use crate::limits::{CallerLimits, Limited};
use crate::refusals::Refusals;
use crate::status::Serving;
use crate::sync_loop::SyncSoon;

/// What the methods answer from.
#[derive(Debug)]
pub struct Api {
    /// Entries, SVIDs, bundles.
    pub identities: Arc<Identities>,
    /// Encoded answers.
    pub sets: IdentitySets,
    /// Who callers are.
    pub attestors: Attestors,
    /// JWT-SVIDs.
    pub jwt: JwtIssuer,
    /// Wall time.
    pub clock: Clock,
    /// Whether there is something to answer from.
    pub serving: Serving,
    /// The agent's own trust domain.
    pub trust_domain: TrustDomain,
    /// Callers without identity get the own trust domain's bundle.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of tokens of other trust domains that `ValidateJWTSVID` returns, besides `sub`, `aud` and `exp`.
    pub allowed_foreign_jwt_claims: HashSet<String>,
    /// Which selectors of a caller without identity may appear in the log.
    pub log_selectors: Vec<String>,
    /// `workload_api_connection(s)`.
    pub connections: Connections,
    /// For callers whose entry is not known yet.
    pub soon: SyncSoon,
    /// How often a caller may ask.
    pub limits: CallerLimits,
    /// Who was refused lately.
    pub refusals: Refusals,
}

/// A caller whose request may be answered.
#[derive(Debug)]
pub struct Known {
    /// What it is.
    pub attested: Arc<Attested>,
    /// What it may have.
    pub set: Arc<IdentitySet>,
}

impl Api {
    /// Says who asks, or why there is no answer.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub async fn admit<T>(&self, request: &Request<T>) -> Result<Known, Status> {
        check_security_header(request.metadata())?;
        self.admit_checked(request).await
    }

    /// [`Api::admit`] for a request whose security header was checked already.
    ///
    /// # Errors
    ///
    /// The status to answer with.
    pub async fn admit_checked<T>(&self, request: &Request<T>) -> Result<Known, Status> {
        let caller = request
            .extensions()
            .get::<Arc<Caller>>()
            .ok_or_else(|| Status::internal("the connection does not say which process it belongs to"))?;
        self.serving.check()?;
        let attested = caller
            .attested(&self.attestors)
            .await
            .map_err(|_| Status::unavailable("workload attestation failed"))?;
        let set = self.identities_of(&attested);
        Ok(Known { attested, set })
    }

    /// Counts the request of `known` against what it may ask.
    ///
    /// # Errors
    ///
    /// `Unavailable`, when it asked too often.
    pub fn check_rate(&self, method: Limited, known: &Known) -> Result<(), Status> {
        self.limits.check(method, &known.attested.selectors, known.attested.pid)
    }

    /// The identities of `attested` now.
    #[must_use]
    pub fn identities_of(&self, attested: &Attested) -> Arc<IdentitySet> {
        attested.identities(&self.identities, &self.sets)
    }

    /// Logs and returns the answer for a caller without identity, and looks for news.
    #[must_use]
    pub fn no_identity(&self, attested: &Attested) -> Status {
        self.soon.ask();
        self.log_refusal(attested);
        Status::permission_denied("no identity issued")
    }

    /// Tells the operator, as often as [`Refusals`] lets it.
    fn log_refusal(&self, attested: &Attested) {
        let Some(unlogged) = self.refusals.note(attested.pid) else { return };
        let shown: Vec<_> = attested
            .selectors
            .iter()
            .map(vouchsafe_types::selector::Selector::as_str)
            .filter(|selector| self.log_selectors.iter().any(|prefix| is_under(selector, prefix)))
            .collect();
        let selectors = (!shown.is_empty()).then(|| shown.join(","));
        let unlogged = (unlogged > 0).then_some(unlogged);
        error!(registered = false, pid = attested.pid, selectors, unlogged, "No identity issued");
    }
}

/// `workload.spiffe.io: true`, once: without it a browser could be made to send requests.
///
/// # Errors
///
/// `InvalidArgument`, when it is missing, there twice, or something else.
pub fn check_security_header(metadata: &MetadataMap) -> Result<(), Status> {
    let mut values = metadata.get_all("workload.spiffe.io").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_encoded_bytes() == b"true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

fn is_under(selector: &str, prefix: &str) -> bool {
    selector.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Counts the RPCs that are open.
#[derive(Debug)]
pub struct Connections {
    opened: Counter,
    open: Gauge,
    count: AtomicI64,
}

impl Connections {
    /// Counts in these: `<api>_connection` and `<api>_connections`.
    #[must_use]
    pub fn new((opened, open): (Counter, Gauge)) -> Self {
        Self { opened, open, count: AtomicI64::new(0) }
    }

    /// One more.
    pub fn opened(&self) {
        self.opened.inc();
        self.open.set((self.count.fetch_add(1, Ordering::Relaxed) + 1) as f64);
    }

    /// One less.
    pub fn closed(&self) {
        self.open.set((self.count.fetch_sub(1, Ordering::Relaxed) - 1) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_security_header_must_be_there_exactly_once() {
        let check = |values: &[&'static str], good: bool| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append("workload.spiffe.io", value.parse().unwrap());
            }
            let outcome = check_security_header(&metadata);
            assert_eq!(outcome.is_ok(), good, "{values:?}");
            if let Err(status) = outcome {
                assert_eq!(status.code(), tonic::Code::InvalidArgument);
                assert_eq!(status.message(), "security header missing from request");
            }
        };
        check(&["true"], true);
        check(&[], false);
        check(&["true", "true"], false);
        check(&["false"], false);
        check(&["True"], false);
    }

    #[test]
    fn a_selector_is_logged_under_itself_and_its_prefixes() {
        assert!(is_under("k8s:ns:default", "k8s:ns") && is_under("k8s:ns", "k8s:ns"));
        assert!(!is_under("k8s:nsx", "k8s:ns"));
    }
}
