use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use vouchsafe_runtime::class::Class;

use super::super::{Beside, WebError};
use super::*;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const MANIFEST: &str =
    "/v2/a/b/manifests/sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.sig";

/// Answers by URL and `Authorization`; what is not known gets 404. Notes who was asked what.
#[derive(Default)]
struct Scripted {
    answers: HashMap<(String, Option<String>), WebAnswer>,
    asked: Mutex<Vec<(String, Option<String>)>>,
}

impl Scripted {
    fn with(mut self, url: &str, authorization: Option<&str>, answer: WebAnswer) -> Self {
        self.answers.insert((url.to_owned(), authorization.map(str::to_owned)), answer);
        self
    }

    fn asked(&self) -> Vec<(String, Option<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Web for Scripted {
    async fn get(&self, request: &WebRequest) -> Result<WebAnswer, WebError> {
        let key = (request.url.clone(), request.authorization.as_ref().map(|secret| secret.to_string()));
        self.asked.lock().unwrap().push(key.clone());
        let answer = self.answers.get(&key).cloned().unwrap_or_else(|| status(404));
        if answer.body.len() > request.body {
            return Err(WebError { message: "too long".to_owned(), class: Class::Peer });
        }
        Ok(answer)
    }
}

fn status(status: u16) -> WebAnswer {
    WebAnswer { status, location: None, challenges: Vec::new(), body: Default::default() }
}

fn body(text: &str) -> WebAnswer {
    WebAnswer { body: text.to_owned().into(), ..status(200) }
}

fn to(location: &str) -> WebAnswer {
    WebAnswer { location: Some(location.to_owned()), ..status(307) }
}

fn challenge(text: &str) -> WebAnswer {
    WebAnswer { challenges: vec![text.to_owned()], ..status(401) }
}

fn login() -> RegistryLogin {
    RegistryLogin { username: "user".to_owned(), password: "secret".to_owned().into() }
}

/// `user:secret`
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

async fn layers(web: &Scripted, registry: &str, login: Option<&RegistryLogin>) -> Result<usize, String> {
    let image = ImageId::parse(&format!("{registry}/a/b@{DIGEST}")).unwrap();
    let mut session = Session::new(web, &image, login);
    let layers = session.layers(&image, Beside::Signatures).await;
    layers.map(|layers| layers.len()).map_err(|error| error.to_string())
}

fn at(path: &str) -> String {
    format!("https://r.example{path}")
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_for_what_follows() {
    let realm =
        r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull""#;
    let token = "https://auth.example/token?scope=repository%3Aa%2Fb%3Apull&service=r.example";
    for (login, sent) in [(None, None), (Some(login()), Some(BASIC))] {
        let web = Scripted::default()
            .with(&at(MANIFEST), None, challenge(realm))
            .with(token, sent, body(r#"{"token":"T"}"#))
            .with(&at(MANIFEST), Some("Bearer T"), body(r#"{"layers":[]}"#));
        let image = ImageId::parse(&format!("r.example/a/b@{DIGEST}")).unwrap();
        let mut session = Session::new(&web, &image, login.as_ref());
        session.layers(&image, Beside::Signatures).await.unwrap();
        session.layers(&image, Beside::Signatures).await.unwrap();
        assert_eq!(web.asked().len(), 4, "{:?}", web.asked());
    }
}

#[tokio::test]
async fn name_and_password_are_sent_only_when_asked_for() {
    let web = Scripted::default().with(&at(MANIFEST), None, challenge("Basic realm=\"x\"")).with(
        &at(MANIFEST),
        Some(BASIC),
        body(r#"{"layers":[]}"#),
    );
    assert_eq!(layers(&web, "r.example", Some(&login())).await, Ok(0));
    let denied = layers(&web, "r.example", None).await.unwrap_err();
    assert!(denied.contains("registry_credentials"), "{denied}");
}

#[tokio::test]
async fn credentials_go_to_no_token_service_in_the_clear() {
    for realm in [
        "http://auth.example/token",
        "http://localhost:80@auth.example/token",
        "ftp://auth.example",
        "http://127.0.0.1.auth.example/",
        "http://127.0.0.1/token",
    ] {
        let web =
            Scripted::default().with(&at(MANIFEST), None, challenge(&format!("Bearer realm=\"{realm}\"")));
        let error = layers(&web, "r.example", Some(&login())).await.unwrap_err();
        assert!(error.contains("in a way that is not known"), "{error}");
        assert_eq!(web.asked().len(), 1, "{realm}");
    }
}

#[tokio::test]
async fn a_token_never_follows_a_redirect_to_another_host() {
    let web = Scripted::default()
        .with(&at(MANIFEST), None, challenge("Basic"))
        .with(&at(MANIFEST), Some(BASIC), to("/elsewhere"))
        .with(&at("/elsewhere"), Some(BASIC), to("https://storage.example/x?signature=1"))
        .with("https://storage.example/x?signature=1", None, body(r#"{"layers":[]}"#));
    assert_eq!(layers(&web, "r.example", Some(&login())).await, Ok(0));
    assert_eq!(web.asked().last().unwrap().1, None);
    let again = Scripted::default().with(&at(MANIFEST), None, to("https://storage.example/x")).with(
        "https://storage.example/x",
        None,
        to("https://r.example/back"),
    );
    assert_eq!(layers(&again, "r.example", None).await, Ok(0), "404 is no signature");
}

/// Storage, or whoever a redirect leads to, is not the registry: it gets no say in where credentials go.
#[tokio::test]
async fn another_host_cannot_ask_for_credentials() {
    let elsewhere = "https://storage.example/x?signature=1";
    for asks in [challenge("Bearer realm=\"https://evil.example/token\""), challenge("Basic"), status(403)] {
        for (first, again) in [(to(elsewhere), None), (challenge("Basic"), Some(to(elsewhere)))] {
            let mut web =
                Scripted::default().with(&at(MANIFEST), None, first).with(elsewhere, None, asks.clone());
            if let Some(again) = again {
                web = web.with(&at(MANIFEST), Some(BASIC), again);
            }
            let error = layers(&web, "r.example", Some(&login())).await.unwrap_err();
            let wanted =
                format!("the registry answers https://storage.example/x with the status {}", asks.status);
            assert_eq!(error, wanted);
            let asked = web.asked();
            assert!(
                asked.iter().all(|(url, sent)| sent.is_none() || url.starts_with("https://r.example/")),
                "{asked:?}"
            );
            assert!(!asked.iter().any(|(url, _)| url.contains("evil")), "{asked:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_cannot_make_this_node_ask_its_own_network() {
    for target in
        ["https://169.254.169.254/latest", "https://localhost:8443/x", "https://[::1]/x", "https://127.1/x"]
    {
        let web = Scripted::default().with(&at(MANIFEST), None, to(target));
        let error = layers(&web, "r.example", Some(&login())).await.unwrap_err();
        assert!(error.contains("into the network of this node"), "{error}");
        assert_eq!(web.asked().len(), 1, "{target}");
        let realm = challenge(&format!("Bearer realm=\"{target}\""));
        let web = Scripted::default().with(&at(MANIFEST), None, realm);
        let error = layers(&web, "r.example", Some(&login())).await.unwrap_err();
        assert!(error.contains("in a way that is not known"), "{error}");
        assert_eq!(web.asked().len(), 1, "{target}");
    }
    // A registry that is there itself may send to itself.
    let own = "https://10.0.0.1:5000";
    let web = Scripted::default().with(&format!("{own}{MANIFEST}"), None, to(&format!("{own}/x")));
    assert_eq!(layers(&web, "10.0.0.1:5000", None).await, Ok(0));
    assert_eq!(web.asked().len(), 2);
}

#[tokio::test]
async fn the_same_payload_is_fetched_once() {
    let text = "payload";
    let digest = format!("sha256:{}", hex::encode(crate::digest::sha256(text.as_bytes())));
    let image = ImageId::parse(&format!("r.example/a/b@{DIGEST}")).unwrap();
    let web = Scripted::default().with(&at(&format!("/v2/a/b/blobs/{digest}")), None, body(text));
    let layer = crate::manifest::Layer { digest, size: 7, annotations: HashMap::new() };
    let mut session = Session::new(&web, &image, None);
    for _ in 0..3 {
        assert_eq!(session.payload(&image, Beside::Signatures, &layer).await.unwrap(), text);
    }
    assert_eq!(web.asked().len(), 1);
}

#[tokio::test]
async fn redirects_lead_only_to_https_and_not_in_circles() {
    for (location, problem) in [
        ("http://storage.example/x", "other than https"),
        ("//storage.example/x", "other than https"),
        ("file:///etc/passwd", "other than https"),
        (MANIFEST, "too often"),
    ] {
        let web = Scripted::default().with(&at(MANIFEST), None, to(location));
        let error = layers(&web, "r.example", None).await.unwrap_err();
        assert!(error.contains(problem), "{location}: {error}");
        assert!(web.asked().len() <= 1 + MAX_REDIRECTS);
    }
    let nowhere = Scripted::default().with(&at(MANIFEST), None, WebAnswer { location: None, ..to("") });
    assert!(layers(&nowhere, "r.example", None).await.unwrap_err().contains("to nowhere"));
}

#[tokio::test]
async fn only_loopback_is_spoken_to_in_the_clear() {
    for (registry, scheme) in [
        ("localhost:5000", "http"),
        ("127.0.0.1:5000", "http"),
        ("[::1]:5000", "http"),
        ("r.example", "https"),
        ("localhost.example.org", "https"),
        ("10.0.0.1:5000", "https"),
    ] {
        let web = Scripted::default();
        assert_eq!(layers(&web, registry, None).await, Ok(0));
        assert_eq!(web.asked(), [(format!("{scheme}://{registry}{MANIFEST}"), None)]);
    }
}

#[tokio::test]
async fn bad_answers_are_told_apart() {
    let long = "x".repeat(2 * 1024 * 1024 + 1);
    for (answer, cause) in [
        (body("<html>"), "no image manifest"),
        (body(r#"{"manifests":[]}"#), "no image manifest"),
        (body(&long), "too long"),
        (status(500), "the status 500"),
        (status(403), "refuses access (status 403)"),
        (challenge("Negotiate"), "not known"),
    ] {
        let error = layers(&Scripted::default().with(&at(MANIFEST), None, answer), "r.example", None).await;
        let error = error.unwrap_err();
        assert!(error.contains(cause), "{error}");
        assert!(error.len() < 400, "{error}");
    }
}

#[tokio::test]
async fn a_payload_is_bounded_and_has_its_digest() {
    let text = "payload";
    let digest = format!("sha256:{}", hex::encode(crate::digest::sha256(text.as_bytes())));
    let url = at(&format!("/v2/a/b/blobs/{digest}"));
    let image = ImageId::parse(&format!("r.example/a/b@{DIGEST}")).unwrap();
    let layer = |digest: &str, size| crate::manifest::Layer {
        digest: digest.to_owned(),
        size,
        annotations: HashMap::new(),
    };
    for (answer, layer, cause) in [
        (body(text), layer(&digest, 7), None),
        (body("Payload"), layer(&digest, 7), Some("with something else")),
        (status(404), layer(&digest, 7), Some("the status 404")),
        (body(text), layer(&digest, 64 * 1024 + 1), Some("longer than 65536 bytes")),
        (body(text), layer("sha512:00", 7), Some("another kind of digest")),
        (body(text), layer("sha256:../../x", 7), Some("another kind of digest")),
    ] {
        let web = Scripted::default().with(&url, None, answer);
        let mut session = Session::new(&web, &image, None);
        let found =
            session.payload(&image, Beside::Signatures, &layer).await.map_err(|error| error.to_string());
        match cause {
            None => assert_eq!(found.unwrap(), text),
            Some(cause) => assert!(found.as_ref().is_err_and(|error| error.contains(cause)), "{found:?}"),
        }
    }
}

#[tokio::test]
async fn no_error_shows_a_secret() {
    let realm = r#"Bearer realm="https://auth.example/token?key=hidden""#;
    let web = Scripted::default().with(&at(MANIFEST), None, challenge(realm)).with(
        "https://auth.example/token?key=hidden&scope=repository%3Aa%2Fb%3Apull",
        Some(BASIC),
        status(401),
    );
    let error = layers(&web, "r.example", Some(&login())).await.unwrap_err();
    assert_eq!(error, "the registry's token service https://auth.example/token gives no token (status 401)");
    let request = WebRequest {
        url: "u".to_owned(),
        accept: None,
        authorization: Some(Zeroizing::new("hidden".to_owned())),
        deadline: DEADLINE,
        body: 1,
    };
    assert!(!format!("{request:?}").contains("hidden"));
}
