use super::*;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

fn asking(trust_domain: &TrustDomain) -> Asking<'_> {
    let since = "2026-01-02T03:04:05Z";
    Asking { mode: "bootstrap", attempts: 3, since, server_address: "[::1]:8081", trust_domain }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

#[test]
fn a_daemon_is_told_who_asks_and_why_and_the_urls_own_query_stays() {
    let said = "spiffe-trust-domain=example.org&spire-attest-mode=bootstrap\
        &spire-attest-start-time=2026-01-02T03%3A04%3A05Z&spire-connection-attempts=3\
        &spire-server-address=%3A%3A1&spire-server-port=8081";
    let trust_domain = trust_domain();
    let resource = |url| resource(url, &asking(&trust_domain)).unwrap();
    assert_eq!(resource("http://localhost/trust?site=a%20b"), format!("/trust?site=a%20b&{said}"));
    assert_eq!(resource("http://localhost"), format!("/?{said}"));
}

/// One answer over a Unix socket.
async fn answer(head: &str, body: &[u8], format: BundleFormat) -> Result<Bundle, String> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 2048];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let length = body.len();
        let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // Who has heard enough hangs up.
        drop(stream.write_all(body).await);
    };
    let origin = Origin { place: Place::Socket { socket, url: "http://localhost/b".into() }, format };
    let trust_domain = trust_domain();
    let clock = Clock::derived(std::time::UNIX_EPOCH);
    let asking = asking(&trust_domain);
    tokio::join!(origin.fetch(&asking, &clock), serve).0
}

#[tokio::test]
async fn what_is_not_a_bundle_says_so_and_where_it_came_from() {
    let refused = async |head: &str, body: &[u8], format, text: &str| {
        let error = answer(head, body, format).await.unwrap_err();
        assert!(error.contains(text), "{error}");
    };
    let (pem, spiffe) = (BundleFormat::Pem, BundleFormat::Spiffe);
    refused("200 OK", b"nothing", pem, "could not parse trust bundle: ").await;
    refused("200 OK", br#"{"keys":[]}"#, spiffe, "no certificates found in trust bundle").await;
    refused("200 OK", b"{", spiffe, "could not parse trust bundle: ").await;
    refused("404 Not Found", b"", pem, "http://localhost/b at ").await;
    refused("302 Found\r\nLocation: http://other/", b"", pem, "redirects are not followed").await;
    refused("200 OK", &vec![b'-'; MAX_BYTES + 1], pem, "more than").await;
}

#[tokio::test]
async fn a_file_is_read_for_each_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle");
    let origin = Origin { place: Place::File(path.clone()), format: BundleFormat::Spiffe };
    let trust_domain = trust_domain();
    let clock = Clock::derived(std::time::UNIX_EPOCH);
    let fetch = async || origin.fetch(&asking(&trust_domain), &clock).await.unwrap_err();
    let missing = fetch().await;
    assert!(missing.contains("cannot read") && missing.contains("bundle"), "{missing}");
    std::fs::write(&path, "{").unwrap();
    assert!(fetch().await.starts_with("could not parse trust bundle: "));
}

#[tokio::test]
async fn a_url_must_be_https_and_its_server_must_prove_its_name() {
    let roots = WebRoots::Pem(Arc::from(b"".as_slice()));
    let place = Place::Url { url: "http://localhost/".into(), roots };
    let origin = Origin { place, format: BundleFormat::Pem };
    let trust_domain = trust_domain();
    let clock = Clock::derived(std::time::UNIX_EPOCH);
    assert!(origin.fetch(&asking(&trust_domain), &clock).await.is_err());
}
