//! What spire-controller-manager's documentation promises.

use super::*;

#[test]
fn each_pod_that_is_selected_gets_an_entry_and_loses_it() {
    let mut stage = Stage::new();
    stage.rule("r", with("podSelector", json!({ "matchLabels": { "app": "web" } })));
    stage.pod("web-1", json!({ "app": "web" }));
    stage.pod("db-1", json!({ "app": "db" }));
    stage.settle();
    assert_eq!(stage.paths(), ["/web-1"]);
    let entry = stage.server.values().next().unwrap();
    assert_eq!(entry.parent_id.path(), "/spire/agent/k8s_psat/blue/uid-node-1");
    let selectors: Vec<_> = entry.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["k8s:pod-uid:uid-web-1"]);
    stage.pod("web-2", json!({ "app": "web" }));
    assert_eq!(stage.settle(), 1, "one Pod is looked at");
    assert_eq!(stage.log, ["create /web-2"]);
    stage.pod("web-1", json!({ "app": "db" }));
    stage.delete_pod("web-2");
    stage.settle();
    assert_eq!(stage.paths(), [""; 0]);
}

#[test]
fn every_field_of_the_object_arrives_in_the_entry() {
    let mut stage = Stage::new();
    stage.rule(
        "r",
        json!({
            "spiffeIDTemplate": "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}",
            "ttl": "1h", "jwtTtl": "90s", "admin": true, "downstream": true, "hint": "internal",
            "dnsNameTemplates": ["{{ .PodMeta.Name }}.{{ .ClusterDomain }}", "web"],
            "workloadSelectorTemplates": ["k8s:container-name:{{ .PodMeta.Name }}"],
            "federatesWith": ["b.example", "spiffe://c.example", "b.example"],
            "autoPopulateDNSNames": true,
        }),
    );
    stage.pod("web-1", json!({}));
    stage.endpoints("web", &["web-1"]);
    stage.endpoints("other", &["db-1"]);
    stage.settle();
    let entry = stage.server.values().next().unwrap();
    assert_eq!(entry.spiffe_id.as_str(), "spiffe://example.org/ns/shop/sa/till");
    assert_eq!((entry.x509_svid_ttl, entry.jwt_svid_ttl), (3_600, 90));
    assert!(entry.admin && entry.downstream && !entry.store_svid);
    assert_eq!(entry.hint, "internal");
    assert_eq!(
        entry.dns_names,
        ["web-1.cluster.local", "web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"]
    );
    let selectors: Vec<_> = entry.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["k8s:container-name:web-1", "k8s:pod-uid:uid-web-1"]);
    let foreign: Vec<_> = entry.federates_with.iter().map(TrustDomain::as_str).collect();
    assert_eq!(foreign, ["b.example", "c.example"]);
}

#[test]
fn names_of_services_come_and_go_with_their_endpoints() {
    let mut stage = Stage::new();
    stage.rule("r", with("autoPopulateDNSNames", json!(true)));
    stage.pod("web-1", json!({}));
    stage.pod("web-2", json!({}));
    stage.settle();
    stage.endpoints("web", &["web-2"]);
    assert_eq!(stage.settle(), 1);
    assert_eq!(stage.log, ["update /web-2"]);
    stage.endpoints("web", &["web-1"]);
    assert_eq!(stage.settle(), 2);
    assert_eq!(stage.log.len(), 2);
    stage.world.endpoints.clear();
    stage.settle();
    assert_eq!(stage.log, ["update /web-1"]);
    assert!(stage.server.values().all(|entry| entry.dns_names.is_empty()));
}

