use std::sync::Arc;

use super::format::{
    FormatError, MAX_BUNDLE_BYTES, from_jwks, from_pem, from_spiffe_json, jwt_jwks, to_pem, to_spiffe_json,
};
use super::*;
use crate::certificate::tests::{authority, authority_of, leaf};
use rcgen::{KeyPair, PublicKeyData};

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn jwt(key_id: &str, key: &KeyPair) -> JwtAuthority {
    JwtAuthority::parse(key_id, key.subject_public_key_info(), 0).unwrap()
}

fn bundle() -> Bundle {
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut bundle = Bundle::new(trust_domain());
    bundle.refresh_hint = 60;
    bundle.sequence_number = u64::MAX;
    let roots = [authority(), authority_of(&p384, |_| {}), authority_of(&ed25519, |_| {})];
    assert!(
        bundle
            .append(roots.map(|der| X509Authority::parse(der).unwrap()), [jwt("a", &p256), jwt("b", &p384)],)
    );
    bundle
}

/// `{"keys": [...]}` with the JWKs of `text`.
fn keys(text: &str) -> Vec<u8> {
    format!("{{\"keys\": [{text}]}}").into_bytes()
}

const EC: &str = r#""kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM""#;
const OTHER_EC: &str = r#""kty":"EC","crv":"P-256","x":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","y":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4""#;

/// Reads a SPIFFE document: how many authorities of each kind, or the error and its causes.
#[track_caller]
fn check(json: &[u8], expected: Result<(usize, usize), &str>) {
    let read = from_spiffe_json(&trust_domain(), json);
    let counted = read
        .map(|bundle| (bundle.x509_authorities.len(), bundle.jwt_authorities.len()))
        .map_err(|error| message(&error));
    assert_eq!(counted, expected.map_err(str::to_owned), "{}", String::from_utf8_lossy(json));
}

fn message(error: &FormatError) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(cause) if !matches!(error, FormatError::Json(_)) => format!("{error}: {cause}"),
        _ => error.to_string(),
    }
}

/// The JWK for X.509-SVIDs of `der`, with the text of its `x5c`.
fn x509_jwk(der: &Arc<[u8]>) -> (String, String) {
    let mut bundle = Bundle::new(trust_domain());
    bundle.append([X509Authority::parse(Arc::clone(der)).unwrap()], []);
    let document: serde_json::Value = serde_json::from_str(&to_spiffe_json(&bundle).unwrap()).unwrap();
    let jwk = &document["keys"][0];
    (jwk.to_string(), jwk["x5c"][0].as_str().unwrap().to_owned())
}

#[test]
fn a_bundle_round_trips_through_its_document() {
    let bundle = bundle();
    let json = to_spiffe_json(&bundle).unwrap();
    assert_eq!(from_spiffe_json(&trust_domain(), json.as_bytes()).unwrap(), bundle);
}

#[test]
fn the_document_is_indented_by_four_and_ordered_as_spires() {
    let mut bundle = Bundle::new(trust_domain());
    assert_eq!(to_spiffe_json(&bundle).unwrap(), "{\n    \"keys\": []\n}");
    bundle =
        from_spiffe_json(&trust_domain(), &keys(&format!("{{\"use\":\"jwt-svid\",\"kid\":\"k\",{EC}}}")))
            .unwrap();
    bundle.sequence_number = 3;
    bundle.refresh_hint = 300;
    let expected = r#"{
    "keys": [
        {
            "use": "jwt-svid",
            "kty": "EC",
            "kid": "k",
            "crv": "P-256",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
        }
    ],
    "spiffe_sequence": 3,
    "spiffe_refresh_hint": 300
}"#;
    assert_eq!(to_spiffe_json(&bundle).unwrap(), expected);
}

#[test]
fn the_workload_api_form_has_jwt_keys_only_and_no_use() {
    let bundle = bundle();
    let json = jwt_jwks(&bundle).unwrap();
    let text = String::from_utf8(json.clone()).unwrap();
    assert!(!text.contains("\"use\"") && !text.contains("x5c") && !text.contains("spiffe_"));
    let read = from_jwks(&trust_domain(), &json).unwrap();
    assert_eq!(read.jwt_authorities, bundle.jwt_authorities);
    assert!(read.x509_authorities.is_empty());
}

