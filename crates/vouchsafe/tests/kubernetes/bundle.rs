//! The trust bundle reaches Kubernetes objects, and stays there.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use vouchsafe_testkit::kubernetes::Kubernetes;
use vouchsafe_testkit::postgres;

use crate::process::{eventually, within};
use crate::world::{Server, ServerSettings, World};

/// Objects that a test has to itself.
struct Objects<'a> {
    cluster: &'a Kubernetes,
    namespace: String,
    /// The name of each object, and of the label.
    name: String,
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";

impl<'a> Objects<'a> {
    fn new(cluster: &'a Kubernetes) -> Self {
        Self { cluster, namespace: cluster.namespace("bundle"), name: cluster.unique("bundle") }
    }

    fn label(&self) -> String {
        format!("{}.test/gets-bundle", self.name)
    }

    fn trust_bundle(&self) -> String {
        format!("domain.test:spire:{}", self.name)
    }

    fn config_map_path(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{}", self.namespace, self.name)
    }

    fn webhooks_path(&self, kind: &str) -> String {
        format!("{ADMISSION}/{kind}webhookconfigurations/{}", self.name)
    }

    fn api_service_path(&self) -> String {
        format!("/apis/apiregistration.k8s.io/v1/apiservices/v1.{}.test", self.name)
    }

    fn trust_bundle_path(&self) -> String {
        format!("/apis/certificates.k8s.io/v1beta1/clustertrustbundles/{}", self.trust_bundle())
    }

    /// A webhook configuration with these webhooks, as its owner writes it.
    fn webhooks(&self, kind: &str, names: &[&str]) -> String {
        let mut yaml = format!(
            "apiVersion: admissionregistration.k8s.io/v1\nkind: {kind}WebhookConfiguration\n\
             metadata: {{name: {}, labels: {{{}: 'true'}}}}\nwebhooks:\n",
            self.name,
            self.label()
        );
        for name in names {
            yaml += &format!(
                "- {{name: {name}.hooks.test, clientConfig: {{url: 'https://127.0.0.1:9/{name}'}}, sideEffects: None, \
                 failurePolicy: Ignore, admissionReviewVersions: [v1], matchPolicy: Exact, \
                 objectSelector: {{matchLabels: {{no: such}}}}}}\n"
            );
        }
        yaml
    }

    fn api_service(&self) -> String {
        format!(
            "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\n\
             metadata: {{name: v1.{0}.test, labels: {{{1}: 'true'}}}}\n\
             spec: {{group: {0}.test, version: v1, groupPriorityMinimum: 10, versionPriority: 11, \
             service: {{name: none, namespace: {2}}}}}\n",
            self.name,
            self.label(),
            self.namespace
        )
    }

    /// The notifier's settings.
    fn notifier(&self, kubeconfig: &std::path::Path) -> String {
        format!(
            r#"Notifier "k8sbundle" {{ plugin_data {{
                namespace = "{}"
                config_map = "{}"
                kube_config_file_path = "{}"
                webhook_label = "{label}"
                api_service_label = "{label}"
                cluster_trust_bundle = "{}"
            }} }}"#,
            self.namespace,
            self.name,
            kubeconfig.display(),
            self.trust_bundle(),
            label = self.label(),
        )
    }

    /// The texts of the bundle in all places that are there; `None` where there is none.
    fn places(&self) -> Vec<Option<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let decoded = |value: &Value| {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
            String::from_utf8(bytes).ok()
        };
        let get = |path: &str| self.cluster.get(path).unwrap_or_default();
        let mut places = vec![
            text(&get(&self.config_map_path())["data"]["bundle.crt"]),
            text(&get(&self.trust_bundle_path())["spec"]["trustBundle"]),
            decoded(&get(&self.api_service_path())["spec"]["caBundle"]),
        ];
        for kind in ["validating", "mutating"] {
            let webhooks = get(&self.webhooks_path(kind))["webhooks"].as_array().cloned().unwrap_or_default();
            places.extend(webhooks.iter().map(|webhook| decoded(&webhook["clientConfig"]["caBundle"])));
        }
        places
    }

    fn has_event(&self, reason: &str) -> bool {
        let events = self.cluster.get("/apis/events.k8s.io/v1/events").unwrap_or_default();
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events.iter().any(|event| event["reason"] == reason && event["regarding"]["name"] == self.name)
    }

    /// The lease of the servers.
    fn lease(&self) -> Option<Value> {
        let path = "/apis/coordination.k8s.io/v1/namespaces";
        let path = format!("{path}/{}/leases/vouchsafe-k8sbundle-domain.test", self.namespace);
        Some(self.cluster.get(&path)?["spec"].clone())
    }

    /// Who has it.
    fn holder(&self) -> Option<String> {
        self.lease()?["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
    }

    /// Sooner than by looking again from time to time.
    #[track_caller]
    fn promptly_have(&self, server: &Server) {
        let began = Instant::now();
        self.places();
        // To look once is a measure of how busy the machine is.
        self.have(PROMPT.max(PROMPT_IN_LOOKS * began.elapsed()), server);
    }

    #[track_caller]
    fn have(&self, patience: Duration, server: &Server) {
        let wanted = Some(String::from_utf8(server.bundle_pem()).unwrap());
        let mut seen = Vec::new();
        let all = within(patience, || {
            seen = self.places();
            seen.iter().all(|place| *place == wanted).then_some(())
        });
        let behind: Vec<_> =
            (0..).zip(&seen).filter(|(_, place)| **place != wanted).map(|(n, _)| n).collect();
        assert!(
            all.is_some(),
            "after {patience:?} places {behind:?} of {} lack the bundle\n{}",
            seen.len(),
            server.log()
        );
    }
}

