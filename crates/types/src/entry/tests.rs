use super::*;
use crate::selector::Selector;

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| Selector::parse(text).unwrap()).collect()
}

fn entry() -> Entry {
    let parent = id("spiffe://example.org/spire/agent/join_token/a");
    let workload = id("spiffe://example.org/workload");
    Entry::new(EntryId::parse("e1").unwrap(), workload, parent, selectors(&["unix:uid:1000"]))
}

/// The whole chain of messages, as the server reports it.
fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[track_caller]
fn check(change: impl FnOnce(&mut Entry), expected: &str) {
    let mut entry = entry();
    change(&mut entry);
    let said = entry.validate(&trust_domain()).map_or_else(|error| message(&error), |()| String::new());
    assert_eq!(said, expected);
}

#[test]
fn a_plain_entry_and_each_option_of_it_are_valid() {
    check(|_| {}, "");
    check(|e| e.parent_id = id("spiffe://example.org/spire/server"), "");
    check(|e| e.parent_id = id("spiffe://example.org/workload"), "");
    check(|e| e.dns_names = vec!["a.example".into(), "*.b.example".into()], "");
    check(|e| e.hint = "h".repeat(MAX_HINT_BYTES), "");
    check(|e| e.federates_with = vec![TrustDomain::parse("other.org").unwrap()], "");
    check(|e| e.x509_svid_ttl = 2_147_483_647, "");
    check(|e| e.disable_x509_svid_prefetch = true, "");
    check(
        |e| {
            e.store_svid = true;
            e.selectors = selectors(&["aws_secretsmanager:a:1", "aws_secretsmanager:b:2"]);
        },
        "",
    );
}

#[test]
fn an_entry_stays_within_its_trust_domain() {
    check(
        |e| e.spiffe_id = id("spiffe://other.org/a"),
        "invalid spiffe ID: \"spiffe://other.org/a\" is not a member of trust domain \"example.org\"",
    );
    check(
        |e| e.spiffe_id = id("spiffe://example.org"),
        "invalid spiffe ID: \"spiffe://example.org\" is not a workload in trust domain \"example.org\"; path is empty",
    );
    check(
        |e| e.spiffe_id = id("spiffe://example.org/spire/agent/x"),
        "invalid spiffe ID: \"spiffe://example.org/spire/agent/x\" is not a workload in trust domain \"example.org\"; \
         path is in the reserved namespace",
    );
    check(
        |e| e.parent_id = id("spiffe://other.org/a"),
        "invalid parent ID: \"spiffe://other.org/a\" is not a member of trust domain \"example.org\"",
    );
    check(
        |e| e.parent_id = id("spiffe://example.org"),
        "invalid parent ID: \"spiffe://example.org\" is not a member of trust domain \"example.org\"; path is empty",
    );
}

#[test]
fn each_broken_field_is_named() {
    check(|e| e.selectors = selectors(&[]), "selector list is empty");
    check(|e| e.dns_names = vec!["a..b".into()], "invalid DNS name: label is empty");
    check(|e| e.dns_names = vec!["a".into(); MAX_DNS_NAMES + 1], "more than 1024 DNS names");
    check(|e| e.hint = "h".repeat(MAX_HINT_BYTES + 1), "hint is too long, max length is 1024 characters");
    check(|e| e.x509_svid_ttl = 1 << 31, "X509-SVID TTL is longer than 2147483647 seconds");
    check(|e| e.jwt_svid_ttl = 1 << 31, "JWT-SVID TTL is longer than 2147483647 seconds");
    check(
        |e| e.federates_with = vec![trust_domain(); MAX_FEDERATES_WITH + 1],
        "federates with more than 1024 trust domains",
    );
    check(
        |e| e.selectors = (0..=MAX_SELECTORS).map(|n| Selector::new("n", &n.to_string()).unwrap()).collect(),
        "more than 1024 selectors",
    );
}

#[test]
fn a_stored_svid_has_selectors_of_one_kind_and_the_usual_cache() {
    check(
        |e| {
            e.store_svid = true;
            e.selectors = selectors(&["a:1", "b:1"]);
        },
        "selector types must be the same when store SVID is enabled",
    );
    check(
        |e| {
            e.store_svid = true;
            e.disable_x509_svid_prefetch = true;
        },
        "specifying cache behaviour is incompatible with storable SVIDs",
    );
}

#[test]
fn entries_are_similar_by_identity_parent_and_exact_selectors() {
    let mut other = entry();
    other.id = EntryId::parse("e2").unwrap();
    other.hint = "h".into();
    assert!(entry().is_similar_to(&other));
    other.selectors = selectors(&["unix:uid:1000", "unix:gid:1000"]);
    assert!(!entry().is_similar_to(&other));
    other = entry();
    other.parent_id = id("spiffe://example.org/spire/server");
    assert!(!entry().is_similar_to(&other));
}

#[test]
fn an_entry_without_an_end_never_expires() {
    let mut entry = entry();
    assert!(!entry.is_expired(i64::MAX));
    entry.expires_at = 10;
    assert!(!entry.is_expired(10));
    assert!(entry.is_expired(11));
}

#[test]
fn entry_ids_keep_to_their_alphabet_and_length() {
    for text in ["a", "A-z_0.9", &"a".repeat(255)] {
        assert_eq!(EntryId::parse(text).unwrap().as_str(), text);
    }
    assert_eq!(EntryId::parse(""), Err(EntryError::NoId));
    assert_eq!(EntryId::parse(&"a".repeat(256)), Err(EntryError::IdTooLong));
    for text in ["a b", "a/b", "ä", "a:b", "a\n"] {
        assert_eq!(EntryId::parse(text), Err(EntryError::IdCharacter));
    }
}

#[test]
fn an_entry_round_trips_through_serde() {
    let json = serde_json::to_string(&entry()).unwrap();
    assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry());
    assert!(serde_json::from_str::<Entry>(&json.replace("/workload", "/work load")).is_err());
}
