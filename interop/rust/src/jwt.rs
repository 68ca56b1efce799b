//! Asks for a JWT-SVID again and again; each is validated by the Workload API and by the crate `spiffe` itself.

use crate::Failure;
use crate::report::{Report, must_env};
use spiffe::{JwtBundleSet, JwtSvid, SpiffeId, WorkloadApiClient, WorkloadApiError};
use std::collections::BTreeSet;

pub const AUDIENCE: &str = "interop-audience";

pub struct JwtProbe {
    id: SpiffeId,
    tokens: BTreeSet<String>,
    keys: BTreeSet<String>,
    last: String,
    local: u32,
}

impl JwtProbe {
    pub fn new() -> Result<Self, Failure> {
        let id = SpiffeId::new(must_env("INTEROP_ID")?)?;
        Ok(Self { id, tokens: BTreeSet::new(), keys: BTreeSet::new(), last: String::new(), local: 0 })
    }

    pub async fn tick(
        &mut self,
        report: &mut Report,
        client: &WorkloadApiClient,
        bundles: Option<&JwtBundleSet>,
    ) {
        let svid = match client.fetch_jwt_svid([AUDIENCE], Some(&self.id)).await {
            Ok(svid) if *svid.spiffe_id() == self.id => svid,
            Ok(svid) => return report.fail("jwt.fetch", format!("got {}", svid.spiffe_id())),
            Err(failure) => return report.fail("jwt.fetch", failure),
        };
        svid.token().clone_into(&mut self.last);
        self.tokens.insert(self.last.clone());
        self.keys.insert(svid.key_id().to_owned());
        if let Err(failure) = client.validate_jwt_token(AUDIENCE, &self.last).await {
            report.fail("jwt.validate.api", failure);
        }
        if let Some(bundles) = bundles {
            if let Err(failure) = JwtSvid::parse_and_validate(&self.last, bundles, &[AUDIENCE]) {
                report.fail("jwt.validate.local", failure);
            }
            self.local += 1;
        }
    }

    pub fn enough(&self) -> bool {
        self.tokens.len() >= 2 && self.keys.len() >= 2 && self.local > 0
    }

    pub async fn settle(&self, report: &mut Report, client: &WorkloadApiClient) {
        let (tokens, keys) = (self.tokens.len(), self.keys.len());
        report.settle("jwt.fetch", tokens >= 2 && keys >= 2, format!("{tokens} tokens of {keys} keys"));
        report.settle("jwt.validate.api", tokens > 0, format!("{tokens} tokens"));
        report.settle("jwt.validate.local", self.local > 0, format!("{} times", self.local));
        self.reject(report, client).await;
    }

    /// Proves that validation can say no: to another audience and to a changed signature.
    async fn reject(&self, report: &mut Report, client: &WorkloadApiClient) {
        let Some(tampered) = tamper(&self.last) else {
            return report.fail("jwt.reject", "no token to change");
        };
        for (what, token, audience) in
            [("another audience", &self.last, "someone-else"), ("a changed signature", &tampered, AUDIENCE)]
        {
            match client.validate_jwt_token(audience, token).await {
                Err(failure) if WorkloadApiError::is_invalid_argument(&failure) => {}
                other => report.fail("jwt.reject", format!("{what}: {other:?}")),
            }
        }
        report.ok("jwt.reject", "InvalidArgument");
    }
}

/// Changes the first character of the signature.
fn tamper(token: &str) -> Option<String> {
    let (head, signature) = token.rsplit_once('.')?;
    let rest = signature.get(1..)?;
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    Some(format!("{head}.{first}{rest}"))
}
