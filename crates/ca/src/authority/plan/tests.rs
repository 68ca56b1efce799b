use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::authority::slots::{SlotError, Status};
use crate::authority::{AuthorityKind, SlotId};
use crate::journal;

/// An authority without a key.
#[derive(Debug)]
struct Fake {
    id: String,
    /// The upstream authority that certified it.
    above: String,
    issued_at: i64,
    not_after: i64,
}

impl Authority for Fake {
    const KIND: AuthorityKind = AuthorityKind::Jwt;

    fn id(&self) -> &str {
        &self.id
    }

    fn upstream_id(&self) -> &str {
        &self.above
    }

    fn depends_on(&self, id: &str) -> bool {
        self.id == id || self.above == id
    }

    fn issued_at(&self) -> i64 {
        self.issued_at
    }

    fn not_before(&self) -> i64 {
        self.issued_at - 10
    }

    fn not_after(&self) -> i64 {
        self.not_after
    }

    fn entry(&self, _: SlotId) -> journal::Entry {
        journal::Entry::Jwt(journal::JwtEntry::default())
    }
}

const START: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn at(unix: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix.unsigned_abs())
}

/// Does what a rotation does, with a record of what was prepared.
struct World {
    slots: Slots<Fake>,
    ttl: i64,
    made: usize,
    prepared: BTreeSet<String>,
    tainted: BTreeSet<String>,
    /// How many upstream authorities there were before the one that certifies now.
    roots: usize,
}

impl World {
    fn new(ttl: i64) -> Self {
        let (prepared, tainted) = (BTreeSet::new(), BTreeSet::new());
        Self { slots: Slots::new(), ttl, made: 0, prepared, tainted, roots: 0 }
    }

    fn prepare(&mut self, slot: SlotId, now: i64) -> Result<(), SlotError> {
        self.made += 1;
        let id = format!("authority-{}", self.made);
        self.prepared.insert(id.clone());
        let above = format!("root-{}", self.roots);
        self.slots.fill(slot, Arc::new(Fake { id, above, issued_at: now, not_after: now + self.ttl }))
    }

    fn tick(&mut self, now: i64) -> Vec<Step> {
        let steps = plan(at(now), &self.slots);
        for step in &steps {
            match *step {
                Step::Prepare(slot) => self.prepare(slot, now).unwrap(),
                Step::Activate(slot) => drop(self.slots.activate(slot).unwrap()),
            }
        }
        steps
    }

    fn active(&self) -> &Fake {
        self.slots.active().unwrap()
    }
}

#[test]
fn the_thresholds_are_those_of_the_reference() {
    let check = |ttl: i64, prepare_left: i64, activate_left: i64| {
        let mut world = World::new(ttl);
        let end = START + ttl;
        assert_eq!(world.tick(START), [Step::Prepare(SlotId::A), Step::Activate(SlotId::A)]);
        assert_eq!(world.tick(end - prepare_left), []);
        assert_eq!(world.tick(end - prepare_left + 1), [Step::Prepare(SlotId::B)]);
        assert_eq!(world.tick(end - activate_left), []);
        assert_eq!(world.tick(end - activate_left + 1), [Step::Activate(SlotId::B)]);
        assert_eq!(world.slots.overview().old.unwrap().id, "authority-1");
    };
    check(DAY, DAY / 2, DAY / 6);
    check(36 * DAY, 18 * DAY, 6 * DAY);
    check(365 * DAY, 30 * DAY, 7 * DAY);
}

#[test]
fn after_a_jump_of_72_hours_either_way_one_tick_makes_everything_valid() {
    for jump in [72 * 3600, -72 * 3600] {
        let mut world = World::new(DAY);
        world.tick(START);
        world.tick(START + DAY * 2 / 3);
        let now = START + DAY * 2 / 3 + jump;
        world.tick(now);
        let active = world.active();
        assert!((active.not_before()..active.not_after()).contains(&now));
        assert_eq!(world.tick(now), [], "one tick is enough");
    }
}

#[test]
fn a_tainted_active_authority_is_replaced_at_once_by_a_clean_one() {
    let mut world = World::new(DAY);
    world.tick(START);
    world.prepare(SlotId::B, START).unwrap();
    assert!(world.slots.note_tainted("authority-1"));
    assert!(world.slots.note_tainted("authority-2"));
    assert_eq!(world.tick(START), [Step::Prepare(SlotId::B), Step::Activate(SlotId::B)]);
    assert_eq!(world.active().id, "authority-3");
    let old = world.slots.overview().old.unwrap();
    assert!(old.tainted && old.id == "authority-1");
}

