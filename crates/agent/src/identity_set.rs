//! The identities of one kind of caller, with the messages it gets, encoded once.
//!
//! All callers that match the same entries share one [`IdentitySet`], so a machine with a thousand connections of
//! the same workload encodes (and keeps) its SVIDs once. For a later snapshot [`IdentitySets`] compares the parts
//! that a set was made of, and makes a new one only if one differs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use prost::Message;
use vouchsafe_proto::workload;
use vouchsafe_types::entry::EntryId;
use zeroize::Zeroizing;

use crate::bundles::BundleView;
use crate::entries::EntrySlot;
use crate::identities::{HeldSvid, Snapshot, secret_bytes};
use crate::sds::resources::Shared;

/// One identity of a caller: the entry, and its SVID once there is one.
#[derive(Clone, Debug)]
pub struct Member {
    /// The entry.
    pub slot: Arc<EntrySlot>,
    /// Its SVID, if one is held.
    pub svid: Option<Arc<HeldSvid>>,
}

/// What a caller gets.
#[derive(Debug)]
pub struct IdentitySet {
    /// The identities, by entry identifier.
    pub members: Vec<Member>,
    own_bundle: Option<Arc<BundleView>>,
    federated: Vec<Arc<BundleView>>,
    x509: OnceLock<Bytes>,
    x509_bundles: OnceLock<Bytes>,
    jwt_bundles: OnceLock<Bytes>,
    /// What a delegate gets.
    delegated: OnceLock<Bytes>,
    /// What secret discovery made of it.
    pub sds: Shared,
}

impl IdentitySet {
    fn build(snapshot: &Snapshot, matching: &[Arc<EntrySlot>]) -> Self {
        let members = matching
            .iter()
            .map(|slot| Member { slot: Arc::clone(slot), svid: snapshot.svids.get(&slot.entry.id).cloned() })
            .collect();
        Self {
            members,
            own_bundle: snapshot.bundles.as_ref().map(|bundles| Arc::clone(&bundles.own)),
            federated: federated(snapshot, matching),
            x509: OnceLock::new(),
            x509_bundles: OnceLock::new(),
            jwt_bundles: OnceLock::new(),
            delegated: OnceLock::new(),
            sds: Shared::default(),
        }
    }

    /// Whether the caller has no identity at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether every identity has an SVID that has not ended.
    #[must_use]
    pub fn is_complete(&self, now: i64) -> bool {
        self.members.iter().all(|member| member.usable(now).is_some())
    }

    /// Whether at least one identity has an SVID that has not ended.
    #[must_use]
    pub fn has_any(&self, now: i64) -> bool {
        self.members.iter().any(|member| member.usable(now).is_some())
    }

    /// The `X509SVIDResponse` with every SVID that has not ended at `now`.
    #[must_use]
    pub fn x509_response(&self, now: i64) -> Bytes {
        if self.is_complete(now) {
            return self.x509.get_or_init(|| self.encode_x509(now)).clone();
        }
        self.encode_x509(now)
    }

    /// The `X509BundlesResponse`.
    #[must_use]
    pub fn x509_bundles(&self) -> Bytes {
        let encode = || {
            let bundles = self.bundles().map(|view| (view.id.clone(), view.x509_der.clone())).collect();
            workload::X509BundlesResponse { crl: Vec::new(), bundles }.encode_to_vec().into()
        };
        self.x509_bundles.get_or_init(encode).clone()
    }

    /// The `JWTBundlesResponse`.
    #[must_use]
    pub fn jwt_bundles(&self) -> Bytes {
        let encode = || {
            let bundles = self.bundles().map(|view| (view.id.clone(), view.jwks.clone())).collect();
            workload::JwtBundlesResponse { bundles }.encode_to_vec().into()
        };
        self.jwt_bundles.get_or_init(encode).clone()
    }

    /// The bundles that the caller may see: its own trust domain's and those its entries federate with.
    pub fn bundles(&self) -> impl Iterator<Item = &Arc<BundleView>> {
        self.own_bundle.iter().chain(&self.federated)
    }

    /// The bundle of the agent's trust domain.
    #[must_use]
    pub fn own_bundle(&self) -> Option<&Arc<BundleView>> {
        self.own_bundle.as_ref()
    }

