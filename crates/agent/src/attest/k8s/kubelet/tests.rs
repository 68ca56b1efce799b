use vouchsafe_runtime::chain::Chain;
use vouchsafe_testkit::kubelet::{Admits, FakeKubelet, FakePod, Manner};

use super::*;

const MIB: usize = 1024 * 1024;

fn plain(fake: &FakeKubelet) -> Arc<Kubelet> {
    let config = KubeletConfig { port: fake.port(), secure: None };
    Arc::new(Kubelet::new(config, Clock::system()))
}

fn secure(fake: &FakeKubelet, credentials: Credentials) -> SecureConfig {
    SecureConfig { node_name: None, ca_path: Some(fake.files().ca.clone()), credentials }
}

fn kubelet(fake: &FakeKubelet, secure: SecureConfig) -> Arc<Kubelet> {
    let config = KubeletConfig { port: fake.port(), secure: Some(secure) };
    Arc::new(Kubelet::new(config, Clock::system()))
}

fn token(fake: &FakeKubelet) -> Credentials {
    Credentials::Token(fake.files().token.clone())
}

async fn pods(kubelet: &Arc<Kubelet>) -> Result<usize, KubeletError> {
    kubelet.list(Arc::default()).await.map(|list| list.index.pods())
}

async fn refusal(kubelet: &Arc<Kubelet>) -> (&'static str, String) {
    let error = pods(kubelet).await.unwrap_err();
    assert!(!error.next_step().is_empty());
    (error.kind(), Chain(&error).to_string())
}

#[tokio::test]
async fn the_read_only_port_lists_pods_of_any_size() {
    let fake = FakeKubelet::plain().await;
    let kubelet = plain(&fake);
    assert_eq!(pods(&kubelet).await.unwrap(), 0);
    let all: Vec<_> = (0..250).map(FakePod::number).collect();
    fake.lists(&all, 4 * MIB);
    assert_eq!(pods(&kubelet).await.unwrap(), 250);
    assert_eq!(fake.requests(), 2);
}

#[tokio::test]
async fn a_token_is_read_again_for_each_request() {
    let fake = FakeKubelet::secure("node-1", Admits::Token).await;
    let own = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(own.path(), "expired\n").unwrap();
    let kubelet = kubelet(&fake, secure(&fake, Credentials::Token(own.path().to_owned())));
    let (kind, text) = refusal(&kubelet).await;
    assert_eq!(
        (kind, text.as_str()),
        ("unauthorized", "unexpected status code on pods response: 401 Unauthorized")
    );
    std::fs::copy(&fake.files().token, own.path()).unwrap();
    assert_eq!(pods(&kubelet).await.unwrap(), 0);
    std::fs::remove_file(own.path()).unwrap();
    let (kind, text) = refusal(&kubelet).await;
    assert!(kind == "credentials" && text.starts_with("unable to load token: /"), "{text}");
}

#[tokio::test]
async fn a_client_certificate_opens_the_secure_port_and_nothing_else_does() {
    let fake = FakeKubelet::secure("node-1", Admits::Certificate).await;
    let own = Credentials::Certificate {
        certificate_path: fake.files().client_certificate.clone(),
        private_key_path: fake.files().client_key.clone(),
    };
    assert_eq!(pods(&kubelet(&fake, secure(&fake, own))).await.unwrap(), 0);
    assert!(pods(&kubelet(&fake, secure(&fake, Credentials::Anonymous))).await.is_err());
    let mixed = Credentials::Certificate {
        certificate_path: fake.files().client_certificate.clone(),
        private_key_path: fake.files().token.clone(),
    };
    let (kind, text) = refusal(&kubelet(&fake, secure(&fake, mixed))).await;
    assert!(kind == "credentials" && text.starts_with("unable to load keypair: "), "{text}");
}

#[tokio::test]
async fn the_kubelet_is_known_by_its_authority_and_by_the_nodes_name_where_that_is_told() {
    let fake = FakeKubelet::secure("localhost", Admits::Token).await;
    let foreign = FakeKubelet::secure("localhost", Admits::Token).await;
    let with = |node: Option<&str>, ca: Option<PathBuf>| {
        let node_name = node.map(str::to_owned);
        kubelet(&fake, SecureConfig { node_name, ca_path: ca, credentials: token(&fake) })
    };
    let own = || Some(fake.files().ca.clone());
    assert!(pods(&with(None, own())).await.is_ok(), "by its chain alone, at 127.0.0.1");
    assert!(pods(&with(Some("localhost"), own())).await.is_ok());
    assert_eq!(refusal(&with(Some("127.0.0.1"), own())).await.0, "tls", "its certificate has another name");
    assert_eq!(refusal(&with(None, Some(foreign.files().ca.clone()))).await.0, "tls");
    assert!(pods(&with(None, None)).await.is_ok(), "verification is skipped");
    let (kind, text) = refusal(&with(None, Some(fake.files().token.clone()))).await;
    assert!(kind == "credentials" && text.starts_with("unable to parse kubelet CA: "), "{text}");
}