#[test]
fn operators_get_the_texts_of_the_reference() {
    let mut world = World::new(DAY);
    world.tick(START);
    world.prepare(SlotId::B, START).unwrap();
    let text = |result: Result<(), SlotError>| result.unwrap_err().to_string();
    let activation = |world: &World, id: &str| world.slots.check_activation(id).map(drop);
    let taint = |world: &World, id: &str| world.slots.check_taint(id).map(drop);
    let revocation = |world: &World, id: &str| world.slots.check_revocation(id, false);
    assert_eq!(text(activation(&world, "")), "no authority ID provided");
    assert_eq!(text(activation(&world, "other")), "unexpected authority ID");
    assert_eq!(text(activation(&world, "authority-1")), "unexpected authority ID");
    assert_eq!(text(taint(&world, "")), "no authority ID provided");
    assert_eq!(text(taint(&world, "authority-1")), "unable to taint current local authority");
    assert_eq!(text(taint(&world, "other")), "unexpected authority ID");
    let not_old = "only Old local authorities can be tainted: unsupported local authority status: PREPARED";
    assert_eq!(text(taint(&world, "authority-2")), not_old);
    assert_eq!(text(revocation(&world, "")), "no authority ID provided");
    assert_eq!(text(revocation(&world, "authority-1")), "unable to use current authority");
    assert_eq!(text(revocation(&world, "authority-2")), "unable to use a prepared key");
    assert_eq!(text(revocation(&world, "other")), "no JWT authority found with provided authority ID");
    world.slots.check_revocation("other", true).unwrap();
    let slot = world.slots.check_activation("authority-2").unwrap();
    world.slots.activate(slot).unwrap();
    let not_prepared = "only Prepared authorities can be activated: unsupported local authority status: OLD";
    assert_eq!(text(activation(&world, "authority-1")), not_prepared);
    world.slots.check_taint("authority-1").unwrap();
    world.slots.check_revocation("authority-1", false).unwrap();
    assert_eq!(world.slots.vacate(SlotId::B), Err(SlotError::InUse));
}

#[test]
fn an_upstream_authority_is_left_behind_only_when_it_certified_the_old_authority() {
    let mut world = World::new(DAY);
    let text = |world: &World, id: &str| world.slots.check_upstream(id).unwrap_err().to_string();
    world.tick(START);
    assert_eq!(text(&world, ""), "no subject key ID provided");
    assert_eq!(text(&world, "root-0"), "unable to use upstream authority singing current authority");
    world.roots = 1;
    assert_eq!(text(&world, "root-1"), "upstream authority didn't sign the old local authority");
    world.prepare(SlotId::B, START).unwrap();
    assert_eq!(text(&world, "root-1"), "only upstream authorities signing an old authority can be used");
    world.slots.activate(SlotId::B).unwrap();
    world.slots.check_upstream("root-0").unwrap();
    assert!(world.slots.note_tainted("root-0"));
    assert!(world.slots.overview().old.unwrap().tainted);
    assert!(!world.slots.active_is_tainted());
    assert!(world.slots.note_tainted("root-1"));
    assert!(world.slots.active_is_tainted(), "what an upstream authority certified is tainted with it");
}

#[test]
fn a_restart_between_two_journal_writes_leaves_one_authority_of_each_status() {
    let authority = |id: &str| {
        Arc::new(Fake { id: id.into(), above: "root".into(), issued_at: START, not_after: START + DAY })
    };
    let both_active = [
        (SlotId::A, Status::Active, authority("older"), false),
        (SlotId::B, Status::Active, authority("newer"), false),
    ];
    let slots = Slots::restored(both_active);
    assert_eq!(slots.active().unwrap().id, "newer");
    assert_eq!(slots.overview().old.unwrap().id, "older");
    let none_active = [
        (SlotId::A, Status::Old, authority("older"), false),
        (SlotId::B, Status::Prepared, authority("newer"), false),
    ];
    assert_eq!(plan(at(START), &Slots::restored(none_active)), [Step::Activate(SlotId::B)]);
    let tainted = [(SlotId::A, Status::Active, authority("bad"), true)];
    assert_eq!(
        plan(at(START), &Slots::restored(tainted)),
        [Step::Prepare(SlotId::B), Step::Activate(SlotId::B)]
    );
}

