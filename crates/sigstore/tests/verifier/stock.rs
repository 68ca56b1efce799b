//! What SPIRE's own verifier says of images that were made with cosign's and Rekor's own libraries in a real registry, and
//! what we say.

use std::sync::Arc;

use crate::recorded::{Case, Recorded, ask, document};

#[tokio::test]
async fn every_image_has_the_selectors_that_spire_gives_it_or_none() {
    let document = document();
    let web = Arc::new(Recorded(document.registry.clone()));
    let (mut verified, mut refused) = (0, 0);
    for case in &document.cases {
        let ours = ask(&document, case, web.clone()).await;
        match (&case.error, &case.stricter) {
            (None, None) => {
                verified += 1;
                let stock = case.selectors.clone().unwrap_or_default();
                assert_eq!(ours.map_err(|error| error.to_string()), Ok(stock), "{}", case.name);
            }
            (Some(stock), None) => {
                refused += 1;
                assert!(ours.is_err(), "{}: {ours:?}, but SPIRE says {stock}", case.name);
            }
            (None, Some(cause)) => {
                refused += 1;
                let error = ours.unwrap_err().to_string();
                assert!(error.contains(cause), "{}: {error}", case.name);
            }
            (Some(_), Some(_)) => panic!("{}: SPIRE is not more lenient", case.name),
        }
    }
    assert_eq!((verified, refused), (17, 25));
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong() {
    let document = document();
    let web = Arc::new(Recorded(document.registry.clone()));
    for (name, cause) in [
        (
            "issuer-not-allowed",
            r#"its signer is not allowed: subjects ["alice@example.com"] of the issuer "https://accounts"#,
        ),
        ("unsigned", "has no signature in its registry"),
        ("key-only", "it was signed with a key"),
        ("no-log", "it has no transparency log entry"),
        ("other-log", "nobody trusts the log"),
        ("entry-of-other-payload", "entry is about another payload"),
        ("entry-of-other-signer", "entry has another certificate"),
        ("damaged", "entry has another signature"),
        ("damaged-without-log", "its signature does not fit what is signed"),
        ("without-log-expired", "CertExpired"),
        ("no-subject", "its certificate has no subject"),
        ("no-issuer", "its certificate has no OIDC issuer"),
        ("expired-when-signed", "CertExpired"),
        ("not-yet-valid-when-signed", "CertNotValidYet"),
        ("foreign-authority", "UnknownIssuer"),
        ("not-for-code-signing", "not for code signing"),
        ("no-sct", "has no proof that it is in a certificate log"),
        ("sct-of-other-log", "nobody trusts the log"),
        ("attestations-missing", "counts: there is none; without attestations set ignore_attestations"),
        ("attestation-not-logged", "it has no transparency log entry"),
        ("attestation-damaged", "entry is about another payload"),
    ] {
        let case = document.cases.iter().find(|case| case.name == name).unwrap();
        let error = ask(&document, case, web.clone()).await.unwrap_err().to_string();
        assert!(error.contains(cause), "{name}: {error}");
        assert!(error.contains(&format!("127.0.0.1:5177/{name}@sha256:")), "{name}: {error}");
    }
}

/// A signature moved to another image's tag, as anybody who may push to the repository can do.
#[tokio::test]
async fn a_signature_of_another_image_counts_for_nothing() {
    let document = document();
    let find = |name: &str| document.cases.iter().find(|case| case.name == name).unwrap();
    let (from, to) = (find("signed"), find("unsigned"));
    let mut registry = document.registry.clone();
    for (path, body) in &document.registry {
        let hash = |case: &Case| case.image.split_once("@sha256:").unwrap().1.to_owned();
        let moved = path.replace("/v2/signed/", "/v2/unsigned/").replace(&hash(from), &hash(to));
        registry.entry(moved).or_insert_with(|| body.clone());
    }
    let error = ask(&document, to, Arc::new(Recorded(registry))).await.unwrap_err().to_string();
    assert!(error.contains("what is signed is about another image"), "{error}");
}

#[tokio::test]
async fn a_payload_that_is_not_what_the_manifest_lists_is_refused() {
    let document = document();
    let case = document.cases.iter().find(|case| case.name == "signed").unwrap();
    let mut registry = document.registry.clone();
    for (path, body) in &mut registry {
        if path.starts_with("/v2/signed/blobs/") {
            // As long as before.
            *body = body.replace("cosign", "kosign");
        }
    }
    let error = ask(&document, case, Arc::new(Recorded(registry))).await.unwrap_err().to_string();
    assert!(error.contains("with something else"), "{error}");
}
