//! Attestations of the public services: what npm published for sigstore-js 1.3.0 and 2.0.0 in 2023, from sigstore-go's
//! test data, in cosign's form. Their subjects are no images, so that the last check, and only that, must fail.

use super::*;

#[derive(serde::Deserialize)]
struct Published {
    payload: String,
    annotations: std::collections::HashMap<String, String>,
}

fn published() -> Vec<Published> {
    serde_json::from_str(include_str!("../../tests/public.json")).unwrap()
}

fn verify(one: &Published, change: impl FnOnce(&mut Policy, &mut Layer, &mut String)) -> String {
    let issuer = "https://token.actions.githubusercontent.com".to_owned();
    let subjects = vec!["^https://github.com/sigstore/sigstore-js/".to_owned()];
    let mut policy = Policy { allowed: Allowed::new(&[(issuer, subjects)]).unwrap(), tlog: true, sct: true };
    let mut layer = Layer { digest: String::new(), size: 0, annotations: one.annotations.clone() };
    let mut payload = one.payload.clone();
    change(&mut policy, &mut layer, &mut payload);
    let trust = &Trust::public_good().unwrap();
    let context = Context { digest: "sha256:00", policy: &policy, trust, now: 1_790_000_000 };
    attestation(&layer, payload.as_bytes(), context).unwrap_err().to_string()
}

#[test]
fn what_the_public_services_have_signed_is_verified_by_the_roots_that_are_built_in() {
    assert_eq!(published().len(), 2);
    for one in published() {
        let error = verify(&one, |_, _, _| {});
        assert_eq!(error, "the attestation is about other subjects than this image");
    }
}

#[test]
fn a_change_anywhere_is_found() {
    for one in published() {
        let error = verify(&one, |_, _, payload| payload.push(' '));
        assert!(error.contains("about another payload"), "{error}");
        for (from, to) in
            [("\"integratedTime\": 16", "\"integratedTime\": 26"), ("\"logIndex\": ", "\"logIndex\": 1")]
        {
            let error = verify(&one, |_, layer, _| {
                let bundle = layer.annotations.get_mut(BUNDLE).unwrap();
                assert!(bundle.contains(from), "{bundle}");
                *bundle = bundle.replace(from, to);
            });
            assert!(error.contains("the log has not signed this"), "{error}");
        }
    }
}

#[test]
fn without_the_logs_word_the_certificate_has_ended_long_ago() {
    let error = verify(&published()[0], |policy, _, _| policy.tlog = false);
    assert!(error.contains("CertExpired"), "{error}");
}

#[test]
fn the_logs_word_counts_only_for_its_own_certificate() {
    let [one, other] = &published()[..] else { panic!() };
    let error = verify(one, |_, layer, _| {
        layer.annotations.insert(CERTIFICATE.to_owned(), other.annotations[CERTIFICATE].clone());
    });
    assert!(error.contains("entry has another certificate"), "{error}");
}

#[test]
fn damaged_certificates_are_refused_and_never_a_panic() {
    let one = &published()[0];
    let pem = one.annotations[CERTIFICATE].clone();
    for at in (30..pem.len() - 30).step_by(7) {
        let error = verify(one, |_, layer, _| {
            let mut damaged = pem.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            layer.annotations.insert(CERTIFICATE.to_owned(), String::from_utf8(damaged).unwrap());
        });
        assert!(error.contains("cannot be read") || error.contains("another certificate"), "{at}: {error}");
    }
}

#[test]
fn a_signature_of_an_envelope_is_made_by_the_certificates_key() {
    let [one, other] = &published()[..] else { panic!() };
    let [mut own, others] =
        [one, other].map(|one| serde_json::from_str::<serde_json::Value>(&one.payload).unwrap());
    let policy = Policy { allowed: Allowed::new(&[]).unwrap(), tlog: false, sct: true };
    let layer = Layer { digest: String::new(), size: 0, annotations: one.annotations.clone() };
    let trust = &Trust::public_good().unwrap();
    // While the certificate was valid.
    let context = Context { digest: "sha256:00", policy: &policy, trust, now: 1_681_839_912 };
    let verify = |payload: &serde_json::Value| {
        attestation(&layer, payload.to_string().as_bytes(), context).unwrap_err()
    };
    assert!(matches!(verify(&own), Refusal::Payload(PayloadError::OtherSubject)));
    own["signatures"][0]["sig"] = others["signatures"][0]["sig"].clone();
    assert!(matches!(verify(&own), Refusal::Signature));
    own["signatures"] = serde_json::json!([]);
    assert!(matches!(verify(&own), Refusal::Signature));
    own["payloadType"] = "text/plain".into();
    assert!(matches!(verify(&own), Refusal::Payload(PayloadError::Type { .. })));
}

#[test]
fn text_of_the_log_entry_does_not_make_the_error_long() {
    let one = &published()[0];
    let long = "x".repeat(1_000_000);
    for (change, wanted) in
        [("kind", "of the kind \"xxx"), ("apiVersion", "of the kind"), ("logID", "cannot be read")]
    {
        let error = verify(one, |_, layer, _| {
            let bundle = layer.annotations.get_mut(BUNDLE).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(bundle).unwrap();
            if change == "logID" {
                json["Payload"]["logID"] = hex::encode(&long).into();
            } else {
                let entry = BASE64_STANDARD.decode(json["Payload"]["body"].as_str().unwrap()).unwrap();
                let mut entry: serde_json::Value = serde_json::from_slice(&entry).unwrap();
                entry[change] = long.clone().into();
                json["Payload"]["body"] = BASE64_STANDARD.encode(entry.to_string()).into();
            }
            *bundle = json.to_string();
        });
        assert!(error.contains(wanted) && error.len() < 2000, "{change}: {} bytes", error.len());
    }
}