    /// The bundles that the caller's entries federate with, by trust domain.
    #[must_use]
    pub fn federated_bundles(&self) -> &[Arc<BundleView>] {
        &self.federated
    }

    /// What a delegate gets, as `encode` makes it of the SVIDs that have not ended at `now`.
    #[must_use]
    pub fn delegated(&self, now: i64, encode: impl Fn(&Self, i64) -> Bytes) -> Bytes {
        if self.is_complete(now) {
            return self.delegated.get_or_init(|| encode(self, now)).clone();
        }
        encode(self, now)
    }

    fn encode_x509(&self, now: i64) -> Bytes {
        let bundle = self.own_bundle.as_ref().map(|view| view.x509_der.clone()).unwrap_or_default();
        let svids = self.members.iter().filter_map(|member| {
            member.usable(now).map(|svid| workload::X509svid {
                spiffe_id: svid.spiffe_id.as_str().to_owned(),
                x509_svid: svid.chain.clone(),
                x509_svid_key: svid.key.clone(),
                bundle: bundle.clone(),
                hint: member.slot.entry.hint.to_string(),
            })
        });
        let response = workload::X509svidResponse {
            svids: svids.collect(),
            crl: Vec::new(),
            federated_bundles: self
                .federated
                .iter()
                .map(|view| (view.id.clone(), view.x509_der.clone()))
                .collect(),
        };
        secret_bytes(Zeroizing::new(response.encode_to_vec()))
    }

    fn is_current(&self, snapshot: &Snapshot, matching: &[Arc<EntrySlot>]) -> bool {
        let same_view = |a: &Arc<BundleView>, b: &Arc<BundleView>| Arc::ptr_eq(a, b);
        let own = snapshot.bundles.as_ref().map(|bundles| &bundles.own);
        self.members.len() == matching.len()
            && self.members.iter().zip(matching).all(|(member, slot)| {
                Arc::ptr_eq(&member.slot, slot)
                    && match (&member.svid, snapshot.svids.get(&slot.entry.id)) {
                        (None, None) => true,
                        (Some(ours), Some(now)) => Arc::ptr_eq(ours, now),
                        _ => false,
                    }
            })
            && match (&self.own_bundle, own) {
                (None, None) => true,
                (Some(ours), Some(now)) => same_view(ours, now),
                _ => false,
            }
            && {
                let now = federated(snapshot, matching);
                now.len() == self.federated.len()
                    && now.iter().zip(&self.federated).all(|(a, b)| same_view(a, b))
            }
    }
}

impl Member {
    /// Its SVID, unless that has ended at `now`.
    #[must_use]
    pub fn usable(&self, now: i64) -> Option<&Arc<HeldSvid>> {
        self.svid.as_ref().filter(|svid| !svid.lifetime.expired(now))
    }
}

fn federated(snapshot: &Snapshot, matching: &[Arc<EntrySlot>]) -> Vec<Arc<BundleView>> {
    let Some(bundles) = &snapshot.bundles else { return Vec::new() };
    if matching.iter().all(|slot| slot.entry.federates_with.is_empty()) {
        return Vec::new();
    }
    let mut names: Vec<_> = matching.iter().flat_map(|slot| slot.entry.federates_with.iter()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter_map(|name| bundles.federated.get(name)).cloned().collect()
}

/// The sets in use, shared between callers.
#[derive(Debug, Default)]
pub struct IdentitySets {
    sets: Mutex<HashMap<Box<[EntryId]>, Arc<IdentitySet>>>,
}

impl IdentitySets {
    /// The set of `matching` in `snapshot`.
    #[must_use]
    pub fn of(&self, snapshot: &Snapshot, matching: &[Arc<EntrySlot>]) -> Arc<IdentitySet> {
        let key: Box<[EntryId]> = matching.iter().map(|slot| slot.entry.id.clone()).collect();
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = sets.get(&key)
            && held.is_current(snapshot, matching)
        {
            return Arc::clone(held);
        }
        if sets.len() >= MAX_SETS {
            sets.retain(|_, set| Arc::strong_count(set) > 1);
        }
        let set = Arc::new(IdentitySet::build(snapshot, matching));
        if sets.len() < MAX_SETS {
            sets.insert(key, Arc::clone(&set));
        }
        set
    }

    /// Forgets the sets that no connection uses.
    pub fn forget_unused(&self) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|_, set| Arc::strong_count(set) > 1);
        sets.shrink_to_fit();
    }
}

