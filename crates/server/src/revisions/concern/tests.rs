use super::*;
use crate::model::ReadModel;
use proptest::prelude::*;
use vouchsafe_store::{Change, Position};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::selector::{Selector, SelectorSet};

const AGENTS: usize = 4;

fn own() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&own(), path).unwrap()
}

fn selectors(numbers: &BTreeSet<u8>) -> SelectorSet {
    numbers.iter().map(|n| Selector::parse(&format!("node:{n}")).unwrap()).collect()
}

fn agent(number: usize, has: &BTreeSet<u8>) -> Agent {
    Agent {
        id: id(&format!("/spire/agent/{number}")),
        attestation_type: "test".into(),
        serial_number: "1".into(),
        expires_at: 0,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: selectors(has),
        agent_version: String::new(),
    }
}

/// Under an agent, the server or another entry.
fn parent() -> impl Strategy<Value = SpiffeId> {
    prop_oneof![
        2 => (0..AGENTS).prop_map(|n| id(&format!("/spire/agent/{n}"))),
        2 => Just(id("/spire/server")),
        3 => (0_u8..6).prop_map(|n| id(&format!("/w/{n}"))),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let has = || prop::collection::btree_set(0_u8..3, 0..3);
    let entry = (0_u8..8, parent(), 0_u8..6, has(), 0_i64..3, any::<bool>()).prop_map(
        |(name, parent, path, has, revision, federates)| {
            let name = EntryId::parse(&format!("e{name}")).unwrap();
            let mut entry = Entry::new(name.clone(), id(&format!("/w/{path}")), parent, selectors(&has));
            entry.revision_number = revision;
            entry.federates_with =
                federates.then(|| TrustDomain::parse("foreign.org").unwrap()).into_iter().collect();
            Change::Entry(name, Some(entry))
        },
    );
    let gone = (0_u8..8).prop_map(|n| Change::Entry(EntryId::parse(&format!("e{n}")).unwrap(), None));
    let moved = (0..AGENTS, has()).prop_map(|(n, has)| {
        let agent = agent(n, &has);
        Change::Agent(agent.id.clone(), Some(agent))
    });
    let bundle = (any::<bool>(), 0_u64..3).prop_map(|(foreign, sequence_number)| {
        let name = if foreign { TrustDomain::parse("foreign.org").unwrap() } else { own() };
        Change::Bundle(name.clone(), Some(Bundle { sequence_number, ..Bundle::new(name) }))
    });
    prop_oneof![6 => entry, 2 => gone, 1 => moved, 1 => bundle]
}

/// What an agent may ask for, and the bundles that it gets, found by looking at everything.
fn naive(snapshot: &Snapshot, agent: &SpiffeId) -> (Vec<Arc<Entry>>, Vec<Option<Arc<Bundle>>>) {
    let entries = snapshot.agents.get(agent).map(|agent| snapshot.entries.authorized(agent, 0));
    let entries = entries.unwrap_or_default();
    let foreign: BTreeSet<_> =
        entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()).collect();
    let bundles = std::iter::once(own()).chain(foreign).map(|name| snapshot.bundles.get(&name).cloned());
    (entries, bundles.collect())
}

/// The audience as it is after `difference`, and who moved.
fn audience(difference: &Difference, before: &Snapshot, after: &Snapshot) -> (Audience, HashSet<SpiffeId>) {
    let (mut audience, mut moved) = (Audience::default(), HashSet::new());
    for agent in before.agents.values() {
        audience.put(&agent.id, &agent.selectors);
    }
    for agent in difference.agents.iter().filter_map(|id| after.agents.get(id)) {
        if audience.put(&agent.id, &agent.selectors) {
            moved.insert(agent.id.clone());
        }
    }
    (audience, moved)
}

/// `snapshot` after `changes`, as the read model makes it.
fn after(snapshot: &Snapshot, changes: Vec<Change>) -> Snapshot {
    let position = Position(snapshot.position().0 + 1);
    let model = ReadModel::new(snapshot.clone());
    model.apply(changes, position);
    Snapshot::clone(&model.load())
}

