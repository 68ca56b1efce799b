use super::*;
use vouchsafe_types::selector::SelectorSet;
use vouchsafe_types::trust_domain::TrustDomain;

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&TrustDomain::parse("example.org").unwrap(), path).unwrap()
}

fn selectors(list: &[&str]) -> SelectorSet {
    list.iter().map(|text| Selector::parse(text).unwrap()).collect()
}

fn entry(name: &str, parent: &str, path: &str, has: &[&str]) -> Arc<Entry> {
    Arc::new(Entry::new(EntryId::parse(name).unwrap(), id(path), id(parent), selectors(has)))
}

fn agent(name: &str, has: &[&str]) -> Agent {
    Agent {
        id: id(&format!("/spire/agent/{name}")),
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

fn tree() -> Entries {
    let mut entries = Entries::default();
    for entry in [
        entry("own", "/spire/agent/a", "/own", &["unix:uid:1"]),
        entry("below", "/own", "/below", &["unix:uid:2"]),
        entry("alias", "/spire/server", "/rack", &["node:rack:1", "node:os:linux"]),
        entry("shared", "/rack", "/shared", &["unix:uid:3"]),
        entry("loop1", "/shared", "/loop", &["unix:uid:4"]),
        entry("loop2", "/loop", "/shared", &["unix:uid:5"]),
        entry("other", "/spire/agent/b", "/other", &["unix:uid:6"]),
    ] {
        entries.insert(entry);
    }
    entries
}

fn check(entries: &Entries, agent: &Agent, now: i64, expected: &[&str]) {
    let found: Vec<String> = entries.authorized(agent, now).iter().map(|e| e.id.to_string()).collect();
    assert_eq!(found, expected, "{}", agent.id);
    for entry in entries.after(None) {
        let alone = entries.authorized_entry(agent, entry.id.as_str(), now).is_some();
        assert_eq!(alone, expected.contains(&entry.id.as_str()), "{} for {}", entry.id, agent.id);
    }
}

#[test]
fn an_agent_gets_its_children_and_their_descendants() {
    check(&tree(), &agent("a", &[]), 0, &["below", "own"]);
    check(&tree(), &agent("b", &[]), 0, &["other"]);
    check(&tree(), &agent("c", &[]), 0, &[]);
}

#[test]
fn an_alias_counts_only_when_all_its_selectors_match() {
    let full = agent("c", &["node:os:linux", "node:rack:1", "node:zone:x"]);
    check(&tree(), &full, 0, &["loop1", "loop2", "shared"]);
    check(&tree(), &agent("c", &["node:os:linux"]), 0, &[]);
}

#[test]
fn an_expired_entry_authorizes_neither_itself_nor_what_is_below() {
    let mut entries = tree();
    let mut own = Entry::clone(entries.get("own").unwrap());
    own.expires_at = 100;
    entries.insert(Arc::new(own));
    check(&entries, &agent("a", &[]), 100, &["below", "own"]);
    check(&entries, &agent("a", &[]), 101, &[]);
}

#[test]
fn a_removed_or_moved_entry_leaves_no_trace_in_the_indexes() {
    let mut entries = tree();
    entries.insert(entry("own", "/spire/agent/b", "/own", &["unix:uid:1"]));
    check(&entries, &agent("a", &[]), 0, &[]);
    check(&entries, &agent("b", &[]), 0, &["below", "other", "own"]);
    let names: Vec<EntryId> = entries.after(None).map(|e| e.id.clone()).collect();
    for name in names {
        entries.remove(&name);
    }
    assert!(entries.is_empty() && entries.by_parent.is_empty());
    assert!(entries.by_spiffe_id.is_empty() && entries.aliases.is_empty());
}

#[test]
fn paging_resumes_after_the_last_id() {
    let entries = tree();
    let first: Vec<_> = entries.after(None).take(3).map(|e| e.id.clone()).collect();
    let rest = entries.after(first.last().map(EntryId::as_str)).count();
    assert_eq!(first.len() + rest, entries.len());
}