#[test]
fn namespaces_are_selected_by_label_and_ignored_by_pattern() {
    let mut stage = Stage::new();
    stage.namespace("kube-system", json!({ "team": "a" }));
    stage.namespace("lab", json!({ "team": "b" }));
    stage.rule("r", with("namespaceSelector", json!({ "matchLabels": { "team": "a" } })));
    for (namespace, name) in [("shop", "web"), ("kube-system", "dns"), ("lab", "rat")] {
        stage.pod_in(namespace, name, "node-1", json!({}));
    }
    stage.settle();
    assert_eq!(stage.paths(), ["/web"]);
    let tally = stage.tally("r");
    assert_eq!((tally.namespaces_selected, tally.namespaces_ignored, tally.pods_selected), (2, 1, 1));
    stage.namespace("lab", json!({ "team": "a" }));
    assert_eq!(stage.settle(), 1, "the Pods of that namespace");
    assert_eq!(stage.paths(), ["/rat", "/web"]);
    assert_eq!(stage.tally("r").namespaces_selected, 3);
}

#[test]
fn a_fallback_applies_only_where_nothing_else_does() {
    let mut stage = Stage::new();
    stage.rule(
        "a-fallback",
        json!({ "spiffeIDTemplate": "spiffe://example.org/fallback/{{ .PodMeta.Name }}", "fallback": true }),
    );
    stage.rule("named", with("podSelector", json!({ "matchLabels": { "app": "web" } })));
    stage.pod("web", json!({ "app": "web" }));
    stage.pod("db", json!({}));
    stage.settle();
    assert_eq!(stage.paths(), ["/fallback/db", "/web"]);
    assert_eq!((stage.tally("a-fallback").pods_selected, stage.tally("a-fallback").to_set), (2, 1));
}

#[test]
fn of_two_objects_for_one_entry_the_older_one_wins_and_the_other_is_counted_as_masked() {
    let mut stage = Stage::new();
    stage.aged_rule("young", "2026-02-01T00:00:00Z", with("hint", json!("young")));
    stage.aged_rule("old", "2026-01-01T00:00:00Z", with("hint", json!("old")));
    stage.pod("web", json!({}));
    stage.settle();
    assert_eq!(stage.server.values().map(|entry| entry.hint.as_str()).collect::<Vec<_>>(), ["old"]);
    assert_eq!((stage.tally("old").to_set, stage.tally("old").masked.len()), (1, 0));
    assert_eq!((stage.tally("young").to_set, stage.tally("young").masked.len()), (0, 1));
    assert_eq!(&*stage.tally("young").masked[&Name::new("shop", "web")], "ClusterSPIFFEID old");
    stage.world.rules.remove(&Name::cluster("old"));
    stage.settle();
    assert_eq!(stage.log, ["update /web"], "changed in place, not withdrawn");
    assert_eq!((stage.tally("young").to_set, stage.tally("young").masked.len()), (1, 0));
}

#[test]
fn a_static_entry_is_set_changed_and_removed() {
    let mut stage = Stage::new();
    let spec = |hint: &str| {
        json!({
            "spiffeID": "spiffe://example.org/db", "parentID": "spiffe://example.org/node", "selectors": ["unix:uid:1"],
            "hint": hint, "storeSVID": true,
        })
    };
    stage.static_entry("s", spec("a"));
    stage.static_entry("twin", spec("b"));
    stage.settle();
    assert_eq!(stage.log, ["create /db"]);
    assert_eq!(stage.ledger.statics["s"].standing, StaticStanding::Set);
    assert_eq!(stage.ledger.statics["twin"].standing, StaticStanding::Masked("ClusterStaticEntry s".into()));
    stage.static_entry("s", spec("c"));
    stage.settle();
    assert_eq!(stage.log, ["update /db"]);
    assert_eq!(stage.ledger.statics["s"].standing, StaticStanding::Set);
    stage.world.statics.clear();
    stage.settle();
    assert_eq!(stage.paths(), [""; 0]);
}

#[test]
fn what_nobody_declares_is_removed_but_for_the_entries_of_join_tokens() {
    let mut stage = Stage::new();
    stage.made_by_hand("by-hand", "/by-hand", "/node", &["unix:uid:1"]);
    stage.made_by_hand("token", "/alias", "/spire/agent/join_token/t", &["spiffe_id:x"]);
    stage.restart();
    assert_eq!(stage.paths(), ["/alias"]);
}

