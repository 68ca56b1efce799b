use vouchsafe_identity::web::WebRoots;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_testkit::kubelet::{FakeKubelet, FakePod, Manner, proc_with};
use vouchsafe_types::selector::SelectorSet;

use super::*;
use crate::attest::image_signatures::{ImageSignaturesConfig, Settings, TrustFiles};
use crate::attest::unix::{UnixAttestor, UnixAttestorConfig};
use crate::attest::{Attestors, Unattested};

fn this_process() -> PeerProcess {
    PeerProcess::of(&std::os::unix::net::UnixStream::pair().unwrap().0).unwrap()
}

struct Node {
    fake: FakeKubelet,
    _proc: tempfile::TempDir,
    attestors: Attestors,
}

impl Node {
    /// With this process in `cgroup`.
    async fn with(cgroup: &str, change: impl FnOnce(&mut K8sConfig)) -> Self {
        Self::verifying(None, cgroup, change).await
    }

    async fn verifying(
        signatures: Option<ImageSignatures>,
        cgroup: &str,
        change: impl FnOnce(&mut K8sConfig),
    ) -> Self {
        let fake = FakeKubelet::plain().await;
        let settings = K8sSettings { kubelet_read_only_port: fake.port(), ..K8sSettings::default() };
        let (folder, proc_root) = proc_with(std::process::id(), cgroup);
        let mut config = settings.check().unwrap();
        config.proc_root = proc_root;
        change(&mut config);
        let metrics = Metrics::new(Registry::new("spire_agent", &[]));
        let unix = UnixAttestor::new(UnixAttestorConfig::default());
        let k8s = K8sAttestor::new(config, signatures, &Clock::system(), &metrics);
        let attestors = Attestors::new(vec![Arc::new(unix), Arc::new(k8s)], &metrics);
        Self { fake, _proc: folder, attestors }
    }

    async fn attest(&self) -> Result<SelectorSet, Unattested> {
        self.attestors.attest(&this_process()).await
    }
}

fn has(selectors: &SelectorSet, text: &str) -> bool {
    selectors.iter().any(|selector| selector.as_str() == text)
}

#[tokio::test]
async fn a_process_in_a_pod_has_the_selectors_of_pod_container_and_user() {
    let pod = FakePod::number(7);
    let node = Node::with(&pod.cgroup(), |_| ()).await;
    node.fake.lists(&[FakePod::number(1), pod.clone()], 0);
    let selectors = node.attest().await.unwrap();
    let own = format!("unix:uid:{}", nix::unistd::geteuid());
    let uid = format!("k8s:pod-uid:{}", pod.uid);
    for expected in
        ["k8s:ns:shop", "k8s:sa:web", "k8s:pod-label:number:7", "k8s:container-name:web", &uid, &own]
    {
        assert!(has(&selectors, expected), "{expected}: {selectors:?}");
    }
}

#[tokio::test]
async fn a_process_in_no_container_costs_the_kubelet_nothing() {
    let node = Node::with("/user.slice/user-1000.slice", |_| ()).await;
    let selectors = node.attest().await.unwrap();
    assert!(selectors.iter().all(|selector| selector.kind() == "unix"));
    assert_eq!(node.fake.requests(), 0);
}

#[tokio::test]
async fn without_container_selectors_the_pod_is_enough() {
    let pod = FakePod::number(7);
    let node = Node::with(&pod.cgroup(), |config| config.disable_container_selectors = true).await;
    let mut starting = pod.clone();
    starting.containers[0].id.clear();
    node.fake.lists(&[starting], 0);
    let selectors = node.attest().await.unwrap();
    assert!(has(&selectors, "k8s:pod-name:web-7"));
    assert!(!selectors.iter().any(|selector| selector.value().starts_with("container-")));
}

#[tokio::test]
async fn where_signatures_are_wanted_a_pod_without_an_image_is_never_enough() {
    for (listed, says) in [(false, "no selectors found after max poll attempts"), (true, NO_IMAGE)] {
        let mut pod = FakePod::number(7);
        let cgroup = pod.cgroup();
        pod.containers[0].image_id.clear();
        if !listed {
            pod.containers[0].id.clear();
        }
        let mut supervisor = Supervisor::new();
        let config = ImageSignaturesConfig {
            settings: Settings::default(),
            roots: TrustFiles::default(),
            registries: WebRoots::System,
        };
        let signatures = ImageSignatures::start(&config, &Clock::system(), &mut supervisor).unwrap();
        let node = Node::verifying(Some(signatures), &cgroup, |config| {
            (config.disable_container_selectors, config.max_poll_attempts) = (true, 1);
        })
        .await;
        node.fake.lists(&[pod], 0);
        let selectors = node.attest().await.unwrap();
        assert!(selectors.iter().all(|selector| selector.kind() == "unix"), "{selectors:?}");
        let examined = node.attestors.examine(&this_process()).await;
        let outcome = examined.outcomes.iter().find(|(name, _)| *name == "k8s").unwrap();
        let why = outcome.1.as_ref().unwrap_err();
        assert!(why.contains(says), "{why}");
    }
}

#[tokio::test]
async fn a_kubelet_that_refuses_costs_the_other_selectors_nothing_and_is_named() {
    let pod = FakePod::number(7);
    let node = Node::with(&pod.cgroup(), |config| config.max_poll_attempts = 1).await;
    node.fake.answers(Manner::Status(403, "Forbidden".to_owned()), Duration::ZERO);
    let selectors = node.attest().await.unwrap();
    assert!(selectors.iter().all(|selector| selector.kind() == "unix"));
    let examined = node.attestors.examine(&this_process()).await;
    let outcome = examined.outcomes.iter().find(|(name, _)| *name == "k8s").unwrap();
    let why = outcome.1.as_ref().unwrap_err();
    assert!(why.contains("403 Forbidden") && why.contains("nodes/proxy"), "{why}");
}

#[tokio::test]
async fn the_old_locator_is_used_where_it_is_asked_for() {
    let pod = FakePod::number(7);
    let below = format!("{}/init.scope", pod.cgroup());
    let node = Node::with(&below, |config| config.legacy_locator = true).await;
    node.fake.lists(&[pod], 0);
    assert!(node.attest().await.unwrap().iter().all(|selector| selector.kind() == "unix"));
    assert_eq!(node.fake.requests(), 0, "a path that does not end with the ID is none for it");
}
