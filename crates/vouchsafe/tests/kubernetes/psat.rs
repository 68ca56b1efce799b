//! Node attestation by the service account token of a Pod (`k8s_psat`), ours and stock on either end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vouchsafe_testkit::kubernetes::{Created, Kubernetes, PodObject, TokenSettings};

use crate::process::eventually;
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World, has_line};

/// An agent's Pod on a node, and what a server may ask the API server.
struct Place<'a> {
    cluster: &'a Kubernetes,
    namespace: String,
    node: Created,
    pod: Created,
    kubeconfig: PathBuf,
}

/// The address that the kubelet reports for its node.
const HOST: &str = "10.7.7.7";

impl<'a> Place<'a> {
    fn new(cluster: &'a Kubernetes) -> Self {
        let namespace = cluster.namespace("psat");
        cluster.service_account(&namespace, "agent");
        cluster.service_account(&namespace, "server");
        cluster.apply(&role(&namespace));
        let account = format!("{namespace}:server");
        cluster.wait_until_allowed(&account, "get", ("", "pods", "x"), &namespace);
        let node = cluster.node(&cluster.unique("node"), HOST, &[("zone", "a"), ("hidden", "x")]);
        let object = PodObject::new(&namespace, "agent-x").service_account("agent").node(&node.name);
        let object = object.label("app", "agent").label("hidden", "x").with(|_, _, status| {
            status["hostIP"] = HOST.into();
            status["hostIPs"] = serde_json::json!([{ "ip": HOST }]);
        });
        let pod = cluster.pod(&object);
        let kubeconfig = cluster.kubeconfig_of_service_account(&namespace, "server");
        Self { cluster, namespace, node, pod, kubeconfig }
    }

    fn server(&self, world: &World) -> Server {
        let plugins = format!(
            r#"NodeAttestor "k8s_psat" {{ plugin_data {{ clusters = {{ "demo" = {{
                service_account_allow_list = ["{}:agent"]
                kube_config_file = "{}"
                allowed_node_label_keys = ["zone"]
                allowed_pod_label_keys = ["app"]
            }} }} }} }}"#,
            self.namespace,
            self.kubeconfig.display(),
        );
        world.server("s", &ServerSettings { plugins, ..ServerSettings::default() })
    }

    /// Writes the token of `account` for `audience`, bound to the Pod, and starts an agent that shows it.
    fn agent(&self, world: &World, server: &Server, cluster: &str) -> (Agent, PathBuf) {
        let token = world.path().join("token");
        let attestor = format!(
            r#"NodeAttestor "k8s_psat" {{ plugin_data {{ cluster = "{cluster}" token_path = "{}" }} }}"#,
            token.display()
        );
        let settings = AgentSettings { attestor, ..AgentSettings::default() };
        (world.agent_with("a", server, &settings, &[]), token)
    }

    fn write_token(&self, path: &Path, audience: &str) {
        let settings = TokenSettings { audiences: &[audience], pod: Some(&self.pod) };
        std::fs::write(path, self.cluster.token(&self.namespace, "agent", settings)).unwrap();
    }

    fn agent_path(&self) -> String {
        format!("spire/agent/k8s_psat/demo/{}", self.node.uid)
    }

    fn selectors(&self) -> BTreeSet<String> {
        let Self { namespace, node, pod, .. } = self;
        let values = [
            "cluster:demo".to_owned(),
            format!("agent_ns:{namespace}"),
            "agent_sa:agent".to_owned(),
            format!("agent_pod_name:{}", pod.name),
            format!("agent_pod_uid:{}", pod.uid),
            format!("agent_node_ip:{HOST}"),
            format!("agent_node_name:{}", node.name),
            format!("agent_node_uid:{}", node.uid),
            "agent_node_label:zone:a".to_owned(),
            "agent_pod_label:app:agent".to_owned(),
        ];
        values.into_iter().map(|value| format!("k8s_psat:{value}")).collect()
    }
}

/// All that the attestor needs, as SPIRE documents it.
fn role(namespace: &str) -> String {
    format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {namespace}-server}}
rules:
- {{apiGroups: [""], resources: [pods, nodes], verbs: [get]}}
- {{apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}-server}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {namespace}-server}}
subjects: [{{kind: ServiceAccount, name: server, namespace: {namespace}}}]
"#
    )
}

/// SPIRE's program of this name, as `interop/run kubernetes` compiled it.
pub(crate) fn stock(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os("STOCK_SPIRE").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let cached =
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/vouchsafe-spire/1.15.3");
    let program = named.unwrap_or_else(cached).join(name);
    assert!(program.exists(), "{} is missing: run `bash interop/run kubernetes`", program.display());
    Some(program)
}

