use std::collections::HashMap;

use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::bundles::Bundles;
use crate::entries::tests::entry;
use crate::entries::{EntryIndex, WorkloadEntry};
use crate::identities::tests::svid;
use crate::identities::{HeldSvid, Snapshot};
use crate::identity_set::IdentitySets;
use crate::rotation::Lifetime;

/// Two certificates as far as anybody who only splits them can tell.
const CHAIN: &[u8] = &[0x30, 1, 7, 0x30, 2, 8, 9];

fn held(id: &str, not_after: i64) -> Arc<HeldSvid> {
    let like = svid(id, not_after);
    Arc::new(HeldSvid {
        spiffe_id: like.spiffe_id.clone(),
        issued_for: (0, 0),
        chain: Bytes::from_static(CHAIN),
        key: like.key.clone(),
        lifetime: Lifetime::new(0, not_after, 0, id.as_bytes()),
        authority_key_id: None,
    })
}

fn set() -> Arc<IdentitySet> {
    let trust_domain = |name| TrustDomain::parse(name).unwrap();
    let of_app = |id| entry(id, &["x:app:web"]);
    let entries = [
        WorkloadEntry { federates_with: [trust_domain("other.org")].into(), hint: "h".into(), ..of_app("a") },
        WorkloadEntry { admin: true, ..of_app("b") },
        WorkloadEntry { downstream: true, ..of_app("c") },
        WorkloadEntry { hint: "h".into(), ..of_app("d") },
    ];
    let own = Bundle::new(trust_domain("example.org"));
    let others = [Bundle::new(trust_domain("other.org")), Bundle::new(trust_domain("unused.org"))];
    let ends = [("a", 100), ("b", 100), ("c", 100), ("d", 50)];
    let svids: HashMap<_, _> =
        ends.into_iter().map(|(id, end)| (EntryId::parse(id).unwrap(), held(id, end))).collect();
    let snapshot = Snapshot {
        version: 1,
        index: Arc::new(EntryIndex::build(entries, &EntryIndex::default())),
        svids: Arc::new(svids),
        bundles: Some(Arc::new(Bundles::of(own.clone()).replace(own, others).0)),
        synchronized: true,
    };
    let selectors = [vouchsafe_types::selector::Selector::parse("x:app:web").unwrap()].into_iter().collect();
    let matching = snapshot.index.matching_with_every_hint(&selectors);
    IdentitySets::default().of(&snapshot, &matching)
}

fn sent(set: &IdentitySet, now: i64) -> proto::SubscribeToX509sviDsResponse {
    proto::SubscribeToX509sviDsResponse::decode(set.delegated(now, encode_svids)).unwrap()
}

#[test]
fn an_update_has_the_chain_the_key_and_the_trust_domains_of_each_identity_without_rights() {
    let update = sent(&set(), 10);
    let svids: Vec<_> = update.x509_svids.iter().map(|svid| svid.x509_svid.as_ref().unwrap()).collect();
    let paths: Vec<_> = svids.iter().map(|svid| svid.id.as_ref().unwrap().path.as_str()).collect();
    assert_eq!(paths, ["/a", "/d"]);
    assert_eq!(svids[0].cert_chain, [&CHAIN[..3], &CHAIN[3..]]);
    assert_eq!((svids[0].expires_at, svids[0].hint.as_str()), (100, "h"));
    assert_eq!(&*update.x509_svids[0].x509_svid_key, b"key");
    assert_eq!(update.federates_with, ["spiffe://other.org"]);
}

#[test]
fn an_ended_svid_is_not_sent_and_a_complete_update_is_encoded_once() {
    let set = set();
    assert_eq!(set.delegated(10, encode_svids).as_ptr(), set.delegated(20, encode_svids).as_ptr());
    assert_eq!(sent(&set, 50).x509_svids.len(), 1);
}
