//! What a change costs in a big cluster.

use super::*;

#[test]
fn of_ten_thousand_pods_only_those_that_changed_are_looked_at() {
    let mut stage = Stage::new();
    stage.rule("r", with("dnsNameTemplates", json!(["{{ .PodMeta.Name }}.{{ .PodMeta.Namespace }}.svc"])));
    for n in 0..100 {
        stage.node(&format!("node-{n}"));
    }
    for n in 0..10_000 {
        stage.pod_in("shop", &format!("pod-{n}"), &format!("node-{}", n % 100), json!({ "app": "web" }));
    }
    assert_eq!(stage.settle(), 10_000);
    assert_eq!(stage.server.len(), 10_000);
    stage.pod_in("shop", "pod-17", "node-17", json!({ "app": "db" }));
    stage.delete_pod("pod-18");
    stage.pod_in("shop", "new", "node-1", json!({}));
    assert_eq!(stage.settle(), 3);
    assert_eq!(stage.log, ["create /new", "delete /pod-18"]);
    // The same Pod with a new status.
    stage.pod_in("shop", "pod-17", "node-17", json!({ "app": "db" }));
    assert_eq!(stage.settle(), 0);
    let mut node: Node = (*stage.world.nodes[&Name::cluster("node-5")]).clone();
    node.metadata.labels = Some([("zone".to_owned(), "b".to_owned())].into());
    stage.world.nodes.insert(Name::cluster("node-5"), Arc::new(node));
    assert_eq!(stage.settle(), 100, "the Pods of that node");
    assert_eq!(stage.log, [""; 0]);
}
