//! Follows all three streams of one client and judges each message as it arrives.

use crate::Failure;
use crate::jwt::{AUDIENCE, JwtProbe};
use crate::report::{Report, deadline, must_env};
use crate::x509::{X509Watch, fetch};
use futures_util::StreamExt as _;
use spiffe::{JwtBundleSet, TrustDomain, WorkloadApiClient, WorkloadApiError, X509BundleSet};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until};

struct Bundles {
    td: TrustDomain,
    root_sets: BTreeSet<BTreeSet<Vec<u8>>>,
    key_sets: BTreeSet<BTreeSet<String>>,
    latest: Option<JwtBundleSet>,
}

pub async fn run(report: &mut Report) -> Result<(), Failure> {
    let ends = Instant::now() + deadline()?;
    let client = WorkloadApiClient::connect_env().await?;
    match fetch(&client).await {
        Ok(detail) => report.ok("x509.fetch", detail),
        Err(failure) => report.fail("x509.fetch", failure),
    }
    let td = spiffe::SpiffeId::new(must_env("INTEROP_ID")?)?.trust_domain().clone();
    let mut bundles = Bundles { td, root_sets: BTreeSet::new(), key_sets: BTreeSet::new(), latest: None };
    let (mut svids, mut jwts) = (X509Watch::new()?, JwtProbe::new()?);

    // These streams do not reconnect: one that breaks is seen here.
    let mut contexts = client.stream_x509_contexts().await?;
    let mut x509_bundles = client.stream_x509_bundles().await?;
    let mut jwt_bundles = client.stream_jwt_bundles().await?;
    let mut every_second = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = sleep_until(ends) => break,
            _ = every_second.tick() => jwts.tick(report, &client, bundles.latest.as_ref()).await,
            update = contexts.next() => match update {
                Some(Ok(update)) => svids.take(report, &update),
                broken => return Err(format!("the X.509 stream broke: {broken:?}").into()),
            },
            update = x509_bundles.next() => match update {
                Some(Ok(update)) => bundles.take_x509(report, &update),
                broken => return Err(format!("the X.509 bundle stream broke: {broken:?}").into()),
            },
            update = jwt_bundles.next() => match update {
                Some(Ok(update)) => bundles.take_jwt(report, update),
                broken => return Err(format!("the JWT bundle stream broke: {broken:?}").into()),
            },
        }
        if svids.enough() && bundles.enough() && jwts.enough() {
            break;
        }
    }
    jwts.settle(report, &client).await;
    svids.settle(report);
    bundles.settle(report);
    Ok(())
}

impl Bundles {
    fn take_x509(&mut self, report: &mut Report, set: &X509BundleSet) {
        match set.get(&self.td) {
            Some(bundle) if !bundle.authorities().is_empty() => {
                let roots = bundle.authorities().iter().map(|root| root.as_bytes().to_vec()).collect();
                self.root_sets.insert(roots);
            }
            _ => report.fail("x509.bundles.watch", format!("no authorities for {}", self.td)),
        }
    }

    fn take_jwt(&mut self, report: &mut Report, set: JwtBundleSet) {
        let keys: BTreeSet<String> = match set.get(&self.td) {
            Some(bundle) => bundle.jwt_authorities().map(|key| key.key_id().to_owned()).collect(),
            None => BTreeSet::new(),
        };
        if keys.is_empty() {
            return report.fail("jwt.bundles.watch", format!("no keys for {}", self.td));
        }
        self.key_sets.insert(keys);
        self.latest = Some(set);
    }

    fn enough(&self) -> bool {
        self.root_sets.len() >= 2 && self.key_sets.len() >= 2
    }

    fn settle(&self, report: &mut Report) {
        let (roots, keys) = (self.root_sets.len(), self.key_sets.len());
        report.settle("x509.bundles.watch", roots >= 2, format!("{roots} different bundles"));
        report.settle("jwt.bundles.watch", keys >= 2, format!("{keys} different bundles"));
    }
}

/// As a caller that no entry describes. The crate keeps PermissionDenied with SPIRE's text apart as `NoIdentityIssued`.
pub async fn denied(report: &mut Report) -> Result<(), Failure> {
    let client = WorkloadApiClient::connect_env().await?;
    let x509 = client.fetch_x509_svid().await.map(|svid| svid.spiffe_id().to_string());
    let jwt = client.fetch_jwt_svid([AUDIENCE], None).await.map(|svid| svid.spiffe_id().to_string());
    for (call, answer) in [("FetchX509SVID", x509), ("FetchJWTSVID", jwt)] {
        if !matches!(answer, Err(WorkloadApiError::NoIdentityIssued)) {
            report.fail("denied", format!("{call}: {answer:?}"));
        }
    }
    report.ok("denied", WorkloadApiError::NoIdentityIssued);
    Ok(())
}