/// A node attests, is known by all that its cluster says of it, gives its workloads SVIDs, and attests again when it must.
fn attests(world: &World) {
    let place = Place::new(Kubernetes::shared());
    let server = place.server(world);
    // First, since a stock agent that finds none may end.
    place.write_token(&world.path().join("token"), "spire-server");
    let (agent, _) = place.agent(world, &server, "demo");
    agent.wait_until_healthy();
    let id = server.id(&place.agent_path());
    let shown = server.json(&["agent", "show", "-spiffeID", &id]);
    let selectors = shown["selectors"].as_array().unwrap().iter();
    let selectors = selectors
        .map(|each| format!("{}:{}", each["type"].as_str().unwrap(), each["value"].as_str().unwrap()));
    assert_eq!(selectors.collect::<BTreeSet<_>>(), place.selectors());
    assert_eq!(shown["can_reattest"], true);
    server.entry("workload", &place.agent_path(), &format!("unix:uid:{}", nix::unistd::geteuid()), &[]);
    agent.wait_for_svid("workload");

    server.cli(&["agent", "evict", "-spiffeID", &id]).ok();
    eventually("the agent is back", || {
        (server.cli(&["agent", "show", "-spiffeID", &id]).code == 0).then_some(())
    });
    assert!(agent.is_running());
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_node_is_attested_by_the_token_of_its_agents_pod() {
    attests(&World::with(None, None));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_stock_agent_is_attested_by_our_server() {
    attests(&World::with(None, stock("spire-agent")));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn our_agent_is_attested_by_a_stock_server() {
    attests(&World::with(stock("spire-server"), None));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_token_that_is_missing_empty_or_for_somebody_else_is_named_and_replaced_without_a_restart() {
    let world = World::with(None, None);
    let place = Place::new(Kubernetes::shared());
    let server = place.server(&world);
    let (agent, token) = place.agent(&world, &server, "demo");
    agent.wait_for_log(&["cannot read", "token_path"]);
    std::fs::write(&token, "").unwrap();
    agent.wait_for_log(&["token_path", "it is empty"]);
    place.write_token(&token, "vault");
    agent.wait_for_log(&["its audiences are", "vault", "spire-server"]);
    assert!(agent.is_running());
    place.write_token(&token, "spire-server");
    agent.wait_until_healthy();
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_service_account_that_is_not_allowed_is_refused_for_good() {
    let world = World::with(None, None);
    let place = Place::new(Kubernetes::shared());
    let server = place.server(&world);
    let (agent, token) = place.agent(&world, &server, "demo");
    let other = place.cluster.pod(&PodObject::new(&place.namespace, "other").node(&place.node.name));
    let settings = TokenSettings { audiences: &["spire-server"], pod: Some(&other) };
    std::fs::write(&token, place.cluster.token(&place.namespace, "default", settings)).unwrap();
    agent.wait_until_it_ends();
    let refusal = format!("{}:default", place.namespace);
    assert!(has_line(&agent.log(), &[&refusal, "is not an allowed service account for cluster"]));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_cluster_that_the_server_does_not_know_is_named() {
    let world = World::with(None, None);
    let place = Place::new(Kubernetes::shared());
    let server = place.server(&world);
    let (agent, token) = place.agent(&world, &server, "elsewhere");
    place.write_token(&token, "spire-server");
    agent.wait_for_log(&["not configured for cluster", "elsewhere"]);
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn the_token_of_a_pod_that_is_gone_attests_nobody_also_while_the_api_server_remembers_it() {
    let world = World::with(None, None);
    let place = Place::new(Kubernetes::shared());
    let server = place.server(&world);
    let (agent, token) = place.agent(&world, &server, "demo");
    place.write_token(&token, "spire-server");
    agent.wait_until_healthy();
    // Reviewed a moment ago: the API server says "authenticated" for ten seconds more.
    place.cluster.delete_pod(&place.pod);
    server.cli(&["agent", "evict", "-spiffeID", &server.id(&place.agent_path())]).ok();
    eventually("the agent is refused", || {
        // Which one depends on whether these ten seconds are over.
        let reasons = [
            "fail to get pod from k8s API server for cluster",
            "token review API response contains an error",
        ];
        let log = agent.log();
        reasons.iter().any(|reason| log.contains(reason)).then_some(())
    });
    assert_ne!(server.cli(&["agent", "show", "-spiffeID", &server.id(&place.agent_path())]).code, 0);
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn an_api_server_that_is_away_keeps_agents_waiting_and_ends_none() {
    let world = World::with(None, None);
    let cluster = Kubernetes::start();
    let place = Place::new(&cluster);
    let server = place.server(&world);
    place.write_token(&world.path().join("token"), "spire-server");
    cluster.stop_api_server();
    let (agent, _) = place.agent(&world, &server, "demo");
    agent.wait_for_log(&["unable to validate token with TokenReview API"]);
    assert!(agent.is_running());
    cluster.start_api_server();
    agent.wait_until_healthy();

    // The agent loses its place while nobody can say whether it may have it back.
    cluster.stop_api_server();
    server.entry("workload", &place.agent_path(), &format!("unix:uid:{}", nix::unistd::geteuid()), &[]);
    agent.wait_for_svid("workload");
    server.cli(&["agent", "evict", "-spiffeID", &server.id(&place.agent_path())]).ok();
    agent.wait_for_log(&["Could not reattest agent", "unable to validate token with TokenReview API"]);
    server.wait_for_log(&["The Kubernetes API server does not answer"]);
    assert!(agent.is_running());
    agent.wait_for_svid("workload");
    cluster.start_api_server();
    eventually("the agent is back", || {
        let shown = server.cli(&["agent", "show", "-spiffeID", &server.id(&place.agent_path())]);
        (shown.code == 0).then_some(())
    });
    server.wait_for_log(&["The Kubernetes API server answers again"]);
}
