use super::*;
use crate::model::ReadModel;
use vouchsafe_store::{Position, Record};
use vouchsafe_testkit::samples;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

const NOW: i64 = 1_900_000_000;

fn snapshot(epoch: u64, position: u64, records: &[Record]) -> Snapshot {
    Snapshot::collect(epoch, Position(position), records.iter().cloned())
}

fn entry(name: &str) -> Record {
    Record::Entry(samples::entry(name))
}

fn agent(name: &str, serial: &str, expires_at: i64) -> Record {
    let known = samples::agent(name);
    Record::Agent(Agent { serial_number: serial.into(), expires_at, new_expires_at: 0, ..known })
}

fn bundle(key_ids: &[&str]) -> Record {
    let mut bundle = Bundle::new(TrustDomain::parse("example.org").unwrap());
    bundle.append([], key_ids.iter().map(|id| samples::jwt_authority(id, false)));
    Record::Bundle(bundle)
}

/// What is lost between two sets of records; nothing if the text is empty.
fn check(held: &[Record], found: &[Record], expected: &str) {
    let lost = Lost::between(&snapshot(1, 5, held), &snapshot(1, 5, found), NOW);
    assert_eq!((lost.to_string().as_str(), lost.is_nothing()), (expected, expected.is_empty()));
}

#[test]
fn what_is_held_and_is_not_found_is_lost() {
    check(&[entry("a")], &[entry("a"), entry("b")], "");
    check(&[entry("a"), entry("b")], &[entry("a")], "1 registration entries");
    check(&[agent("a", "1", NOW)], &[], "1 agents");
    check(&[agent("a", "1", NOW)], &[agent("a", "2", NOW + 9)], "");
    check(&[bundle(&["a", "b"])], &[bundle(&["b", "c"])], "1 authorities of bundles");
    check(&[bundle(&["a"]), entry("a")], &[], "1 registration entries, 1 authorities of bundles");
    let relationship = Record::Federation(samples::relationship("example.org"));
    check(std::slice::from_ref(&relationship), &[], "1 federation relationships");
    check(&[bundle(&["a"])], &[relationship], "");
}

#[test]
fn a_ban_that_is_not_found_is_lost() {
    check(&[agent("a", "", 0)], &[agent("a", "", 0)], "");
    check(&[agent("a", "", 0)], &[agent("a", "1", NOW)], "1 bans of agents");
    check(&[agent("a", "", 0)], &[], "1 bans of agents");
    check(&[agent("a", "1", NOW)], &[agent("a", "", 0)], "");
}

#[test]
fn what_has_ended_is_no_loss() {
    let mut ended = samples::entry("a");
    ended.expires_at = NOW - 1;
    check(&[Record::Entry(ended)], &[], "");
    check(&[agent("a", "1", NOW - 5 * 24 * 3600)], &[], "");
}

#[test]
fn an_older_revision_is_a_loss_and_an_entry_that_was_made_anew_is_none() {
    let mut updated = samples::entry("a");
    updated.revision_number = 3;
    check(&[Record::Entry(updated.clone())], &[entry("a")], "1 registration entries");
    let again = Entry { id: samples::entry_id("again"), ..updated.clone() };
    check(&[Record::Entry(updated)], &[Record::Entry(again)], "");
}

#[test]
fn a_database_that_goes_on_is_taken_whatever_it_has() {
    let held = snapshot(1, 5, &[entry("a")]);
    assert_eq!(judge(&held, &snapshot(1, 5, &[]), Past::default(), NOW), Verdict::Taken);
    assert_eq!(judge(&held, &snapshot(1, 9, &[]), Past::default(), NOW), Verdict::Taken);
}

#[test]
fn a_database_that_does_not_go_on_is_taken_if_nothing_is_lost() {
    let held = snapshot(1, 5, &[entry("a")]);
    let judge = |epoch, position, doubted, name: &str| match judge(
        &held,
        &snapshot(epoch, position, &[entry(name)]),
        Past { set_back: doubted, whole_at: None },
        NOW,
    ) {
        Verdict::Taken => "taken",
        Verdict::Behind(_) => "behind",
        Verdict::Refused(_) => "refused",
    };
    assert_eq!(judge(2, 1, false, "a"), "taken", "another one with the same content");
    assert_eq!(judge(2, 9, false, "b"), "refused", "another one");
    assert_eq!(judge(1, 4, false, "a"), "behind", "lost something that is no loss");
    assert_eq!(judge(1, 4, false, "b"), "refused", "set back");
    assert_eq!(judge(1, 6, true, "a"), "taken", "caught up");
    assert_eq!(judge(1, 6, true, "b"), "refused", "caught up by other changes");
}

/// A change that was lost, and an entry that an operator deletes before there are as many again.
#[test]
fn what_is_removed_on_the_other_way_is_no_loss() {
    let model = ReadModel::new(snapshot(1, 5, &[entry("a"), entry("b")]));
    let both = [entry("a"), entry("b")];
    assert!(matches!(model.replace(snapshot(1, 3, &both), NOW), Verdict::Behind(_)));
    assert!(matches!(model.replace(snapshot(1, 4, &both[..1]), NOW), Verdict::Behind(_)));
    assert_eq!(model.load().entries.len(), 2, "not before there are as many changes");
    assert_eq!(model.replace(snapshot(1, 5, &both[..1]), NOW), Verdict::Taken);
    assert!(!model.doubt().exists());
}

#[test]
fn what_was_lost_before_it_was_whole_is_a_loss() {
    let both = [entry("a"), entry("b")];
    for (between, lost) in [(snapshot(1, 4, &both), 2), (snapshot(2, 9, &both[..1]), 6)] {
        let model = ReadModel::new(snapshot(1, 5, &both));
        model.replace(between, NOW);
        model.doubt().begin();
        let verdict = model.replace(snapshot(1, lost, &both[..1]), NOW);
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
        assert!(model.doubt().refused().is_some());
        let verdict = model.replace(snapshot(1, 9, &both[..1]), NOW);
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    }
}

#[test]
fn an_authority_that_has_ended_is_no_loss() {
    let mut held = Bundle::new(TrustDomain::parse("example.org").unwrap());
    let ends = |id: &str, expires_at| JwtAuthority { expires_at, ..samples::jwt_authority(id, false) };
    let certificate = |year| {
        let mut wanted = rcgen::CertificateParams::default();
        (wanted.not_before, wanted.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(year, 1, 1));
        let der = wanted.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        X509Authority { der: der.into(), tainted: false }
    };
    held.append([certificate(2030)], [ends("ended", NOW), ends("endless", 0)]);
    check(&[Record::Bundle(held.clone())], &[bundle(&["endless"])], "");
    held.append([certificate(2031)], [ends("lives", NOW + 1)]);
    check(&[Record::Bundle(held)], &[bundle(&["endless"])], "2 authorities of bundles");
}
