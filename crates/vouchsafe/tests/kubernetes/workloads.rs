//! Workloads in Pods (`k8s`): local processes in cgroups as a kubelet makes them, and a fake kubelet that lists their Pods.
//! Both our agent and a stock one. Needs root, for the cgroups.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::runtime::Runtime;
use vouchsafe_testkit::kubelet::{Admits, FakeKubelet, FakePod, Manner, PodCgroup};

use crate::process::{Outcome, eventually, run};
use crate::world::{Agent, AgentSettings, Server, ServerSettings, World};

/// A node with an agent, and what runs its kubelet.
struct Node {
    kubelet: FakeKubelet,
    server: Server,
    agent: Agent,
    world: World,
    _runtime: Runtime,
}

impl Node {
    fn with(stock_agent: Option<PathBuf>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let kubelet = runtime.block_on(FakeKubelet::secure("node-1", Admits::Token));
        let world = World::with(None, stock_agent);
        let server = world.server("s", &ServerSettings::default());
        let files = kubelet.files();
        let attestor = format!(
            r#"NodeAttestor "join_token" {{ plugin_data {{}} }}
            WorkloadAttestor "k8s" {{ plugin_data {{
                kubelet_secure_port = {}
                kubelet_ca_path = "{}"
                token_path = "{}"
            }} }}"#,
            kubelet.port(),
            files.ca.display(),
            files.token.display()
        );
        let agent = world.agent("a", &server, &AgentSettings { attestor, ..AgentSettings::default() });
        Self { kubelet, server, agent, world, _runtime: runtime }
    }

    /// The cgroup of a Pod here, below one of this node's own: what a test has made goes with it.
    fn cgroup(&self, pod: &FakePod) -> PodCgroup {
        let own = self.world.path().file_name().unwrap().to_string_lossy();
        PodCgroup::make(&format!("vouchsafe-test-{own}"), pod)
    }

    /// A process in this container that asks for its SVIDs.
    fn fetch(&self, cgroup: &PodCgroup, timeout: &str) -> Command {
        let mut command = cgroup.command(self.agent.program());
        command.args(["api", "fetch", "x509", "-timeout", timeout, "-socketPath"]).arg(&self.agent.socket);
        command
    }

    /// What it is told.
    fn fetches(&self, cgroup: &PodCgroup) -> Outcome {
        run(&mut self.fetch(cgroup, "60s"))
    }

    fn wait_for(&self, cgroup: &PodCgroup, path: &str) {
        let id = format!("SPIFFE ID:\t\t{}", self.server.id(path));
        eventually(&format!("an SVID for {path}"), || {
            self.fetches(cgroup).stdout.contains(&id).then_some(())
        });
    }
}

fn named(pod: &mut FakePod, value: &str) {
    pod.labels.insert("app".to_owned(), value.to_owned());
}

/// A process is known by its Pod's label; another Pod's process by another; one in no Pod by none.
fn workloads_are_known_by_their_pods(stock_agent: Option<PathBuf>) {
    let node = Node::with(stock_agent);
    let (mut web, mut other) = (FakePod::number(7), FakePod::number(8));
    named(&mut web, "web");
    named(&mut other, "other");
    node.kubelet.lists(&[FakePod::number(1), web.clone(), other.clone()], 100_000);
    node.server.entry("web", "node", "k8s:pod-label:app:web", &["-selector", "k8s:ns:shop"]);
    node.server.entry("other", "node", "k8s:pod-name:web-8", &["-selector", "k8s:container-name:web"]);
    let cgroups = [node.cgroup(&web), node.cgroup(&other)];
    node.wait_for(&cgroups[0], "web");
    node.wait_for(&cgroups[1], "other");
    let fetched = node.fetches(&cgroups[0]).ok();
    assert!(!fetched.contains("/other"), "{fetched}");
    let outside = node.agent.cli(&["api", "fetch", "x509", "-timeout", "60s"]);
    assert!(outside.err().contains("no identity issued"));
    // A container that is listed while it waits.
    let mut late = FakePod::number(9);
    named(&mut late, "web");
    let cgroup = node.cgroup(&late);
    let before = node.kubelet.requests();
    let waiting = node.fetch(&cgroup, "60s").stdout(Stdio::piped()).spawn().unwrap();
    eventually("the kubelet is asked", || (node.kubelet.requests() > before).then_some(()));
    node.kubelet.lists(&[web, late], 100_000);
    let told = waiting.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains(&node.server.id("web")), "{told}");
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_workload_has_the_identity_of_its_pod() {
    workloads_are_known_by_their_pods(None);
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_stock_agent_sees_the_same_at_the_same_kubelet() {
    workloads_are_known_by_their_pods(Some(crate::psat::stock("spire-agent").unwrap()));
}

#[test]
#[ignore = "needs Kubernetes: run by interop/run kubernetes"]
fn a_kubelet_that_is_away_costs_known_workloads_nothing_and_is_named() {
    let node = Node::with(None);
    let (web, new) = (FakePod::number(7), FakePod::number(8));
    node.kubelet.lists(std::slice::from_ref(&web), 100_000);
    node.server.entry("web", "node", "k8s:ns:shop", &[]);
    node.server.entry_for_this_user("user", &[]);
    let cgroups = [node.cgroup(&web), node.cgroup(&new)];
    node.wait_for(&cgroups[0], "web");
    node.wait_for(&cgroups[0], "user");
    for manner in
        [Manner::Status(403, "Forbidden".to_owned()), Manner::Says(vec![0; 10 << 20]), Manner::Hangs]
    {
        node.kubelet.answers(manner, Duration::ZERO);
        let told = node.fetches(&cgroups[0]).ok();
        assert!(told.contains(&node.server.id("web")) && told.contains(&node.server.id("user")), "{told}");
    }
    node.kubelet.answers(Manner::Status(403, "Forbidden".to_owned()), Duration::ZERO);
    let told = node.fetches(&cgroups[1]).ok();
    assert!(told.contains(&node.server.id("user")) && !told.contains(&node.server.id("web")), "{told}");
    let mut explain = cgroups[1].command(&PathBuf::from(env!("CARGO_BIN_EXE_vouchsafe")));
    explain.args(["explain", "-socketPath"]).arg(&node.agent.socket);
    let explained = run(&mut explain);
    assert!(explained.stdout.contains("403 Forbidden"), "{explained:?}");
    node.kubelet.answers(Manner::Well, Duration::ZERO);
    node.kubelet.lists(&[web, new.clone()], 100_000);
    node.wait_for(&cgroups[1], "web");
    drop(node.world);
}