/// What can happen between two ticks.
#[derive(Clone, Debug)]
enum Event {
    Pass(i64),
    Jump(i64),
    Prepare,
    Activate,
    TaintOld,
    TaintAny(u8),
    Revoke,
    RotateUpstream,
    TaintUpstream,
    Restart,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_i64..10_000).prop_map(Event::Pass),
        2 => (-72_i64 * 3600..=72 * 3600).prop_map(Event::Jump),
        1 => Just(Event::Prepare),
        1 => Just(Event::Activate),
        1 => Just(Event::TaintOld),
        1 => (0_u8..20).prop_map(Event::TaintAny),
        1 => Just(Event::Revoke),
        1 => Just(Event::RotateUpstream),
        1 => Just(Event::TaintUpstream),
        1 => Just(Event::Restart),
    ]
}

fn happen(world: &mut World, event: &Event, now: &mut i64) {
    match event {
        Event::Pass(seconds) | Event::Jump(seconds) => *now += seconds,
        Event::Prepare => world.prepare(world.slots.preparation_slot(), *now).unwrap(),
        Event::Activate => {
            if let Some((slot, _)) = world.slots.prepared() {
                let tainted = world.slots.is_tainted(slot);
                assert_eq!(world.slots.activate(slot).is_err(), tainted);
            }
        }
        Event::TaintOld => {
            if let Some(old) = world.slots.overview().old {
                world.slots.check_taint(&old.id).unwrap();
                world.slots.note_tainted(&old.id);
                world.tainted.insert(old.id);
            }
        }
        Event::TaintAny(number) => {
            let id = format!("authority-{number}");
            if world.slots.note_tainted(&id) {
                world.tainted.insert(id);
            }
        }
        Event::Revoke => {
            if let Some(old) = world.slots.overview().old {
                world.slots.check_revocation(&old.id, true).unwrap();
            }
        }
        Event::RotateUpstream => world.roots += 1,
        // All but the one that certifies now.
        Event::TaintUpstream => {
            for root in (0..world.roots).map(|number| format!("root-{number}")) {
                world.slots.note_tainted(&root);
                world.tainted.insert(root);
            }
        }
        Event::Restart => restart(world),
    }
}

/// Keeps what a journal keeps: what was active or prepared, and the taint that the bundle knows.
fn restart(world: &mut World) {
    let active = world.slots.active_slot().map(|(slot, held)| (slot, Status::Active, Arc::clone(held)));
    let prepared = world.slots.prepared().map(|(slot, held)| (slot, Status::Prepared, Arc::clone(held)));
    let tainted = &world.tainted;
    let held = active.into_iter().chain(prepared);
    world.slots = Slots::restored(held.map(|(slot, status, held)| {
        let is_tainted = tainted.contains(&held.id) || tainted.contains(&held.above);
        (slot, status, held, is_tainted)
    }));
}

proptest! {
    /// Whatever the clock and the operators do: after a tick there is one valid authority that was prepared before
    /// it became active and is not tainted, and a second tick finds nothing more to do.
    #[test]
    fn a_tick_always_leaves_one_valid_authority(
        ttl in 60_i64..60 * DAY,
        story in prop::collection::vec(events(), 1..60),
    ) {
        let mut world = World::new(ttl);
        let mut now = START;
        for event in &story {
            happen(&mut world, event, &mut now);
            let steps = world.tick(now);
            let active = world.active();
            prop_assert!((active.not_before()..active.not_after()).contains(&now), "{active:?} at {now}");
            prop_assert!(world.prepared.contains(&active.id));
            prop_assert!(!world.tainted.contains(&active.id), "{} is tainted", active.id);
            prop_assert!(!world.tainted.contains(&active.above), "{} is tainted", active.above);
            for (index, step) in steps.iter().enumerate() {
                if let Step::Activate(slot) = step {
                    let made_now = steps[..index].contains(&Step::Prepare(*slot));
                    prop_assert!(made_now || index == 0);
                }
            }
            let again = world.tick(now);
            // An activation alone may find its successor due already.
            prop_assert!(again.is_empty() || matches!(again[..], [Step::Prepare(_)]), "{again:?}");
            prop_assert_eq!(world.tick(now), []);
        }
    }
}
