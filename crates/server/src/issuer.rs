//! Signs SVIDs with whatever authority is active.
//!
//! Policy only: lifetimes, subjects, claims. The authorities are swapped by their rotation; a signature never waits for
//! anything but the key.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use vouchsafe_ca::jwt::{JwtError, JwtKey, JwtTemplate, SignedJwt, sign_jwt_svid};
use vouchsafe_ca::x509::authority::X509Ca;
use vouchsafe_ca::x509::svid::{IssueError, Issued, SvidTemplate, issue_svid};
use vouchsafe_ca::x509::{DownstreamTemplate, Subject, issue_downstream_ca};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::{Counter, Registry};
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::config::Config;
use crate::limits::processor::Processor;

/// Lifetimes and claims that the operator chose.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Lifetime of an X.509-SVID whose entry names none.
    pub x509_svid_ttl: Duration,
    /// Lifetime of a JWT-SVID whose entry names none.
    pub jwt_svid_ttl: Duration,
    /// Lifetime of an agent's SVID.
    pub agent_ttl: Duration,
    /// `iss` of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
}

/// The active authorities and the policy.
pub(crate) struct Issuer {
    pub(crate) policy: Policy,
    /// Whether JWT-SVIDs are issued at all.
    pub(crate) has_jwt: bool,
    /// Where calls wait that ask for signatures.
    pub(crate) processor: Arc<Processor>,
    ca_ttl: Duration,
    clock: Clock,
    x509: ArcSwapOption<X509Ca>,
    jwt: ArcSwapOption<JwtKey>,
    signed_x509: Counter,
    signed_jwt: Counter,
    signed_ca: Counter,
}

/// Nothing was signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// There is no active authority yet.
    #[error("no {0} authority is active yet")]
    NoAuthority(&'static str),
    /// The X.509 authority refused.
    #[error(transparent)]
    X509(IssueError),
    /// The JWT authority refused.
    #[error(transparent)]
    Jwt(JwtError),
}

impl Issuer {
    pub(crate) fn new(config: &Config, clock: Clock, metrics: &Registry) -> Self {
        Self {
            policy: config.policy.clone(),
            has_jwt: !config.disable_jwt_svids,
            processor: Processor::new(metrics),
            ca_ttl: config.ca_ttl,
            clock,
            x509: ArcSwapOption::empty(),
            jwt: ArcSwapOption::empty(),
            signed_x509: metrics.counter("server_ca_sign_x509_svid", &[]),
            signed_jwt: metrics.counter("server_ca_sign_jwt_svid", &[]),
            signed_ca: metrics.counter("server_ca_sign_x509_ca_svid", &[]),
        }
    }

    /// Identifier of the authority that signs X.509-SVIDs now.
    pub(crate) fn x509_authority_id(&self) -> Option<String> {
        self.x509.load().as_ref().map(|ca| ca.authority_id().to_owned())
    }

    pub(crate) fn activate_x509(&self, authority: Arc<X509Ca>) {
        self.x509.store(Some(authority));
    }

    pub(crate) fn activate_jwt(&self, key: Arc<JwtKey>) {
        self.jwt.store(Some(key));
    }

    /// A workload's X.509-SVID. A TTL of zero means the default.
    pub(crate) async fn workload_x509(
        &self,
        id: &SpiffeId,
        public_key_der: &[u8],
        dns_names: &[String],
        ttl_secs: u32,
        subject: Option<&Subject>,
    ) -> Result<Issued, SignError> {
        let ttl = ttl_or(ttl_secs, self.policy.x509_svid_ttl);
        self.x509(id, public_key_der, dns_names, ttl, subject).await
    }

    /// An agent's X.509-SVID.
    pub(crate) async fn agent_x509(&self, id: &SpiffeId, public_key_der: &[u8]) -> Result<Issued, SignError> {
        self.x509(id, public_key_der, &[], self.policy.agent_ttl, None).await
    }

    /// The CA certificate of a downstream server. A TTL of zero means that of this server's own authorities.
    pub(crate) async fn downstream_x509_ca(
        &self,
        public_key_der: &[u8],
        ttl_secs: u32,
    ) -> Result<Issued, SignError> {
        let ca = self.x509.load_full().ok_or(SignError::NoAuthority("X.509"))?;
        let ttl = ttl_or(ttl_secs, self.ca_ttl);
        let template = DownstreamTemplate { public_key_der, ttl, now: self.clock.now() };
        let issued = issue_downstream_ca(&ca, &template).await.map_err(SignError::X509)?;
        self.signed_ca.inc();
        Ok(issued)
    }

    /// A JWT-SVID. A TTL of zero means the default.
    pub(crate) async fn jwt(
        &self,
        spiffe_id: &SpiffeId,
        audience: &[String],
        ttl_secs: u32,
        jti: Option<&str>,
    ) -> Result<SignedJwt, SignError> {
        let key = self.jwt.load_full().ok_or(SignError::NoAuthority("JWT"))?;
        let ttl = ttl_or(ttl_secs, self.policy.jwt_svid_ttl);
        let issuer = self.policy.jwt_issuer.as_deref();
        let template = JwtTemplate { spiffe_id, audience, ttl, now: self.clock.now(), issuer, jti };
        let signed = sign_jwt_svid(&key, &template).await.map_err(SignError::Jwt)?;
        self.signed_jwt.inc();
        Ok(signed)
    }

    async fn x509(
        &self,
        spiffe_id: &SpiffeId,
        public_key_der: &[u8],
        dns_names: &[String],
        ttl: Duration,
        subject: Option<&Subject>,
    ) -> Result<Issued, SignError> {
        let ca = self.x509.load_full().ok_or(SignError::NoAuthority("X.509"))?;
        let now = self.clock.now();
        let template = SvidTemplate { spiffe_id, public_key_der, dns_names, ttl, now, subject };
        let issued = issue_svid(&ca, &template).await.map_err(SignError::X509)?;
        self.signed_x509.inc();
        Ok(issued)
    }
}

fn ttl_or(secs: u32, default: Duration) -> Duration {
    if secs == 0 { default } else { Duration::from_secs(secs.into()) }
}