#[test]
fn with_a_prefix_only_its_own_entries_are_touched() {
    let mut terms = terms();
    terms.entry_ids = EntryIds::new("blue", Some("green")).unwrap();
    let mut stage = Stage::with(terms);
    stage.made_by_hand("other", "/other", "/node", &["unix:uid:1"]);
    stage.made_by_hand("blue.1", "/gone", "/node", &["unix:uid:2"]);
    stage.made_by_hand("green.1", "/old", "/node", &["unix:uid:3"]);
    stage.made_by_hand("green.2", "/web", "/spire/agent/k8s_psat/blue/uid-node-1", &["k8s:pod-uid:uid-web"]);
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.restart();
    assert_eq!(stage.server.keys().collect::<Vec<_>>(), ["blue.e1", "other"]);
    assert_eq!(stage.paths(), ["/other", "/web"]);
    // A similar entry of somebody else is in the way.
    stage.pod("db", json!({}));
    stage.ledger.observe(stage.world.clone());
    let plan = stage.ledger.plan();
    let foreign = EntryId::parse("red.1").unwrap();
    stage.ledger.existed(&plan.create[0].key, foreign, (*plan.create[0].draft).clone());
    stage.settle();
    assert!(stage.tally("r").refused[&Name::new("shop", "db")].contains("red.1"));
}

#[test]
fn objects_of_another_class_are_nobodys_business() {
    for (class, expected) in [
        (Class::default(), vec!["/none"]),
        (Class { name: "blue".into(), classless: false }, vec!["/blue"]),
        (Class { name: "blue".into(), classless: true }, vec!["/blue", "/none"]),
    ] {
        let mut stage = Stage::with(Terms { class, ..terms() });
        for name in ["", "blue", "green"] {
            let path = if name.is_empty() { "none" } else { name };
            stage.rule(
                path,
                json!({ "spiffeIDTemplate": format!("spiffe://example.org/{path}"), "className": name }),
            );
        }
        stage.pod("web", json!({}));
        stage.settle();
        assert_eq!(stage.paths(), expected);
    }
}

#[test]
fn what_somebody_changed_on_the_server_is_set_right_and_the_rest_left_alone() {
    let mut stage = Stage::new();
    stage.rule("r", with("dnsNameTemplates", json!(["a", "b"])));
    stage.pod("web", json!({}));
    stage.pod("db", json!({}));
    stage.settle();
    for entry in stage.server.values_mut() {
        entry.dns_names.reverse();
    }
    stage.compare();
    assert_eq!(stage.log, [""; 0], "an order is no difference");
    stage.server.values_mut().next().unwrap().admin = true;
    let second = stage.server.keys().nth(1).unwrap().clone();
    stage.server.remove(&second);
    stage.compare();
    assert_eq!(stage.log.len(), 2, "{:?}", stage.log);
    stage.restart();
    assert_eq!(stage.log, [""; 0], "a restart writes nothing");
}

#[test]
fn a_field_that_the_server_does_not_keep_is_not_written_for_ever() {
    let mut stage = Stage::new();
    stage.rule("r", with("hint", json!("internal")));
    stage.pod("web", json!({}));
    stage.ledger.observe(stage.world.clone());
    for _ in 0..3 {
        let plan = stage.ledger.plan();
        for one in plan.create {
            let kept = Draft { hint: String::new(), ..(*one.draft).clone() };
            stage.ledger.created(&one.key, EntryId::parse("e1").unwrap(), kept);
        }
        assert!(plan.update.is_empty());
    }
}

#[test]
fn a_pod_without_a_node_waits_and_gets_its_entry_when_both_are_there() {
    let mut stage = Stage::new();
    stage.rule("r", by_name());
    stage.pod_in("shop", "web", "", json!({}));
    stage.settle();
    assert_eq!((stage.tally("r").waiting, stage.tally("r").failures.len()), (1, 0));
    stage.pod_in("shop", "web", "node-2", json!({}));
    stage.settle();
    assert_eq!(stage.tally("r").failures.len(), 1);
    stage.node("node-2");
    stage.settle();
    assert_eq!(stage.log, ["create /web"]);
    assert_eq!((stage.tally("r").waiting, stage.tally("r").failures.len()), (0, 0));
}
