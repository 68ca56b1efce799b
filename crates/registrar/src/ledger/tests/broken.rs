//! What a mistake does not do.

use super::*;

fn broken() -> Json {
    json!({ "spiffeIDTemplate": "spiffe://example.org/{{ .PodMeta.Nmae }}" })
}

#[test]
fn a_template_that_does_not_parse_leaves_its_last_good_version_in_force() {
    let mut stage = Stage::new();
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.settle();
    stage.rule("r", json!({ "spiffeIDTemplate": "spiffe://example.org/{{ .PodMeta" }));
    stage.settle();
    assert_eq!(stage.log, [""; 0]);
    assert!(stage.ledger.rules["r"].error.as_ref().unwrap().contains("invalid spiffeIDTemplate"));
    // Also for Pods that come and go meanwhile.
    stage.pod("db", json!({}));
    stage.settle();
    stage.delete_pod("web");
    stage.settle();
    assert_eq!(stage.paths(), ["/db"]);
    stage.rule("r", with("hint", json!("mended")));
    stage.settle();
    assert_eq!(stage.log, ["update /db"]);
    assert!(stage.ledger.rules["r"].error.is_none());
}

#[test]
fn a_version_that_gives_nothing_for_a_pod_leaves_what_the_version_before_made() {
    for spec in [broken(), json!({ "spiffeIDTemplate": "spiffe://other.org/{{ .PodMeta.Name }}" })] {
        let mut stage = Stage::new();
        stage.rule("r", by_name());
        stage.pod("web", json!({}));
        stage.settle();
        stage.rule("r", spec);
        stage.settle();
        assert_eq!(stage.log, [""; 0]);
        assert_eq!(stage.tally("r").failures.len(), 1);
        // For a new Pod there is nothing to keep, and a Pod that goes takes its entry along.
        stage.pod("db", json!({}));
        stage.settle();
        assert_eq!(stage.paths(), ["/web"]);
        assert_eq!(stage.tally("r").failures.len(), 2);
        stage.delete_pod("web");
        stage.settle();
        assert_eq!(stage.paths(), [""; 0]);
    }
}

#[test]
fn a_pod_that_is_not_what_it_was_loses_what_it_had() {
    let mut stage = Stage::new();
    stage.rule(
        "r",
        json!({ "spiffeIDTemplate": "spiffe://example.org/{{ .PodMeta.Labels.team }}/{{ .PodMeta.Name }}" }),
    );
    stage.pod("web", json!({ "team": "a" }));
    stage.settle();
    assert_eq!(stage.paths(), ["/a/web"]);
    stage.pod("web", json!({}));
    stage.settle();
    assert_eq!(stage.paths(), [""; 0], "the label that earned it is gone");
    assert_eq!(stage.tally("r").failures.len(), 1);
}

#[test]
fn after_a_restart_a_broken_object_still_withdraws_nothing_that_it_may_have_declared() {
    for spec in
        [broken(), json!({ "spiffeIDTemplate": "{{", "podSelector": { "matchLabels": { "app": "web" } } })]
    {
        let mut stage = Stage::new();
        stage.rule("r", with("podSelector", json!({ "matchLabels": { "app": "web" } })));
        stage.pod("web", json!({ "app": "web" }));
        stage.settle();
        stage.made_by_hand("x", "/x", "/node", &["unix:uid:1"]);
        stage.made_by_hand("gone", "/gone", "/node", &["k8s:pod-uid:uid-gone"]);
        let mut spec = spec;
        spec["podSelector"] = json!({ "matchLabels": { "app": "web" } });
        stage.rule("r", spec);
        stage.restart();
        assert_eq!(stage.paths(), ["/web"], "its Pod is there; the others are not of this object");
        assert_eq!(stage.ledger.held_back(), 1);
        stage.rule("r", json!({ "spiffeIDTemplate": "spiffe://example.org/new/{{ .PodMeta.Name }}" }));
        stage.settle();
        assert_eq!(stage.paths(), ["/new/web"], "mended, the object decides again");
        assert_eq!(stage.ledger.held_back(), 0);
    }
}

#[test]
fn a_broken_static_entry_withdraws_nothing() {
    let mut stage = Stage::new();
    let good = json!({
        "spiffeID": "spiffe://example.org/db", "parentID": "spiffe://example.org/node", "selectors": ["unix:uid:1"],
    });
    let mut bad = good.clone();
    bad["spiffeID"] = json!("spiffe://other.org/db");
    stage.static_entry("s", good);
    stage.settle();
    stage.static_entry("s", bad);
    stage.settle();
    assert_eq!(stage.paths(), ["/db"]);
    assert_eq!(stage.ledger.statics["s"].standing, StaticStanding::Set);
    assert!(stage.ledger.statics["s"].error.is_some());
    stage.restart();
    assert_eq!(stage.paths(), ["/db"], "nobody knows what it said");
    stage.world.statics.clear();
    stage.settle();
    assert_eq!(stage.paths(), [""; 0]);
}

