use vouchsafe_store::{DeleteMode, Error, Kind, Rejected, Snapshot};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::Entry;

use super::Bed;
use crate::samples::{entry, entry_id, jwt_authority, trust_domain, x509_authority};

pub(super) async fn a_bundle_is_created_by_its_first_update(bed: Bed) {
    let store = bed.store();
    let name = trust_domain("example.org");
    let created = store.update_bundle(&name, Box::new(|_| Ok(()))).await.unwrap();
    assert!(created.changed);
    assert_eq!(created.bundle, Bundle { sequence_number: 1, ..Bundle::new(name) });
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.bundles, all.position), (vec![created.bundle], created.position));
}

pub(super) async fn authorities_keep_their_order_and_taint(bed: Bed) {
    let store = bed.store();
    let name = trust_domain("example.org");
    let fill = |bundle: &mut Bundle| {
        bundle.trust_domain = trust_domain("mistaken.example");
        bundle.refresh_hint = 300;
        bundle.x509_authorities =
            vec![x509_authority(&[9, 0, 255], true), x509_authority(&[1], false), x509_authority(&[5], true)];
        bundle.jwt_authorities = vec![jwt_authority("z", false), jwt_authority("a", true)];
        Ok(())
    };
    let stored = store.update_bundle(&name, Box::new(fill)).await.unwrap().bundle;
    let mut wanted = Bundle::new(name.clone());
    fill(&mut wanted).unwrap();
    assert_eq!(stored, Bundle { trust_domain: name.clone(), sequence_number: 1, ..wanted });
    assert_eq!(Snapshot::load(&*store).await.unwrap().bundles, std::slice::from_ref(&stored));

    let drop_first = |bundle: &mut Bundle| {
        bundle.x509_authorities.remove(0);
        bundle.jwt_authorities.clear();
        Ok(())
    };
    let fewer = store.update_bundle(&name, Box::new(drop_first)).await.unwrap().bundle;
    assert_eq!(fewer.x509_authorities, stored.x509_authorities[1..]);
    assert_eq!(Snapshot::load(&*store).await.unwrap().bundles, [fewer]);
}

pub(super) async fn the_sequence_number_grows_with_changes_only(bed: Bed) {
    let store = bed.store();
    let name = trust_domain("example.org");
    let append = || -> vouchsafe_store::BundleChange {
        Box::new(|bundle: &mut Bundle| {
            bundle.append([x509_authority(b"root", false)], [jwt_authority("k", false)]);
            bundle.sequence_number = 99;
            Ok(())
        })
    };
    let first = store.update_bundle(&name, append()).await.unwrap();
    assert_eq!((first.changed, first.bundle.sequence_number), (true, 1));
    let second = store.update_bundle(&name, append()).await.unwrap();
    assert_eq!((second.changed, second.bundle.sequence_number), (false, 1));
    assert!(store.changes_after(first.position, 10).await.unwrap().changes.is_empty());
    let taint = |bundle: &mut Bundle| {
        bundle.x509_authorities[0].tainted = true;
        Ok(())
    };
    let third = store.update_bundle(&name, Box::new(taint)).await.unwrap();
    assert_eq!((third.changed, third.bundle.sequence_number), (true, 2));
}

pub(super) async fn a_rejected_update_leaves_no_bundle_behind(bed: Bed) {
    let store = bed.store();
    let refuse = |_: &mut Bundle| Err(Rejected::new("no"));
    let error = store.update_bundle(&trust_domain("example.org"), Box::new(refuse)).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap(), Snapshot::default());
}

pub(super) async fn a_bundle_goes_only_when_no_entry_federates_with_it(bed: Bed) {
    let store = bed.store();
    let friend = trust_domain("friend.example");
    let error = store.delete_bundle(&friend, DeleteMode::Restrict).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { what: Kind::Bundle, .. }), "{error:?}");

    let bundle = store.update_bundle(&friend, Box::new(|_| Ok(()))).await.unwrap().bundle;
    let federating = Entry { federates_with: vec![trust_domain("x.example"), friend.clone()], ..entry("a") };
    let other = Entry { federates_with: vec![trust_domain("a.friend.example")], ..entry("b") };
    store.create_entry(federating).await.unwrap();
    store.create_entry(other).await.unwrap();
    let error = store.delete_bundle(&friend, DeleteMode::Restrict).await.unwrap_err();
    assert!(
        matches!(&error, Error::Rejected(why) if why.reason() == "cannot delete bundle; federated with 1 registration entries"),
        "{error:?}"
    );

    store.delete_entry(&entry_id("a")).await.unwrap();
    let (gone, position) = store.delete_bundle(&friend, DeleteMode::Restrict).await.unwrap();
    assert_eq!(gone, bundle);
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!((all.bundles.len(), all.position), (0, position));
}