#[tokio::test]
async fn whatever_else_comes_is_an_error_that_says_what_it_was() {
    let fake = FakeKubelet::plain().await;
    let kubelet = plain(&fake);
    fake.lists(&[FakePod::number(1)], 100_000);
    for (manner, kind, begin) in [
        (
            Manner::Status(403, "Forbidden (user=x, verb=get)".to_owned()),
            "forbidden",
            "unexpected status code on pods response: 403 Forbidden (user=x",
        ),
        (
            Manner::Status(500, "x".repeat(10 * MIB)),
            "status",
            "unexpected status code on pods response: 500 xxx",
        ),
        (Manner::Says(b"<html>".to_vec()), "garbage", "invalid kubelet response: expected an object"),
        (Manner::Says(vec![0; 10 * MIB]), "garbage", "invalid kubelet response: expected an object"),
        (
            Manner::Says(b"{\"kind\":\"Status\"}".to_vec()),
            "garbage",
            "invalid kubelet response: expected an items array",
        ),
        (Manner::Says(b"{\"items\":[{]}".to_vec()), "garbage", "unable to parse kubelet response"),
        (Manner::Half, "garbage", "unable to read pods response"),
        (Manner::Closes, "garbage", "unable to read pods response"),
    ] {
        fake.answers(manner.clone(), Duration::ZERO);
        let (found, text) = refusal(&kubelet).await;
        assert!(found == kind && text.starts_with(begin), "{found}: {text}");
        assert!(text.len() < 600, "{}", text.len());
    }
    fake.answers(Manner::Well, Duration::ZERO);
    assert_eq!(pods(&kubelet).await.unwrap(), 1);
    let port = fake.port();
    drop(fake);
    let gone = Arc::new(Kubelet::new(KubeletConfig { port, secure: None }, Clock::system()));
    assert_eq!(refusal(&gone).await.0, "unreachable");
}

#[tokio::test]
async fn a_list_without_end_is_given_up_at_the_bound() {
    let fake = FakeKubelet::plain().await;
    let mut endless = b"{\"items\":[],\"x\":\"".to_vec();
    endless.resize(MIB + 1, b'x');
    fake.serves(endless);
    let bounds = Bounds { body: MIB, deadline: DEADLINE };
    let config = KubeletConfig { port: fake.port(), secure: None };
    let kubelet = Arc::new(Kubelet { bounds, ..Kubelet::new(config, Clock::system()) });
    let (kind, text) = refusal(&kubelet).await;
    assert!(kind == "garbage" && text.contains("sent more than 1048576 bytes"), "{text}");
}

#[tokio::test]
async fn pods_as_large_as_they_can_be_keep_the_others_from_nothing() {
    let fake = FakeKubelet::plain().await;
    let mut list = b"{\"items\":[".to_vec();
    for number in 0..10 {
        // 1.4 MiB of text that JSON makes nearly six times as large.
        let annotation = if number < 9 { "\\u0001".repeat(1400 * 1024) } else { String::new() };
        let pod = format!(
            r#"{{"metadata":{{"uid":"{number}","annotations":{{"a":"{annotation}"}}}},"spec":{{}},"status":{{}}}},"#
        );
        list.extend_from_slice(pod.as_bytes());
    }
    list.pop();
    list.extend_from_slice(b"]}");
    fake.serves(list);
    let config = KubeletConfig { port: fake.port(), secure: None };
    // Without optimization it is slow.
    let bounds = Bounds { deadline: DEADLINE * 10, body: MAX_BODY };
    let kubelet = Arc::new(Kubelet { bounds, ..Kubelet::new(config, Clock::system()) });
    let list = kubelet.list(Arc::default()).await.unwrap();
    assert_eq!((list.index.pods(), list.unreadable), (10, None));
}

#[tokio::test]
async fn a_file_that_hangs_is_named_in_time_and_takes_one_thread() {
    let fake = FakeKubelet::secure("node-1", Admits::Token).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let secure = secure(&fake, Credentials::Token(path.clone()));
    let config = KubeletConfig { port: fake.port(), secure: Some(secure) };
    let bounds = Bounds { deadline: Duration::from_millis(500), body: MAX_BODY };
    let kubelet = Arc::new(Kubelet { bounds, ..Kubelet::new(config, Clock::system()) });
    let mut refusals = Vec::new();
    for _ in 0..3 {
        let refused = tokio::time::timeout(DEADLINE, refusal(&kubelet)).await;
        // Who reads holds it: a thread, beside this test.
        refusals.push((refused, Arc::strong_count(&kubelet) - 1));
    }
    // Opened for writing, so that whoever reads comes to an end, also when the test fails.
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap());
    for (refused, threads) in refusals {
        let (kind, text) = refused.expect("an answer in time");
        assert_eq!((kind, threads), ("credentials", 1));
        assert!(text.starts_with(&format!("unable to load token: {}: timed out", path.display())), "{text}");
    }
}

#[test]
fn an_ipv6_node_is_in_brackets() {
    let secure = SecureConfig {
        node_name: Some("fd00::1".to_owned()),
        ca_path: None,
        credentials: Credentials::Anonymous,
    };
    let kubelet = Kubelet::new(KubeletConfig { port: 10250, secure: Some(secure) }, Clock::system());
    assert_eq!(kubelet.place(), "[fd00::1]:10250");
}