impl Drop for Objects<'_> {
    fn drop(&mut self) {
        for path in
            [self.webhooks_path("validating"), self.webhooks_path("mutating"), self.api_service_path()]
        {
            drop(self.cluster.try_request("DELETE", &path, None));
        }
    }
}

fn settings(plugins: String) -> ServerSettings {
    ServerSettings { plugins, ..ServerSettings::default() }
}

/// A wait that shows nothing, on a machine that is busy.
const SOON: Duration = Duration::from_secs(240);
/// Sooner than what is read every 30 s. The promise of one second is that of the replay `bundle-conflict`, on a machine of its own.
const PROMPT: Duration = Duration::from_secs(10);
/// The same as a multiple of the time that it takes to look at all objects once.
const PROMPT_IN_LOOKS: u32 = 50;

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn every_kind_of_object_gets_the_bundle_and_each_change_of_it_at_once() {
    let (world, objects) = (World::new(), Objects::new(Kubernetes::shared()));
    let cluster = objects.cluster;
    cluster.apply(&objects.webhooks("Validating", &["a", "b"]));
    cluster.apply(&objects.webhooks("Mutating", &["c", "d"]));
    cluster.apply(&objects.api_service());
    // What a stock server left, by its own hand.
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {}, namespace: {}}}, data: {{mine: kept}}}}",
        objects.name, objects.namespace
    ));
    let by_spire = |path: &str, body: Value| {
        cluster.request("PATCH", &format!("{path}?fieldManager=spire-server"), Some(&body)).ok();
    };
    by_spire(&objects.config_map_path(), json!({"data": {"bundle.crt": "of another server"}}));
    by_spire(&objects.api_service_path(), json!({"spec": {"caBundle": "b2xkCg=="}}));
    let before = cluster.get(&objects.webhooks_path("validating")).unwrap();

    let server = world.server("server", &settings(objects.notifier(&cluster.admin())));
    objects.have(SOON, &server);
    let ca = |command: &str, id: &str| {
        let mut arguments = vec!["localauthority", "x509", command];
        if !id.is_empty() {
            arguments.extend(["-authorityID", id]);
        }
        server.json(&arguments)
    };
    let old = ca("show", "")["active"]["authority_id"].as_str().unwrap().to_owned();
    let prepared = ca("prepare", "")["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    objects.promptly_have(&server);
    ca("activate", &prepared);
    ca("taint", &old);
    ca("revoke", &old);
    objects.promptly_have(&server);

    let config_map = cluster.get(&objects.config_map_path()).unwrap();
    assert_eq!(config_map["data"]["mine"], "kept");
    let owners = |object: &Value, field: &str| {
        let fields = object["metadata"]["managedFields"].as_array().unwrap().clone();
        let owning = fields.into_iter().filter(|entry| entry["fieldsV1"].to_string().contains(field));
        owning.map(|entry| entry["manager"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(owners(&config_map, "f:bundle.crt"), ["vouchsafe/bundle.crt"]);
    let after = cluster.get(&objects.webhooks_path("validating")).unwrap();
    assert_eq!(owners(&after, "f:caBundle"), ["vouchsafe"]);
    let others = |object: &Value| {
        let mut webhooks = object["webhooks"].clone();
        for webhook in webhooks.as_array_mut().unwrap() {
            webhook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
        }
        webhooks
    };
    assert_eq!(others(&after), others(&before));
    let trust_bundle = cluster.get(&objects.trust_bundle_path()).unwrap();
    assert_eq!(trust_bundle["spec"]["signerName"], "domain.test/spire");
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn what_appears_later_or_is_changed_by_somebody_else_is_put_right_and_what_its_owner_removes_stays_removed() {
    let (world, objects) = (World::new(), Objects::new(Kubernetes::shared()));
    let cluster = objects.cluster;
    let server = world.server("server", &settings(objects.notifier(&cluster.admin())));
    cluster.apply(&objects.api_service());
    objects.have(SOON, &server);
    cluster.apply(&objects.webhooks("Validating", &["a", "b"]));
    objects.promptly_have(&server);
    cluster.apply(&objects.webhooks("Validating", &["a", "b", "c"]));
    objects.promptly_have(&server);

    let path = objects.webhooks_path("validating");
    let mut theirs = cluster.get(&path).unwrap();
    theirs["webhooks"][1]["clientConfig"]["caBundle"] = json!("b2xkCg==");
    cluster.request("PUT", &path, Some(&theirs)).ok();
    objects.promptly_have(&server);
    server.wait_for_log(&["Somebody else changed the trust bundle", &objects.name]);
    eventually("an event says so", || objects.has_event("BundleOverwritten").then_some(()));
    cluster.request("PATCH", &objects.config_map_path(), Some(&json!({"data": {"bundle.crt": "x"}}))).ok();
    objects.promptly_have(&server);
    cluster.delete(&objects.config_map_path());
    objects.promptly_have(&server);

    // The owner applies its own fields alone, and takes a webhook away.
    cluster.apply(&objects.webhooks("Validating", &["c", "a"]));
    let left = cluster.get(&path).unwrap();
    let names: Vec<_> =
        left["webhooks"].as_array().unwrap().iter().map(|webhook| webhook["name"].clone()).collect();
    assert_eq!(names, ["c.hooks.test", "a.hooks.test"]);
    objects.promptly_have(&server);
    server.json(&["localauthority", "x509", "prepare"]);
    objects.promptly_have(&server);
    let left = cluster.get(&path).unwrap();
    assert_eq!(left["webhooks"].as_array().unwrap().len(), 2, "{left}");

    let version = |object: Option<Value>| object.unwrap()["metadata"]["resourceVersion"].clone();
    let settled = version(cluster.get(&path));
    server.entry("any", "node", "unix:uid:1", &[]);
    // What appears after it is written: it has gone through all of them.
    cluster.apply(&objects.webhooks("Mutating", &["d"]));
    objects.promptly_have(&server);
    assert_eq!(version(cluster.get(&path)), settled, "an object that is right is written");
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn an_api_server_that_is_away_stops_nobody_and_gets_the_bundle_when_it_is_back() {
    let (world, cluster) = (World::new(), Kubernetes::start());
    let objects = Objects::new(&cluster);
    cluster.apply(&objects.webhooks("Validating", &["a"]));
    cluster.apply(&objects.webhooks("Mutating", &["b"]));
    cluster.apply(&objects.api_service());
    cluster.stop_api_server();
    let server = world.server("server", &settings(objects.notifier(&cluster.admin())));
    cluster.start_api_server();
    objects.have(SOON, &server);
    cluster.stop_api_server();
    server.json(&["localauthority", "x509", "prepare"]);
    server.wait_until_healthy();
    cluster.start_api_server();
    objects.have(SOON, &server);
}

/// What SPIRE's documentation says that its server needs.
const STOCK_RULES: &str = r#"
- {apiGroups: [""], resources: ["configmaps"], verbs: ["get", "patch"]}
- {apiGroups: ["admissionregistration.k8s.io"], resources: ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"], verbs: ["get", "list", "patch", "watch"]}
- {apiGroups: ["apiregistration.k8s.io"], resources: ["apiservices"], verbs: ["get", "list", "patch", "watch"]}
"#;

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_server_without_rights_says_so_and_serves_and_those_of_spires_documentation_are_enough() {
    let (world, objects) = (World::new(), Objects::new(Kubernetes::shared()));
    let cluster = objects.cluster;
    cluster.service_account(&objects.namespace, "spire-server");
    cluster.apply(&objects.webhooks("Validating", &["a"]));
    cluster.apply(&objects.webhooks("Mutating", &["b"]));
    cluster.apply(&objects.api_service());
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {}, namespace: {}}}}}",
        objects.name, objects.namespace
    ));
    let kubeconfig = cluster.kubeconfig_of_service_account(&objects.namespace, "spire-server");
    let notifier = objects.notifier(&kubeconfig);
    let notifier: Vec<&str> =
        notifier.lines().filter(|line| !line.contains("cluster_trust_bundle")).collect();
    let server = world.server("server", &settings(notifier.join("\n")));
    server.wait_for_log(&["Cannot write the trust bundle", "configmaps", "forbidden"]);
    assert_eq!(server.cli(&["healthcheck"]).code, 0);
    assert_eq!(objects.places().into_iter().flatten().count(), 0);

    cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: {0}}}\nrules: {STOCK_RULES}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {0}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {0}}}\n\
         subjects: [{{kind: ServiceAccount, name: spire-server, namespace: {1}}}]\n",
        objects.name, objects.namespace
    ));
    let wanted = String::from_utf8(server.bundle_pem()).unwrap();
    eventually("all but the ClusterTrustBundle have the bundle", || {
        let have = objects.places().into_iter().flatten().filter(|place| *place == wanted).count();
        (have == 4).then_some(())
    });
    // Without a lease and without a watch on the ConfigMap.
    server.json(&["localauthority", "x509", "prepare"]);
    let began = Instant::now();
    let wanted = String::from_utf8(server.bundle_pem()).unwrap();
    objects.places();
    let prompt = within(PROMPT.max(PROMPT_IN_LOOKS * began.elapsed()), || {
        let have = objects.places().into_iter().flatten().filter(|place| *place == wanted).count();
        (have == 4).then_some(())
    });
    assert!(prompt.is_some(), "{}", server.log());
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_publisher_writes_each_format_and_two_trust_domains_share_a_config_map() {
    let (world, objects) = (World::new(), Objects::new(Kubernetes::shared()));
    let cluster = objects.cluster;
    let publisher = |prefix: &str| {
        let formats = ["pem", "jwks", "spiffe"].map(|format| {
            format!(
                r#""{format}" = {{ configmap_name = "{}" configmap_key = "{prefix}.{format}" namespace = "{}" format = "{format}" kubeconfig_path = "{}" refresh_hint = "5m" }}"#,
                objects.name,
                objects.namespace,
                cluster.admin().display()
            )
        });
        format!(
            "BundlePublisher \"k8s_configmap\" {{ plugin_data {{ clusters = {{ {} }} }} }}",
            formats.join("\n")
        )
    };
    let one = world.server("one", &settings(publisher("one")));
    let other = ServerSettings { trust_domain: "other.test", ..settings(publisher("two")) };
    let two = world.server("two", &other);
    let data = |key: &str| {
        let found = cluster.get(&objects.config_map_path())?;
        found["data"][key].as_str().map(str::to_owned)
    };
    let has = |server: &Server, prefix: &str| {
        let pem = String::from_utf8(server.bundle_pem()).unwrap();
        let parsed = |format: &str| serde_json::from_str::<Value>(&data(&format!("{prefix}.{format}"))?).ok();
        let keys = |value: &Value| value["keys"].as_array().map(Vec::len);
        let (jwks, spiffe) = (parsed("jwks")?, parsed("spiffe")?);
        let same =
            data(&format!("{prefix}.pem"))? == pem && keys(&jwks) == keys(&spiffe) && keys(&jwks) >= Some(2);
        (same && spiffe["spiffe_refresh_hint"] == 300 && jwks.get("spiffe_sequence").is_none()).then_some(())
    };
    for _ in 0..3 {
        eventually("the first server's keys", || has(&one, "one"));
        eventually("the second server's keys", || has(&two, "two"));
        one.json(&["localauthority", "x509", "prepare"]);
    }
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn of_two_servers_one_writes_and_the_other_goes_on_when_it_is_killed() {
    let (world, objects) = (World::new(), Objects::new(Kubernetes::shared()));
    let cluster = objects.cluster;
    cluster.apply(&objects.webhooks("Validating", &["a"]));
    cluster.apply(&objects.webhooks("Mutating", &["b"]));
    cluster.apply(&objects.api_service());
    let database = postgres::Cluster::shared();
    let connection = database.connection_string(&database.fresh_database());
    let both = || ServerSettings {
        datastore: format!("database_type = \"postgres\"\n connection_string = \"{connection}\""),
        ..settings(objects.notifier(&cluster.admin()))
    };
    let first = world.server("first", &both());
    let holder = eventually("the first one holds the lease", || objects.holder());
    let transitions = || objects.lease().unwrap()["leaseTransitions"].clone();
    let before = transitions();
    let second = world.server("second", &both());
    objects.have(SOON, &second);
    for server in [&first, &second] {
        server.json(&["localauthority", "x509", "prepare"]);
        // The other one may hear of it later than it looks.
        objects.promptly_have(server);
    }
    let writes = |server: &Server| server.log().contains("The trust bundle is written");
    // On a machine that is so busy that the first one cannot renew the lease for many seconds, the other one may have it.
    let kept = transitions() == before;
    assert!(writes(&first) && (!writes(&second) || !kept), "{}", second.log());
    first.kill();
    let prepared = second.json(&["localauthority", "x509", "show"])["prepared"]["authority_id"].clone();
    let activate = ["localauthority", "x509", "activate", "-authorityID", prepared.as_str().unwrap()];
    second.json(&activate);
    second.json(&["localauthority", "x509", "prepare"]);
    objects.have(SOON, &second);
    let next =
        eventually("the other one holds the lease", || objects.holder().filter(|next| *next != holder));
    assert_ne!(next, holder);
    second.json(&["localauthority", "x509", "prepare"]);
    objects.promptly_have(&second);
}
