//! Judges the X509-SVID stream: each update must verify, and replace the one before it in time.

use crate::Failure;
use crate::certificate::{Facts, key_fits, verify};
use crate::chains::Chains;
use crate::report::{Report, must_env};
use spiffe::{WorkloadApiClient, X509Context, X509Svid};
use std::collections::BTreeSet;
use std::time::SystemTime;

pub struct X509Watch {
    id: String,
    rotations: usize,
    chains: Chains,
    last_not_after: Option<SystemTime>,
    serials: BTreeSet<String>,
    issuers: BTreeSet<String>,
    /// Key ids of the authorities of all earlier updates.
    seen_roots: BTreeSet<String>,
}

impl X509Watch {
    pub fn new() -> Result<Self, Failure> {
        Ok(Self {
            id: must_env("INTEROP_ID")?,
            rotations: must_env("INTEROP_ROTATIONS")?.parse()?,
            chains: Chains::create()?,
            last_not_after: None,
            serials: BTreeSet::new(),
            issuers: BTreeSet::new(),
            seen_roots: BTreeSet::new(),
        })
    }

    pub fn take(&mut self, report: &mut Report, update: &X509Context) {
        if let Err(failure) = self.judge(report, update) {
            report.fail("x509.watch", failure);
        }
    }

    fn judge(&mut self, report: &mut Report, update: &X509Context) -> Result<(), Failure> {
        let now = SystemTime::now();
        let svid = update.default_svid().ok_or("an update without SVIDs")?;
        let td = svid.spiffe_id().trust_domain();
        let bundle =
            update.bundle_set().get(td).ok_or_else(|| format!("an update without the bundle of {td}"))?;
        let roots: Vec<&[u8]> = bundle.authorities().iter().map(spiffe::Certificate::as_bytes).collect();
        for each in update.svids() {
            let chain: Vec<&[u8]> = each.cert_chain().iter().map(spiffe::Certificate::as_bytes).collect();
            verify(&chain, &roots, now)
                .map_err(|why| format!("{} does not verify: {why}", each.spiffe_id()))?;
            key_fits(each.leaf().as_bytes(), each.private_key().as_bytes())
                .map_err(|why| format!("the key of {}: {why}", each.spiffe_id()))?;
            self.chains.write(now, &chain, &roots)?;
        }
        if svid.spiffe_id().to_string() != self.id {
            return Err(format!("the default SVID became {}", svid.spiffe_id()).into());
        }
        let leaf = Facts::read(svid.leaf().as_bytes())?;
        if now > leaf.not_after {
            return Err("received an SVID after its end".into());
        }
        if let Some(late) = self.last_not_after.and_then(|end| now.duration_since(end).ok()) {
            return Err(format!("the next SVID came {late:?} after the end of the last").into());
        }
        let issuer = leaf.authority_key_id;
        if !self.issuers.is_empty() && !self.issuers.contains(&issuer) && !self.seen_roots.contains(&issuer) {
            report.fail(
                "x509.ca-rotation",
                format!("authority {issuer} signed an SVID before any bundle held it"),
            );
        }
        self.issuers.insert(issuer);
        self.serials.insert(leaf.serial);
        self.last_not_after = Some(leaf.not_after);
        for root in roots {
            self.seen_roots.insert(Facts::read(root)?.subject_key_id);
        }
        Ok(())
    }

    pub fn enough(&self) -> bool {
        self.serials.len() > self.rotations && self.issuers.len() >= 2
    }

    pub fn settle(&self, report: &mut Report) {
        let seen = self.serials.len().saturating_sub(1);
        report.settle("x509.watch", seen >= self.rotations, format!("{seen} rotations"));
        let issuers = self.issuers.len();
        report.settle("x509.ca-rotation", issuers >= 2, format!("SVIDs of {issuers} authorities"));
    }
}

/// One-shot fetch: both entries of this caller, the older one first.
pub async fn fetch(client: &WorkloadApiClient) -> Result<String, Failure> {
    let svids = client.fetch_all_x509_svids().await?;
    let ids: Vec<String> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
    if ids.first() != Some(&must_env("INTEROP_ID")?) {
        return Err(format!("the default SVID is not the first of {ids:?}").into());
    }
    let second_id = must_env("INTEROP_SECOND_ID")?;
    let second: &X509Svid = svids
        .iter()
        .find(|svid| svid.spiffe_id().to_string() == second_id)
        .ok_or_else(|| format!("got {ids:?}"))?;
    if second.hint() != Some(must_env("INTEROP_SECOND_HINT")?.as_str()) {
        return Err(format!("hint {:?}", second.hint()).into());
    }
    let names = Facts::read(second.leaf().as_bytes())?.dns_names;
    if names != [must_env("INTEROP_SECOND_DNS")?] {
        return Err(format!("DNS names {names:?}").into());
    }
    Ok(ids.join(" and "))
}
