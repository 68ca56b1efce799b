use vouchsafe_store::{BundleWrite, DeleteMode, Error, Kind, Rejected, Snapshot, Store};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::federation::{EndpointProfile, EndpointUrl, FederationRelationship};

use super::Bed;
use crate::samples::{
    entry, entry_id, full_entry, jwt_authority, relationship, spiffe_id, trust_domain, x509_authority,
};

fn foreign(sequence_number: u64) -> Bundle {
    Bundle {
        x509_authorities: vec![x509_authority(&sequence_number.to_be_bytes(), false)],
        jwt_authorities: vec![jwt_authority("k", true)],
        refresh_hint: 60,
        sequence_number,
        ..Bundle::new(trust_domain("friend.example"))
    }
}

async fn put(store: &dyn Store, write: BundleWrite, bundle: Bundle) -> Result<Bundle, Error> {
    let change = move |held: &mut Bundle| {
        *held = Bundle { trust_domain: trust_domain("mistaken.example"), ..bundle.clone() };
        Ok(())
    };
    let update = store.put_bundle(&trust_domain("friend.example"), write, Box::new(change)).await?;
    Ok(update.bundle)
}

pub(super) async fn a_foreign_bundle_is_stored_as_it_is_sequence_number_included(bed: Bed) {
    let store = bed.store();
    for sequence_number in [7, u64::MAX, 3] {
        let stored = put(&*store, BundleWrite::Set, foreign(sequence_number)).await.unwrap();
        assert_eq!(stored, foreign(sequence_number));
        assert_eq!(Snapshot::load(&*store).await.unwrap().bundles, [stored]);
    }
    let before = Snapshot::load(&*store).await.unwrap().position;
    put(&*store, BundleWrite::Set, foreign(3)).await.unwrap();
    assert_eq!(
        Snapshot::load(&*store).await.unwrap().position,
        before,
        "nothing changed, nothing is written"
    );
}

pub(super) async fn a_foreign_bundle_is_created_and_updated_only_where_it_may_be(bed: Bed) {
    let store = bed.store();
    let error = put(&*store, BundleWrite::Update, foreign(1)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { what: Kind::Bundle, .. }), "{error:?}");
    put(&*store, BundleWrite::Create, foreign(1)).await.unwrap();
    let error = put(&*store, BundleWrite::Create, foreign(2)).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { what: Kind::Bundle, .. }), "{error:?}");
    put(&*store, BundleWrite::Update, foreign(3)).await.unwrap();
    let friend = trust_domain("friend.example");
    let refuse = |held: &mut Bundle| {
        held.refresh_hint = 1;
        Err(Rejected::new("no"))
    };
    let error = store.put_bundle(&friend, BundleWrite::Set, Box::new(refuse)).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap().bundles, [foreign(3)]);
}

async fn federating(store: &dyn Store) -> (Entry, Entry) {
    let friend = trust_domain("friend.example");
    put(store, BundleWrite::Create, foreign(1)).await.unwrap();
    let federating = Entry { federates_with: vec![trust_domain("x.example"), friend], ..full_entry("a") };
    store.create_entry(federating).await.unwrap();
    let other = Entry { federates_with: vec![trust_domain("a.friend.example")], ..entry("b") };
    store.create_entry(other).await.unwrap();
    let all = Snapshot::load(store).await.unwrap().entries;
    (all[0].clone(), all[1].clone())
}

pub(super) async fn a_bundle_can_go_together_with_the_entries_that_federate_with_it(bed: Bed) {
    let store = bed.store();
    let (_, other) = federating(&*store).await;
    let (gone, position) =
        store.delete_bundle(&trust_domain("friend.example"), DeleteMode::Delete).await.unwrap();
    assert_eq!(gone, foreign(1));
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.entries, all.bundles, all.position), (vec![other], vec![], position));
}