#[test]
fn while_an_object_cannot_be_read_at_all_nothing_unknown_is_removed() {
    let mut stage = Stage::new();
    stage.made_by_hand("x", "/x", "/node", &["unix:uid:1"]);
    stage.world.unreadable = true;
    stage.restart();
    assert_eq!(stage.paths(), ["/x"]);
    stage.world.unreadable = false;
    stage.settle();
    assert_eq!(stage.paths(), [""; 0]);
}

#[test]
fn what_the_server_refuses_is_said_and_tried_again_only_after_a_comparison() {
    let mut stage = Stage::new();
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.ledger.observe(stage.world.clone());
    let plan = stage.ledger.plan();
    stage.ledger.refused(&plan.create[0].key, "InvalidArgument: no");
    assert!(stage.ledger.plan().is_empty());
    assert_eq!(&*stage.tally("r").refused[&Name::new("shop", "web")], "InvalidArgument: no");
    assert_eq!(stage.tally("r").to_set, 1);
    stage.compare();
    assert_eq!(stage.log, ["create /web"]);
    assert!(stage.tally("r").refused.is_empty());
}

#[test]
fn what_may_or_may_not_have_been_done_is_planned_again() {
    let mut stage = Stage::new();
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.ledger.observe(stage.world.clone());
    let lost = stage.ledger.plan();
    stage.ledger.undone(&lost.create[0].key);
    // The server did it after all, and the answer was lost.
    stage.server.insert("e9".to_owned(), (*lost.create[0].draft).clone());
    stage.compare();
    assert_eq!(stage.log, [""; 0]);
    assert_eq!(stage.paths(), ["/web"]);
}

#[test]
fn while_a_rule_is_broken_its_last_good_version_is_applied_to_pods_that_change() {
    let by_team =
        json!({ "spiffeIDTemplate": "spiffe://example.org/{{ .PodMeta.Labels.team }}/{{ .PodMeta.Name }}" });
    let mut stage = Stage::new();
    stage.rule("r", by_team);
    stage.pod("web", json!({ "team": "a" }));
    stage.settle();
    stage.rule("r", broken());
    stage.settle();
    assert_eq!(stage.paths(), ["/a/web"]);
    stage.pod("web", json!({ "team": "b" }));
    stage.settle();
    assert_eq!(stage.paths(), ["/b/web"]);
    assert_eq!(stage.tally("r").failures.len(), 1);
    stage.pod("web", json!({}));
    stage.settle();
    assert_eq!(stage.paths(), [""; 0], "what earned it is gone");
}

#[test]
fn what_fails_though_the_pod_is_what_it_was_withdraws_nothing() {
    let mut stage = Stage::new();
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.settle();
    let node = stage.world.nodes.remove(&Name::cluster("node-1")).unwrap();
    stage.settle();
    assert_eq!(stage.paths(), ["/web"]);
    assert_eq!(stage.tally("r").failures.len(), 1);
    stage.world.nodes.insert(Name::cluster("node-1"), node);
    stage.settle();
    assert_eq!(stage.log, [""; 0]);
    assert!(stage.tally("r").failures.is_empty());
}

#[test]
fn names_of_services_that_no_certificate_may_have_are_left_out() {
    let mut stage = Stage::new();
    stage.rule("r", with("autoPopulateDNSNames", json!(true)));
    stage.pod("web", json!({}));
    stage.endpoints("good", &["web"]);
    stage.settle();
    let longest = "a".repeat(64);
    stage.endpoints(&longest, &["web"]);
    for n in 0..vouchsafe_types::entry::MAX_DNS_NAMES / 4 {
        stage.endpoints(&format!("s-{n}"), &["web"]);
    }
    stage.settle();
    let names = &stage.server.values().next().unwrap().dns_names;
    assert!(
        names.contains(&"good.shop.svc".to_owned()) && !names.iter().any(|name| name.starts_with(&longest))
    );
    assert_eq!(names.len(), vouchsafe_types::entry::MAX_DNS_NAMES);
    let verdict = crate::status::of_rule(stage.tally("r"), None);
    assert_eq!((verdict.ready, verdict.reason), (false, "DNSNamesLeftOut"));
    stage.world.endpoints.clear();
    stage.settle();
    assert!(crate::status::of_rule(stage.tally("r"), None).ready);
}
