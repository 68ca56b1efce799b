//! A process in a Pod whose image is in a registry on this machine: the recorded one of `vouchsafe_sigstore`'s tests.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_testkit::kubelet::{FakeKubelet, FakePod, proc_with};
use vouchsafe_transport::peer::PeerProcess;

use super::*;
use crate::attest::k8s::{K8sAttestor, K8sSettings};
use crate::attest::{AttestorError, WorkloadAttestor};
use crate::metrics::Metrics;

#[derive(Deserialize)]
struct Recorded {
    roots: String,
    rekor: String,
    ct: String,
    registry: HashMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    image: String,
    selectors: Option<Vec<String>>,
}

/// Answers one request for each connection.
async fn serve(listener: TcpListener, pages: Arc<HashMap<String, String>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let pages = Arc::clone(&pages);
        connections.spawn(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            let asked = String::from_utf8(asked).unwrap();
            let page = pages.get(asked.split(' ').nth(1).unwrap());
            let (status, page) = page.map_or(("404 Not Found", ""), |page| ("200 OK", page));
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{page}", page.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
    }
}

/// What the attestor says of a process in a container of the image of the case `name`, and what SPIRE says of the image.
async fn attest(name: &str) -> (Result<Vec<Selector>, AttestorError>, Vec<String>) {
    let recorded: Recorded =
        serde_json::from_str(include_str!("../../../../sigstore/tests/vectors.json")).unwrap();
    let case = recorded.cases.into_iter().find(|case| case.name == name).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, Arc::new(recorded.registry)));

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        Some(dir.path().join(name))
    };
    let config = ImageSignaturesConfig {
        settings: Settings { ignore_attestations: true, ..Settings::default() },
        roots: TrustFiles {
            trusted_root: None,
            root_certificates: file("roots.pem", &recorded.roots),
            rekor_key: file("rekor.pem", &recorded.rekor),
            ct_key: file("ct.pem", &recorded.ct),
        },
        registries: WebRoots::System,
    };
    let mut supervisor = Supervisor::new();
    let signatures = ImageSignatures::start(&config, &Clock::system(), &mut supervisor).unwrap();

    let mut pod = FakePod::number(7);
    pod.containers[0].image_id = case.image.replace("127.0.0.1:5177", &registry.to_string());
    let (_folder, proc_root) = proc_with(std::process::id(), &pod.cgroup());
    let kubelet = FakeKubelet::plain().await;
    kubelet.lists(&[pod], 0);
    let settings = K8sSettings { kubelet_read_only_port: kubelet.port(), ..K8sSettings::default() };
    let mut config = settings.check().unwrap();
    config.proc_root = proc_root;
    let metrics = Metrics::new(Registry::new("spire_agent", &[]));
    let attestor = K8sAttestor::new(config, Some(signatures), &Clock::system(), &metrics);
    let peer = PeerProcess::of(&std::os::unix::net::UnixStream::pair().unwrap().0).unwrap();
    (attestor.attest(&peer).await, case.selectors.unwrap_or_default())
}

#[tokio::test]
async fn a_process_has_the_selectors_of_who_signed_its_image() {
    let (ours, stock) = attest("signed").await;
    let ours = ours.unwrap();
    assert_eq!(stock.len(), 8);
    for value in stock {
        let wanted = Selector::new("k8s", &value).unwrap();
        assert!(ours.contains(&wanted), "{value}");
    }
    assert!(ours.iter().any(|selector| selector.as_str() == "k8s:ns:shop"));
}

#[tokio::test]
async fn a_process_of_an_unsigned_image_has_no_selector_of_its_pod() {
    for (name, cause) in [("unsigned", "has no signature in its registry"), ("no-sct", "certificate log")] {
        let error = attest(name).await.0.unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
    }
}