/// Shared sets that are kept. Above it a set belongs to its connection alone.
const MAX_SETS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundles::Bundles;
    use crate::entries::tests::entry;
    use crate::entries::{EntryIndex, WorkloadEntry};
    use crate::identities::tests::svid;
    use vouchsafe_types::bundle::Bundle;
    use vouchsafe_types::trust_domain::TrustDomain;

    fn bundle(trust_domain: &str) -> Bundle {
        Bundle {
            trust_domain: TrustDomain::parse(trust_domain).unwrap(),
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: 0,
            sequence_number: 0,
        }
    }

    fn snapshot(svids: &[(&str, i64)]) -> Snapshot {
        let other = TrustDomain::parse("other.org").unwrap();
        let a = WorkloadEntry { federates_with: [other].into(), ..entry("a", &["unix:uid:1"]) };
        let entries = [a, entry("b", &["unix:uid:1"])];
        let (bundles, _) =
            Bundles::of(bundle("example.org")).replace(bundle("example.org"), [bundle("other.org")]);
        Snapshot {
            version: 1,
            index: Arc::new(EntryIndex::build(entries, &EntryIndex::default())),
            svids: Arc::new(
                svids.iter().map(|(id, end)| (EntryId::parse(id).unwrap(), svid(id, *end))).collect(),
            ),
            bundles: Some(Arc::new(bundles)),
            synchronized: true,
        }
    }

    fn matching(snapshot: &Snapshot) -> Vec<Arc<EntrySlot>> {
        let mut all: Vec<_> = snapshot.index.iter().cloned().collect();
        all.sort_by(|a, b| a.entry.id.cmp(&b.entry.id));
        all
    }

    fn served(set: &IdentitySet, now: i64) -> Vec<String> {
        let response = workload::X509svidResponse::decode(set.x509_response(now)).unwrap();
        response.svids.into_iter().map(|svid| svid.spiffe_id).collect()
    }

    #[test]
    fn callers_with_the_same_entries_share_one_set_and_one_encoding() {
        let snapshot = snapshot(&[("a", 100), ("b", 100)]);
        let sets = IdentitySets::default();
        let first = sets.of(&snapshot, &matching(&snapshot));
        let second = sets.of(&snapshot, &matching(&snapshot));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.x509_response(1).as_ptr(), second.x509_response(2).as_ptr());
        let response = workload::X509svidResponse::decode(first.x509_response(1)).unwrap();
        assert_eq!(response.svids.len(), 2);
        assert_eq!(response.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://other.org"]);
    }

    #[test]
    fn a_renewal_elsewhere_leaves_the_set_and_one_of_its_own_replaces_it() {
        let sets = IdentitySets::default();
        let mut snapshot = snapshot(&[("a", 100), ("b", 100)]);
        let set = sets.of(&snapshot, &matching(&snapshot));
        Arc::make_mut(&mut snapshot.svids)
            .insert(EntryId::parse("elsewhere").unwrap(), svid("elsewhere", 100));
        snapshot.version = 2;
        let same = sets.of(&snapshot, &matching(&snapshot));
        assert!(Arc::ptr_eq(&set, &same));
        Arc::make_mut(&mut snapshot.svids).insert(EntryId::parse("a").unwrap(), svid("a", 200));
        snapshot.version = 3;
        assert!(!Arc::ptr_eq(&set, &sets.of(&snapshot, &matching(&snapshot))));
    }

    #[test]
    fn an_ended_svid_is_not_handed_out() {
        let snapshot = snapshot(&[("a", 100), ("b", 50)]);
        let set = IdentitySets::default().of(&snapshot, &matching(&snapshot));
        assert_eq!(served(&set, 49), ["spiffe://example.org/a", "spiffe://example.org/b"]);
        assert_eq!(served(&set, 50), ["spiffe://example.org/a"]);
        assert!(!set.is_complete(50) && set.has_any(50) && !set.has_any(100));
    }

    #[test]
    fn unused_sets_are_forgotten() {
        let snapshot = snapshot(&[]);
        let sets = IdentitySets::default();
        drop(sets.of(&snapshot, &matching(&snapshot)));
        sets.forget_unused();
        assert!(sets.sets.lock().unwrap().is_empty());
    }
}
