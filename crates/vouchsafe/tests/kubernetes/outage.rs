//! The API server goes away for a while (`INTEROP_OUTAGE_SECS`, a minute unless set), while an authority changes, and server, agent and
//! registrar are started anew. Nothing that was right is withdrawn, and everything goes on by itself when it is back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use vouchsafe_testkit::free_port;
use vouchsafe_testkit::kubernetes::{Created, Kubernetes, PodObject, TokenSettings};

use crate::process::{Process, pause, within};
use crate::programs::Programs;
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

/// A cluster of its own, with a server that depends on it in every way.
struct Place {
    server: Server,
    cluster: Kubernetes,
    world: World,
}

impl Place {
    fn new() -> Self {
        let (world, cluster) = (World::new(), Kubernetes::start());
        cluster.namespace_named(NAMESPACE);
        for account in ["agent", "server", "vouchsafe-server"] {
            cluster.service_account(NAMESPACE, account);
        }
        cluster.apply(ROLES);
        for kind in ["clusterspiffeids", "clusterstaticentries", "clusterfederatedtrustdomains"] {
            cluster.kubectl(&["apply", "--server-side", "-f", &deployed(&format!("crds/{kind}.yaml"))]);
        }
        cluster.wait_for_definitions();
        cluster.kubectl(&["apply", "-f", &deployed("base/registrar/access.yaml")]);
        let registrar = format!("{NAMESPACE}:vouchsafe-server");
        cluster.wait_until_allowed(&registrar, "list", ("spire.spiffe.io", "clusterspiffeids", ""), "");
        cluster.wait_until_allowed(&format!("{NAMESPACE}:server"), "get", ("", "pods", ""), "");
        let kubeconfig = cluster.kubeconfig_of_service_account(NAMESPACE, "server");
        let plugins = format!(
            r#"NodeAttestor "k8s_psat" {{ plugin_data {{ clusters = {{ "demo" = {{
                service_account_allow_list = ["{NAMESPACE}:agent"]
                kube_config_file = "{0}"
            }} }} }} }}
            Notifier "k8sbundle" {{ plugin_data {{
                namespace = "{NAMESPACE}"
                kube_config_file_path = "{0}"
            }} }}"#,
            kubeconfig.display()
        );
        let server = format!("default_x509_svid_ttl = \"{SVID_SECS}s\"\n agent_ttl = \"1h\"");
        let server = world.server("server", &ServerSettings { server, plugins, ..ServerSettings::default() });
        Self { world, cluster, server }
    }

    /// A node with the Pod of an agent, and that Pod's token.
    fn node(&self, name: &str) -> (Created, PathBuf) {
        let node = self.cluster.node(name, "10.0.0.1", &[]);
        let pod = PodObject::new(NAMESPACE, &format!("agent-{name}")).service_account("agent").node(name);
        let pod = self.cluster.pod(&pod);
        let token = self.world.path().join(format!("{name}.token"));
        let settings = TokenSettings { audiences: &["spire-server"], pod: Some(&pod) };
        std::fs::write(&token, self.cluster.token(NAMESPACE, "agent", settings)).unwrap();
        (node, token)
    }

    fn agent(&self, name: &str, token: &Path) -> Agent {
        let attestor = format!(
            r#"NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "demo" token_path = "{}" }} }}"#,
            token.display()
        );
        self.world.agent_with(
            name,
            &self.server,
            &AgentSettings { attestor, ..AgentSettings::default() },
            &[],
        )
    }

    fn registrar(&self) -> Process {
        let text = format!(
            "apiVersion: spire.spiffe.io/v1alpha1\nkind: ControllerManagerConfig\n\
             metrics: {{bindAddress: '127.0.0.1:{}'}}\nhealth: {{healthProbeBindAddress: '127.0.0.1:{}'}}\n\
             clusterName: demo\nclusterDomain: cluster.local\ntrustDomain: {}\n\
             spireServerSocketPath: {}\ngcInterval: 500000000\n",
            free_port(),
            free_port(),
            self.server.trust_domain,
            self.server.socket.display(),
        );
        let file = self.world.path().join("registrar.yaml");
        std::fs::write(&file, text).unwrap();
        let account = self.cluster.kubeconfig_of_service_account(NAMESPACE, "vouchsafe-server");
        std::fs::rename(account, self.world.path().join("registrar.kubeconfig")).unwrap();
        self.registrar_again()
    }

    /// With the file and the token that it had.
    fn registrar_again(&self) -> Process {
        let mut command = Command::new(Programs::ours());
        command.args(["registrar", "run", "-config"]).arg(self.world.path().join("registrar.yaml"));
        command.env("KUBECONFIG", self.world.path().join("registrar.kubeconfig"));
        Process::start(command, &self.world.path().join("registrar.log"))
    }

    /// An entry for this user's processes on a node.
    fn entry(&self, node: &Created, path: &str) {
        self.cluster.apply(&format!(
            "{{apiVersion: spire.spiffe.io/v1alpha1, kind: ClusterStaticEntry, metadata: {{name: {path}}}, spec: {{ \
             spiffeID: 'spiffe://domain.test/{path}', parentID: 'spiffe://domain.test/spire/agent/k8s_psat/demo/{}', \
             selectors: ['unix:uid:{}']}}}}",
            node.uid,
            nix::unistd::geteuid()
        ));
    }

    fn pod(&self, name: &str) -> Created {
        self.cluster.pod(&PodObject::new("default", name).node("node-1").label("app", "web"))
    }

    /// All entries.
    fn entries(&self) -> Vec<Value> {
        let mut entries =
            self.server.json(&["entry", "show"])["entries"].as_array().cloned().unwrap_or_default();
        entries.sort_by_key(|entry| entry["id"].to_string());
        entries
    }

    /// There is an entry for this Pod.
    fn knows(&self, pod: &Created) -> bool {
        self.entries().iter().any(|entry| entry["selectors"][0]["value"] == format!("pod-uid:{}", pod.uid))
    }

    /// The cluster has the server's bundle.
    fn has_bundle(&self) -> bool {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/spire-bundle");
        let written = self.cluster.get(&path).unwrap_or_default()["data"]["bundle.crt"].clone();
        written.as_str().is_some_and(|text| text.as_bytes() == self.server.bundle_pem())
    }
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn nothing_is_withdrawn_while_the_api_server_is_away_and_all_goes_on_by_itself_afterwards() {
    let place = Place::new();
    let (node, token) = place.node("node-1");
    place.cluster.namespace_named("default");
    place.cluster.apply(SPIFFE_ID);
    let pod = place.pod("web-1");
    place.entry(&node, "workload");
    let mut registrar = place.registrar();
    let agent = place.agent("agent", &token);
    agent.wait_until_healthy();
    agent.wait_for_svid("workload");
    soon("the bundle is in the cluster", || place.has_bundle());
    let (other_node, other_token) = place.node("node-2");
    place.entry(&other_node, "other");
    soon("all three entries are there", || place.knows(&pod) && place.entries().len() == 3);
    let entries = place.entries();

    place.cluster.stop_api_server();
    let began = Instant::now();
    let outage = outage();
    place.server.json(&["localauthority", "x509", "prepare"]);
    let other = place.agent("other", &other_token);
    let mut serials = BTreeSet::new();
    let mut restarts =
        vec![(outage / 2, Restart::Agent), (outage / 3, Restart::Server), (outage / 5, Restart::Registrar)];
    // For as long as that, and until all has happened that is to happen meanwhile, which takes a busy machine longer.
    let least = LEAST_SVIDS.max(usize::try_from(outage.as_secs() / SVID_SECS).unwrap());
    while began.elapsed() < outage || !restarts.is_empty() || serials.len() < least {
        assert!(began.elapsed() < outage + PATIENCE, "{} SVIDs in {:?}", serials.len(), began.elapsed());
        let fetched =
            agent.fetch_x509().unwrap_or_else(|outcome| panic!("after {:?}: {outcome:?}", began.elapsed()));
        assert_eq!(fetched[0].svid.id.path(), "/workload");
        serials.insert(fetched[0].svid.serial.clone());
        assert_eq!(place.entries(), entries, "after {:?}", began.elapsed());
        if restarts.last().is_some_and(|(when, _)| began.elapsed() > *when) {
            match restarts.pop().unwrap().1 {
                Restart::Server => {
                    place.server.stop();
                    place.server.start_again();
                }
                // It held nothing yet, and must not take that for an empty cluster.
                Restart::Registrar => {
                    registrar.kill();
                    registrar = place.registrar_again();
                }
                Restart::Agent => {
                    agent.kill();
                    agent.start_again(&[]);
                    // Its socket is there before it knows anything; it has what it held.
                    soon("an SVID after a restart", || agent.fetch_x509().is_ok());
                }
            }
        }
        pause();
    }
    assert!(registrar.exited().is_none());
    assert!(other.fetch_x509().is_err() && other.is_running());

    place.cluster.start_api_server();
    let back = Instant::now();
    place.cluster.delete_pod(&pod);
    let new_pod = place.pod("web-2");
    all_goes_on(back, |what| match what {
        "bundle" => place.has_bundle(),
        "attestation" => other.fetch_x509().is_ok_and(|fetched| fetched[0].svid.id.path() == "/other"),
        _ => place.knows(&new_pod) && !place.knows(&pod),
    });
    agent.wait_until_healthy();
}