fn world(changes: Vec<Change>) -> Snapshot {
    let agents = (0..AGENTS).map(|n| agent(n, &BTreeSet::from([u8::try_from(n).unwrap() % 3])));
    let agents = agents.map(|agent| Change::Agent(agent.id.clone(), Some(agent)));
    after(&Snapshot::default(), agents.chain(changes).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whoever follows what it is told holds what it is authorized for; nobody has to look at anything else.
    #[test]
    fn who_is_told_nothing_misses_nothing(
        first in prop::collection::vec(change(), 0..24),
        then in prop::collection::vec(change(), 1..8),
    ) {
        let before = world(first);
        let after = after(&before, then);
        let difference = Difference::between(&before, &after);
        let (audience, moved) = audience(&difference, &before, &after);
        let told = concerned(&difference, (&before, &after), (&audience, &moved), &own());
        for number in 0..AGENTS {
            let agent = id(&format!("/spire/agent/{number}"));
            let ((held, held_bundles), (wanted, wanted_bundles)) = (naive(&before, &agent), naive(&after, &agent));
            let news = told.get(&agent).cloned().unwrap_or_default();
            let mut follows: Vec<_> = held.into_iter().filter(|entry| !news.entries.contains(&entry.id)).collect();
            let newly = wanted.iter().filter(|entry| news.entries.contains(&entry.id));
            follows.extend(newly.cloned());
            follows.sort_by(|a, b| a.id.cmp(&b.id));
            prop_assert!(news.compare || follows == wanted, "{} has {:?}, wants {:?}", agent, follows, wanted);
            let changed = held_bundles != wanted_bundles && news.entries.is_empty() && !news.compare;
            prop_assert!(!changed || !news.bundles.is_empty(), "{} was not told of a bundle", agent);
        }
    }

    /// The difference is what happened.
    #[test]
    fn the_difference_leads_from_one_snapshot_to_the_other(
        first in prop::collection::vec(change(), 0..24),
        then in prop::collection::vec(change(), 0..24),
    ) {
        let before = world(first);
        let after = after(&before, then);
        let mut entries: HashMap<EntryId, Arc<Entry>> =
            before.entries.after(None).map(|entry| (entry.id.clone(), entry.clone())).collect();
        for (gone, come) in Difference::between(&before, &after).entries {
            gone.iter().for_each(|entry| drop(entries.remove(&entry.id)));
            entries.extend(come.map(|entry| (entry.id.clone(), entry)));
        }
        let expected: HashMap<_, _> =
            after.entries.after(None).map(|entry| (entry.id.clone(), entry.clone())).collect();
        prop_assert_eq!(entries, expected);
    }
}

fn entry(name: &str, parent: &str, path: &str, has: &[u8]) -> Change {
    let name = EntryId::parse(name).unwrap();
    let has = selectors(&has.iter().copied().collect());
    Change::Entry(name.clone(), Some(Entry::new(name, id(path), id(parent), has)))
}

fn told(before: &Snapshot, then: Vec<Change>) -> Vec<(String, News)> {
    let after = after(before, then);
    let difference = Difference::between(before, &after);
    let (audience, moved) = audience(&difference, before, &after);
    let told = concerned(&difference, (before, &after), (&audience, &moved), &own());
    let mut told: Vec<_> = told.into_iter().map(|(id, news)| (id.path().to_owned(), news)).collect();
    told.sort_by(|a, b| a.0.cmp(&b.0));
    told
}

#[test]
fn an_entry_concerns_its_agent_alone_and_an_alias_without_children_nobody() {
    let before = world(Vec::new());
    let new = told(&before, vec![entry("e1", "/spire/agent/1", "/w/1", &[0])]);
    let news = News { entries: BTreeSet::from([EntryId::parse("e1").unwrap()]), ..News::default() };
    assert_eq!(new, [("/spire/agent/1".to_owned(), news)]);
    assert_eq!(told(&before, vec![entry("alias", "/spire/server", "/w/2", &[1])]), []);
}

#[test]
fn an_entry_under_an_alias_concerns_the_agents_with_its_selectors() {
    let before = world(vec![entry("alias", "/spire/server", "/w/2", &[0])]);
    let new = told(&before, vec![entry("e1", "/w/2", "/w/1", &[0])]);
    // Agents 0 and 3 have selector 0.
    assert_eq!(
        new.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(),
        ["/spire/agent/0", "/spire/agent/3"]
    );
    assert!(new.iter().all(|(_, news)| news.entries.len() == 1 && !news.compare));
}

#[test]
fn more_entries_than_are_told_one_by_one_are_compared() {
    let before = world(Vec::new());
    let many = |count| (0..count).map(|n| entry(&format!("m{n}"), "/spire/agent/1", "/w/1", &[0])).collect();
    assert_eq!(told(&before, many(MAX_ENTRIES))[0].1.entries.len(), MAX_ENTRIES);
    assert_eq!(told(&before, many(MAX_ENTRIES + 1))[0].1, News::everything());
}

#[test]
fn an_agent_whose_selectors_changed_compares_everything_and_others_ask_whether_they_may_listen() {
    let before = world(Vec::new());
    let (moved, banned) = (
        agent(1, &BTreeSet::from([2])),
        Agent { serial_number: String::new(), ..agent(2, &BTreeSet::from([2])) },
    );
    let changes = [moved, banned].map(|agent| Change::Agent(agent.id.clone(), Some(agent)));
    let told = told(&before, changes.to_vec());
    let kinds: Vec<_> = told.iter().map(|(id, news)| (id.as_str(), news.compare, news.admission)).collect();
    assert_eq!(kinds, [("/spire/agent/1", true, true), ("/spire/agent/2", false, true)]);
}

#[test]
fn the_own_bundle_concerns_everyone() {
    let before = world(Vec::new());
    let bundle = Change::Bundle(own(), Some(Bundle { sequence_number: 9, ..Bundle::new(own()) }));
    assert_eq!(told(&before, vec![bundle]).len(), AGENTS);
}