#[test]
fn the_workload_api_form_is_read_with_and_without_use() {
    let (x509, _) = x509_jwk(&authority());
    let json = keys(&format!("{{\"kid\":\"a\",{EC}}},{{\"use\":\"jwt-svid\",\"kid\":\"b\",{EC}}},{x509}"));
    let read = from_jwks(&trust_domain(), &json).unwrap();
    let ids: Vec<_> = read.jwt_authorities.iter().map(|key| key.key_id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn what_the_standard_says_to_ignore_is_ignored() {
    check(br#"{"keys":[]}"#, Ok((0, 0)));
    check(br#"{"keys":[],"other":{"a":[1,2]}}"#, Ok((0, 0)));
    for jwk in [
        "{}".to_owned(),
        format!("{{{EC}}}"),
        format!("{{\"use\":null,\"kid\":\"a\",{EC}}}"),
        format!("{{\"use\":\"JWT-SVID\",\"kid\":\"a\",{EC}}}"),
        format!("{{\"use\":\"wit-svid\",\"kid\":\"a\",{EC}}}"),
        r#"{"use":"jwt-svid","kid":"a","kty":"AKP","x":17,"n":{"deep":[1]},"e":true,"y":1.5,"crv":-1}"#.to_owned(),
        r#"{"use":"jwt-svid","kid":"a","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#
            .to_owned(),
        format!("{{\"use\":\"x509-svid\",{EC}}}"),
        format!("{{\"use\":\"x509-svid\",\"x5c\":[],{EC}}}"),
        r#"{"use":"x509-svid","x5c":["AAAA"],"kty":"unknown"}"#.to_owned(),
    ] {
        check(&keys(&jwk), Ok((0, 0)));
    }
}

#[test]
fn only_the_first_certificate_of_an_entry_counts_and_each_once() {
    let (jwk, x5c) = x509_jwk(&authority());
    check(&keys(&jwk), Ok((1, 0)));
    check(&keys(&format!("{jwk},{jwk}")), Ok((1, 0)));
    check(&keys(&jwk.replace(&format!("[\"{x5c}\"]"), &format!("[\"{x5c}\",\"garbage\",7]"))), Ok((1, 0)));
}

#[test]
fn a_key_that_is_meant_for_us_and_broken_refuses_the_document() {
    check(
        &keys(&format!("{{\"use\":\"jwt-svid\",{EC}}}")),
        Err("bundle entry 0 cannot sign JWT-SVIDs: missing key ID"),
    );
    check(
        &keys(&format!("{{}},{{\"use\":\"jwt-svid\",\"kid\":\"{}\",{EC}}}", "k".repeat(1025))),
        Err("bundle entry 1 cannot sign JWT-SVIDs: key ID is longer than 1024 bytes"),
    );
    check(
        &keys(r#"{"use":"jwt-svid","kid":"a","kty":"EC","crv":"P-256"}"#),
        Err("key of bundle entry 0: JWK parameter \"x\" is missing"),
    );
    check(
        &keys(r#"{"use":"jwt-svid","kid":"a"}"#),
        Err("key of bundle entry 0: JWK parameter \"kty\" is missing"),
    );
    check(
        &keys(&format!(
            "{{\"use\":\"jwt-svid\",\"kid\":\"a\",{EC}}},{{\"use\":\"jwt-svid\",\"kid\":\"a\",{OTHER_EC}}}"
        )),
        Err("bundle entry 1 repeats the key ID of another key"),
    );
    let (jwk, x5c) = x509_jwk(&authority());
    check(
        &keys(&jwk.replace(&x5c, "!")),
        Err("certificate of bundle entry 0: not a DER-encoded X.509 certificate"),
    );
    check(
        &keys(&jwk.replace(&x5c, &x509_jwk(&authority()).1)),
        Err("bundle entry 0 describes another key than its certificate holds"),
    );
}

#[test]
fn the_same_key_under_the_same_id_counts_once() {
    let key = format!("{{\"use\":\"jwt-svid\",\"kid\":\"a\",{EC}}}");
    check(&keys(&format!("{key},{key}")), Ok((0, 1)));
}

#[test]
fn what_is_not_a_jwk_set_is_refused() {
    for json in [
        &b""[..],
        b"null",
        b"[]",
        b"{}",
        br#"{"keys":null}"#,
        br#"{"keys":{}}"#,
        br#"{"keys":[]} trailing"#,
        br#"{"keys":[],"keys":[]}"#,
        br#"{"keys":[{"use":"jwt-svid","use":"x509-svid"}]}"#,
        br#"{"keys":[],"spiffe_sequence":-1}"#,
        br#"{"keys":[],"spiffe_sequence":1.5}"#,
        br#"{"keys":[],"spiffe_sequence":18446744073709551616}"#,
        br#"{"keys":[],"spiffe_refresh_hint":"60"}"#,
        b"{\"keys\":[\"\xff\"]}",
    ] {
        check(json, Err("bundle is not a JWK set"));
    }
    check(&keys(&"[".repeat(100_000)), Err("bundle is not a JWK set"));
}

#[test]
fn documents_are_bounded_in_bytes_and_keys() {
    check(&vec![b' '; MAX_BUNDLE_BYTES + 1], Err("bundle is longer than 16777216 bytes"));
    check(&keys(&vec!["{}"; 4096].join(",")), Ok((0, 0)));
    check(&keys(&vec!["{}"; 4097].join(",")), Err("bundle is not a JWK set"));
}

#[test]
fn a_bundle_of_certificates_round_trips_through_pem() {
    let bundle = bundle();
    let read = from_pem(&trust_domain(), to_pem(&bundle).as_bytes()).unwrap();
    assert_eq!(read.x509_authorities, bundle.x509_authorities);
    let twice = format!("{0}comment\n{0}", to_pem(&bundle));
    assert_eq!(from_pem(&trust_domain(), twice.as_bytes()).unwrap().x509_authorities.len(), 3);
}

#[test]
fn pem_without_certificates_or_with_other_blocks_is_refused() {
    let refused = |text: &str| message(&from_pem(&trust_domain(), text.as_bytes()).unwrap_err());
    assert_eq!(refused(""), "no certificate in the PEM; is it the right file?");
    assert_eq!(
        refused("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        "PEM block 0 is not a CERTIFICATE; a bundle holds certificates only"
    );
    assert_eq!(
        refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        "certificate of bundle entry 0: not a DER-encoded X.509 certificate"
    );
    assert_eq!(
        refused("-----BEGIN CERTIFICATE-----\nAAAA\n"),
        "bundle is not PEM: PEM block has no END line; the text looks cut off"
    );
}

#[test]
fn appending_what_is_known_changes_nothing_taint_included() {
    let mut held = bundle();
    held.x509_authorities[0].tainted = true;
    held.jwt_authorities[0].tainted = true;
    let before = held.clone();
    let fresh = |tainted: X509Authority| X509Authority { tainted: false, ..tainted };
    let again = held.x509_authorities.clone().into_iter().map(fresh);
    assert!(!held.append(
        again.collect::<Vec<_>>(),
        [JwtAuthority { tainted: false, ..before.jwt_authorities[0].clone() }]
    ));
    assert_eq!(held, before);
    assert!(held.append([X509Authority::parse(authority()).unwrap()], []));
    assert_eq!(held.x509_authorities.len(), 4);
}

#[test]
fn jwt_authorities_have_a_key_id_and_a_key_that_signs_tokens() {
    let refused = |key_id: &str, spki: &[u8]| JwtAuthority::parse(key_id, spki, 0).unwrap_err();
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().subject_public_key_info();
    assert_eq!(refused("", &ed25519), JwtAuthorityError::NoKeyId);
    assert_eq!(refused(&"k".repeat(1025), &ed25519), JwtAuthorityError::KeyIdTooLong);
    assert_eq!(refused("k", &ed25519), JwtAuthorityError::Key(KeyError::Unsupported));
    assert_eq!(refused("k", b"junk"), JwtAuthorityError::Key(KeyError::Malformed));
}

#[test]
fn pruning_drops_what_has_ended_and_never_the_last() {
    let ends = |year| {
        let der = authority_of(&KeyPair::generate().unwrap(), |params| {
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        });
        X509Authority::parse(der).unwrap()
    };
    let key = KeyPair::generate().unwrap();
    let mut bundle = Bundle::new(trust_domain());
    let [early, late] = [
        JwtAuthority { expires_at: 10, ..jwt("a", &key) },
        JwtAuthority { expires_at: 20, ..jwt("b", &key) },
    ];
    bundle.append([ends(2001), ends(2030)], [early, late, jwt("endless", &key)]);
    assert_eq!(bundle.prune(9), Ok(false));
    assert_eq!(bundle.prune(978_307_200), Ok(true));
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
    let before = bundle.clone();
    assert_eq!(bundle.prune(i64::MAX), Err(PruneError::AllX509));
    assert_eq!(bundle, before);
    bundle.x509_authorities.clear();
    bundle.jwt_authorities = vec![JwtAuthority { expires_at: 10, ..jwt("a", &key) }];
    assert_eq!(bundle.prune(10), Err(PruneError::AllJwt));
    // JWT-SVIDs were switched off long ago: that keeps no X.509 authority in the bundle.
    bundle.x509_authorities = before.x509_authorities;
    bundle.x509_authorities.push(ends(2001));
    assert_eq!(bundle.prune(978_307_200), Ok(true));
    assert_eq!((bundle.x509_authorities.len(), bundle.jwt_authorities.len()), (1, 1));
    assert_eq!(Bundle::new(trust_domain()).prune(i64::MAX), Ok(false));
}

#[test]
fn a_leaf_is_not_told_apart_from_an_authority_by_its_form() {
    // X509-SVID §6.1 says "CA certificate"; path building refuses a leaf as an issuer, so reading does not.
    assert!(X509Authority::parse(leaf(|_| {})).is_ok());
    assert!(X509Authority::parse(&b"junk"[..]).is_err());
}
