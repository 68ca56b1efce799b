use serde_json::{Value as Json, json};
use vouchsafe_types::{EntryId, TrustDomain};

use super::*;
use crate::draft::Draft;
use crate::render::DEFAULT_PARENT_ID;
use crate::template::Template;

mod broken;
mod refused;
mod scale;
mod stock;

/// A cluster and a server that do what they are told.
struct Stage {
    world: World,
    ledger: Ledger,
    server: BTreeMap<String, Draft>,
    next: usize,
    log: Vec<String>,
    /// What the server refuses to create, and whether it refuses to delete.
    refuses: Option<&'static str>,
    keeps_all: bool,
}

pub(crate) fn terms() -> Terms {
    Terms {
        place: Place {
            trust_domain: TrustDomain::parse("example.org").unwrap(),
            cluster_name: "blue".into(),
            cluster_domain: "cluster.local".into(),
            parent_id: Template::parse("parent", DEFAULT_PARENT_ID).unwrap(),
        },
        class: Class::default(),
        ignored: IgnoredNamespaces(vec![regex::Regex::new("kube-system").unwrap()]),
        entry_ids: EntryIds::default(),
    }
}

fn read<K: serde::de::DeserializeOwned>(json: Json) -> Arc<K> {
    Arc::new(serde_json::from_value(json).unwrap())
}

impl Stage {
    fn new() -> Self {
        Self::with(terms())
    }

    fn with(terms: Terms) -> Self {
        let mut stage = Self {
            world: World::default(),
            ledger: Ledger::new(terms),
            server: BTreeMap::new(),
            next: 0,
            log: Vec::new(),
            refuses: None,
            keeps_all: false,
        };
        stage.namespace("shop", json!({ "team": "a" }));
        stage.node("node-1");
        stage
    }

    fn namespace(&mut self, name: &str, labels: Json) {
        let object = read(json!({ "metadata": { "name": name, "labels": labels } }));
        self.world.namespaces.insert(Name::cluster(name), object);
    }

    fn node(&mut self, name: &str) {
        let object = read(json!({ "metadata": { "name": name, "uid": format!("uid-{name}") }, "spec": {} }));
        self.world.nodes.insert(Name::cluster(name), object);
    }

    fn pod(&mut self, name: &str, labels: Json) {
        self.pod_in("shop", name, "node-1", labels);
    }

    fn pod_in(&mut self, namespace: &str, name: &str, node: &str, labels: Json) {
        let object = read(json!({
            "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": labels },
            "spec": { "nodeName": node, "serviceAccountName": "till" },
        }));
        self.world.pods.insert(Name::new(namespace, name), object);
    }

    fn delete_pod(&mut self, name: &str) {
        self.world.pods.remove(&Name::new("shop", name));
    }

    fn rule(&mut self, name: &str, spec: Json) {
        self.aged_rule(name, "2026-01-01T00:00:00Z", spec);
    }

    fn aged_rule(&mut self, name: &str, created: &str, spec: Json) {
        let metadata = json!({ "name": name, "uid": format!("uid-{name}"), "creationTimestamp": created });
        self.world.rules.insert(Name::cluster(name), read(json!({ "metadata": metadata, "spec": spec })));
    }

    fn static_entry(&mut self, name: &str, spec: Json) {
        let metadata = json!({ "name": name, "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-02T00:00:00Z" });
        self.world.statics.insert(Name::cluster(name), read(json!({ "metadata": metadata, "spec": spec })));
    }

    fn endpoints(&mut self, name: &str, pods: &[&str]) {
        let refs: Vec<_> = pods
            .iter()
            .map(|pod| json!({ "targetRef": { "kind": "Pod", "uid": format!("uid-{pod}") } }))
            .collect();
        let object =
            json!({ "metadata": { "name": name, "namespace": "shop" }, "subsets": [{ "addresses": refs }] });
        self.world.endpoints.insert(Name::new("shop", name), read(object));
    }

    /// Lets things settle, and says how many Pods were looked at.
    fn settle(&mut self) -> usize {
        let touched = self.ledger.observe(self.world.clone());
        self.log.clear();
        for round in 0.. {
            assert!(round < 10, "it never settles: {:?}", self.log);
            let plan = self.ledger.plan();
            if plan.is_empty() {
                break;
            }
            self.apply(plan);
        }
        touched
    }

    /// As after a restart, or at a comparison: everything on the server is read.
    fn compare(&mut self) {
        let entries = self.server.iter().map(|(id, draft)| (EntryId::parse(id).unwrap(), draft.clone()));
        self.ledger.compare(entries.collect::<Vec<_>>());
        self.settle();
    }

    fn restart(&mut self) {
        self.ledger = Ledger::new(self.ledger.terms.clone());
        self.ledger.observe(self.world.clone());
        self.compare();
    }

    fn apply(&mut self, plan: Plan) {
        for one in plan.create {
            if self.refuses.is_some_and(|word| one.draft.spiffe_id.path().contains(word)) {
                self.log.push(format!("refuse {}", one.draft.spiffe_id.path()));
                self.ledger.refused(&one.key, "no");
                continue;
            }
            one.replaces.iter().for_each(|(id, _)| drop(self.server.remove(id.as_str())));
            self.next += 1;
            let id = format!("{}e{}", self.ledger.terms.entry_ids.prefix(), self.next);
            self.log.push(format!("create {}", one.draft.spiffe_id.path()));
            self.server.insert(id.clone(), (*one.draft).clone());
            self.ledger.created(&one.key, EntryId::parse(&id).unwrap(), (*one.draft).clone());
        }
        for one in plan.update {
            self.log.push(format!("update {}", one.draft.spiffe_id.path()));
            self.server.insert(one.id.to_string(), (*one.draft).clone());
            self.ledger.updated(&one.key, (*one.draft).clone());
        }
        for one in self.ledger.still_to_delete(plan.delete) {
            if self.keeps_all {
                self.log.push(format!("keep {}", one.key.spiffe_id.path()));
                continue;
            }
            self.log.push(format!("delete {}", one.key.spiffe_id.path()));
            self.server.remove(one.id.as_str());
            self.ledger.deleted(&one.key, &one.id);
        }
    }

    fn paths(&self) -> Vec<&str> {
        let mut paths: Vec<_> = self.server.values().map(|draft| draft.spiffe_id.path()).collect();
        paths.sort_unstable();
        paths
    }

    fn tally(&self, rule: &str) -> &Tally {
        &self.ledger.rules[rule].tally
    }

    /// An entry that somebody made by hand.
    fn made_by_hand(&mut self, id: &str, path: &str, parent: &str, selectors: &[&str]) {
        let json = json!({
            "spiffeID": format!("spiffe://example.org{path}"), "parentID": format!("spiffe://example.org{parent}"),
            "selectors": selectors,
        });
        let draft = crate::rule::parse_static(&json, &self.ledger.terms.place.trust_domain).unwrap();
        self.server.insert(id.to_owned(), draft);
    }
}

fn by_name() -> Json {
    json!({ "spiffeIDTemplate": "spiffe://example.org/{{ .PodMeta.Name }}" })
}

fn with(key: &str, value: Json) -> Json {
    let mut spec = by_name();
    spec[key] = value;
    spec
}