pub(super) async fn a_bundle_can_be_taken_out_of_the_entries_that_federate_with_it(bed: Bed) {
    let store = bed.store();
    let (before, other) = federating(&*store).await;
    store.delete_bundle(&trust_domain("friend.example"), DeleteMode::Dissociate).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    let after = Entry {
        federates_with: vec![trust_domain("x.example")],
        revision_number: before.revision_number + 1,
        ..before
    };
    assert_eq!((all.entries, all.bundles), (vec![after, other], vec![]));
    assert_eq!(all.federation, []);
    let (_, position) = store.delete_entry(&entry_id("b")).await.unwrap();
    assert!(position > all.position);
}

pub(super) async fn a_relationship_reads_back_whole_and_in_order(bed: Bed) {
    let store = bed.store();
    let (b, a) = (relationship("b.example"), relationship("a.example"));
    let web = FederationRelationship { bundle_endpoint_profile: EndpointProfile::HttpsWeb, ..a };
    store.create_federation(b.clone(), None).await.unwrap();
    let position = store.create_federation(web.clone(), None).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.federation, all.position), (vec![web.clone(), b.clone()], position));

    let error = store.create_federation(web.clone(), None).await.unwrap_err();
    assert!(matches!(error, Error::AlreadyExists { what: Kind::Federation, .. }), "{error:?}");
    let (gone, position) = store.delete_federation(&web.trust_domain).await.unwrap();
    assert_eq!(gone, web);
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.federation, all.position), (vec![b], position));
    let error = store.delete_federation(&web.trust_domain).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { what: Kind::Federation, .. }), "{error:?}");
}

pub(super) async fn a_relationship_changes_by_update_and_keeps_its_trust_domain(bed: Bed) {
    let store = bed.store();
    let held = relationship("b.example");
    let change = || -> vouchsafe_store::FederationChange {
        Box::new(|held| {
            held.trust_domain = trust_domain("mistaken.example");
            held.bundle_endpoint_url = EndpointUrl::parse("https://new.example").unwrap();
            Ok(())
        })
    };
    let error = store.update_federation(&held.trust_domain, change(), None).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { what: Kind::Federation, .. }), "{error:?}");
    store.create_federation(held.clone(), None).await.unwrap();
    let (after, position) = store.update_federation(&held.trust_domain, change(), None).await.unwrap();
    let wanted = FederationRelationship {
        bundle_endpoint_url: EndpointUrl::parse("https://new.example").unwrap(),
        ..held.clone()
    };
    assert_eq!(after, wanted);
    let refuse = |_: &mut FederationRelationship| Err(Rejected::new("no"));
    let refused = store.update_federation(&held.trust_domain, Box::new(refuse), Some(foreign(1))).await;
    assert!(matches!(refused, Err(Error::Rejected(_))), "{refused:?}");
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.federation, all.bundles, all.position), (vec![wanted], vec![], position));
}

pub(super) async fn a_relationship_and_its_bundle_are_written_together_or_not_at_all(bed: Bed) {
    let store = bed.store();
    let held = FederationRelationship {
        bundle_endpoint_profile: EndpointProfile::HttpsSpiffe { endpoint_spiffe_id: spiffe_id("/elsewhere") },
        ..relationship("friend.example")
    };
    store.create_federation(held.clone(), Some(foreign(9))).await.unwrap();
    assert_eq!(Snapshot::load(&*store).await.unwrap().bundles, [foreign(9)]);
    store.create_federation(held.clone(), Some(foreign(10))).await.unwrap_err();
    assert_eq!(Snapshot::load(&*store).await.unwrap().bundles, [foreign(9)]);
    let nothing = || -> vouchsafe_store::FederationChange { Box::new(|_| Ok(())) };
    store.update_federation(&held.trust_domain, nothing(), Some(foreign(11))).await.unwrap();
    store.delete_federation(&held.trust_domain).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!(
        (all.bundles, all.federation),
        (vec![foreign(11)], vec![]),
        "the bundle outlives the relationship"
    );
}
