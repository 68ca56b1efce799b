//! What follows when the server would not do something, or when it is not safe to ask for it.

use super::*;

const PODS: [&str; 1] = ["k8s:pod-uid:uid-web"];
const AGENT: &str = "/spire/agent/k8s_psat/blue/uid-node-1";

fn named(path: &str) -> Json {
    json!({ "spiffeIDTemplate": format!("spiffe://example.org/{path}/{{{{ .PodMeta.Name }}}}") })
}

#[test]
fn a_deletion_that_failed_is_tried_again_at_each_comparison() {
    let mut stage = Stage::new();
    stage.made_by_hand("x", "/x", "/node", &["unix:uid:1"]);
    stage.keeps_all = true;
    for _ in 0..3 {
        stage.compare();
        assert_eq!(stage.log, ["keep /x"]);
    }
    stage.keeps_all = false;
    stage.compare();
    assert_eq!(stage.paths(), [""; 0]);
}

#[test]
fn what_is_there_twice_or_under_an_old_prefix_is_removed_however_often_that_fails() {
    let mut stage = Stage::with(Terms { entry_ids: EntryIds::new("new", Some("old")).unwrap(), ..terms() });
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.settle();
    stage.made_by_hand("new.2", "/web", AGENT, &PODS);
    stage.made_by_hand("old.3", "/web", AGENT, &PODS);
    stage.keeps_all = true;
    for _ in 0..3 {
        stage.compare();
        assert_eq!(stage.log, ["keep /web", "keep /web"]);
    }
    stage.keeps_all = false;
    stage.compare();
    assert_eq!(stage.paths(), ["/web"]);
}

#[test]
fn an_entry_stays_while_what_is_to_take_its_place_is_refused() {
    let mut stage = Stage::new();
    stage.rule("r", named("old"));
    stage.rule("other", named("extra"));
    stage.pod("web", json!({}));
    stage.pod("db", json!({}));
    stage.settle();
    stage.refuses = Some("new/web");
    stage.rule("r", named("new"));
    stage.settle();
    assert_eq!(stage.paths(), ["/extra/db", "/extra/web", "/new/db", "/old/web"]);
    assert_eq!(stage.ledger.held_back(), 1);
    // Another rule is none of its business.
    stage.world.rules.remove(&Name::cluster("other"));
    stage.settle();
    assert_eq!(stage.paths(), ["/new/db", "/old/web"]);
    // Also for a process that does not know what was declared before.
    stage.restart();
    assert_eq!(stage.paths(), ["/new/db", "/old/web"]);
    stage.refuses = None;
    for _ in 0..3 {
        stage.compare();
    }
    assert_eq!(stage.paths(), ["/new/db", "/new/web"]);
}

#[test]
fn a_static_entry_stays_while_its_new_version_is_refused() {
    let spec = |path: &str| {
        json!({
            "spiffeID": format!("spiffe://example.org/{path}"), "parentID": "spiffe://example.org/node",
            "selectors": ["unix:uid:1"],
        })
    };
    let mut stage = Stage::new();
    stage.static_entry("s", spec("old"));
    stage.settle();
    stage.refuses = Some("new");
    stage.static_entry("s", spec("new"));
    stage.settle();
    assert_eq!(stage.paths(), ["/old"]);
    stage.restart();
    assert_eq!(stage.paths(), ["/old"]);
    stage.world.statics.clear();
    stage.settle();
    assert_eq!(stage.paths(), [""; 0], "nobody declares anything any more");
}

#[test]
fn while_not_everything_is_known_entries_are_made_and_none_is_deleted() {
    let mut stage = Stage::new();
    stage.rule("r", named("old"));
    stage.pod("web", json!({}));
    stage.settle();
    stage.made_by_hand("x", "/x", "/node", &["unix:uid:1"]);
    stage.ledger.spare(true);
    stage.rule("r", named("new"));
    stage.compare();
    stage.settle();
    assert_eq!(stage.paths(), ["/new/web", "/old/web", "/x"]);
    assert_eq!(stage.ledger.held_back(), 2);
    stage.ledger.spare(false);
    stage.settle();
    assert_eq!(stage.paths(), ["/new/web"], "nothing had to change for that");
    assert_eq!(stage.ledger.held_back(), 0);
}

#[test]
fn a_refused_entry_is_tried_less_and_less_often_and_at_once_when_it_changes() {
    let mut stage = Stage::new();
    stage.ledger = Ledger::new(terms()).with_longest_wait(8);
    stage.rule("r", by_name());
    stage.pod("web", json!({}));
    stage.refuses = Some("web");
    stage.settle();
    let mut tried = Vec::new();
    for n in 1..=31 {
        stage.compare();
        if !stage.log.is_empty() {
            tried.push(n);
        }
        assert_eq!(stage.tally("r").refused.len(), 1);
    }
    assert_eq!(tried, [1, 3, 7, 15, 23, 31]);
    stage.rule("r", with("hint", json!("changed")));
    stage.settle();
    assert_eq!(stage.log, ["refuse /web"]);
    stage.compare();
    assert_eq!(stage.log, ["refuse /web"], "it is counted anew");
}