/// Waits until bundle, attestation and entries go on, and prints when each did.
#[track_caller]
fn all_goes_on(back: Instant, went_on: impl Fn(&str) -> bool) {
    let mut missing = vec!["bundle", "attestation", "entries"];
    within(SOON, || {
        missing.retain(|what| {
            let done = went_on(what);
            if done {
                println!("{what} after {:?}", back.elapsed());
            }
            !done
        });
        missing.is_empty().then_some(())
    });
    assert!(missing.is_empty(), "not within {SOON:?}: {missing:?}");
}

enum Restart {
    Registrar,
    Server,
    Agent,
}

fn deployed(path: &str) -> String {
    format!("{}/../../deploy/kubernetes/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// Waits for what should happen within seconds.
#[track_caller]
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    within(SOON, || done().then_some(())).unwrap_or_else(|| panic!("not within {SOON:?}: {what}"));
}

fn outage() -> Duration {
    let secs = std::env::var_os("INTEROP_OUTAGE_SECS").and_then(|secs| secs.to_str()?.parse().ok());
    Duration::from_secs(secs.unwrap_or(60))
}

const NAMESPACE: &str = "vouchsafe";
/// Several are issued during an outage: half of this is left when the next is due. A busy machine may take all of that to
/// start the server again, and nobody else can issue one.
const SVID_SECS: u64 = 60;
/// The first one, and one each half minute.
const LEAST_SVIDS: usize = 3;
/// How much longer than the outage a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// A server that was started anew waits until the lease of the one before has ended (15 s); the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(240);

const SPIFFE_ID: &str = "
apiVersion: spire.spiffe.io/v1alpha1
kind: ClusterSPIFFEID
metadata: {name: web}
spec:
  spiffeIDTemplate: 'spiffe://{{ .TrustDomain }}/pod/{{ .PodMeta.Name }}'
  podSelector: {matchLabels: {app: web}}
";

const ROLES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: server}
rules:
- {apiGroups: [''], resources: [pods, nodes], verbs: [get]}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: server}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: server}
subjects: [{kind: ServiceAccount, name: server, namespace: vouchsafe}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: server, namespace: vouchsafe}
rules:
- {apiGroups: [''], resources: [configmaps], verbs: [get, list, watch, create, patch, update]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, list, watch, create, patch, update]}
- {apiGroups: ['', events.k8s.io], resources: [events], verbs: [create, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: server, namespace: vouchsafe}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: server}
subjects: [{kind: ServiceAccount, name: server, namespace: vouchsafe}]
";
