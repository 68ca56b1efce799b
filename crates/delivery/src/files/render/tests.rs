use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, string::Ia5String,
};
use vouchsafe_proto::workload::Jwtsvid;

use super::*;

pub(in crate::files) const NOW: i64 = 1_700_000_000;

pub(in crate::files) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

fn validity(params: &mut CertificateParams, until: i64) {
    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap());
    params.not_before = at(NOW - 3600).into();
    params.not_after = at(until).into();
}

pub(in crate::files) fn authority(until: i64) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    validity(&mut params, until);
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Authority { issuer: Issuer::new(params, key), der }
}

/// An SVID of `authority`, with the authority's own certificate after the leaf if `chained`.
pub(in crate::files) fn svid(authority: &Authority, path: &str, hint: &str, chained: bool) -> X509svid {
    let key = KeyPair::generate().unwrap();
    let spiffe_id = format!("spiffe://own.test/{path}");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(spiffe_id.as_str()).unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    validity(&mut params, NOW + 3600);
    let mut chain = params.signed_by(&key, &authority.issuer).unwrap().der().to_vec();
    if chained {
        chain.extend(&authority.der);
    }
    X509svid {
        spiffe_id,
        x509_svid: chain.into(),
        x509_svid_key: key.serialize_der().into(),
        bundle: authority.der.clone().into(),
        hint: hint.to_owned(),
    }
}

pub(in crate::files) fn files() -> X509Files {
    X509Files {
        certificates: "svid.pem".to_owned(),
        key: "key.pem".to_owned(),
        bundle: "bundle.pem".to_owned(),
        certificate_mode: 0o644,
        key_mode: 0o600,
        intermediates_in_bundle: false,
        federated: false,
        omit_expired: false,
    }
}

pub(in crate::files) fn answer(svids: Vec<X509svid>, federated: &[(&str, &Authority)]) -> X509svidResponse {
    let federated_bundles =
        federated.iter().map(|(id, authority)| ((*id).to_owned(), authority.der.clone().into()));
    X509svidResponse { svids, federated_bundles: federated_bundles.collect(), ..X509svidResponse::default() }
}

/// The DER blocks of a file.
fn blocks(rendered: &Rendered, name: &str) -> Vec<Vec<u8>> {
    let file = rendered.files.iter().find(|file| file.name == name).unwrap();
    pem::parse(&file.content).unwrap().into_iter().map(|block| block.der.to_vec()).collect()
}

#[test]
fn the_key_comes_first_and_every_file_has_what_belongs_in_it() {
    let authority = authority(NOW + 7200);
    let given = svid(&authority, "web", "", true);
    let rendered = x509(&answer(vec![given.clone()], &[]), &files(), "", NOW).unwrap();
    let order: Vec<_> = rendered.files.iter().map(|file| (file.name.as_str(), file.mode)).collect();
    assert_eq!(order, [("key.pem", 0o600), ("svid.pem", 0o644), ("bundle.pem", 0o644)]);
    assert_eq!(rendered.spiffe_id, "spiffe://own.test/web");
    assert_eq!(rendered.validity, Some(Validity { from: NOW - 3600, until: NOW + 3600 }));
    assert_eq!(blocks(&rendered, "key.pem"), [given.x509_svid_key.to_vec()]);
    assert_eq!(blocks(&rendered, "svid.pem").len(), 2);
    assert_eq!(blocks(&rendered, "bundle.pem"), [authority.der]);
    assert!(!format!("{rendered:?}").contains("content"), "a key is never in a log");
}

#[test]
fn intermediates_federated_and_expired_certificates_go_where_they_are_wanted() {
    let (own, other, old) = (authority(NOW + 7200), authority(NOW + 7200), authority(NOW - 60));
    let federated = [("spiffe://z.test", &old), ("spiffe://a.test", &other), ("spiffe://own.test", &other)];
    let answer = answer(vec![svid(&own, "web", "", true)], &federated);
    let all = X509Files { intermediates_in_bundle: true, federated: true, ..files() };
    let rendered = x509(&answer, &all, "", NOW).unwrap();
    assert_eq!(blocks(&rendered, "svid.pem").len(), 1);
    // The own bundle, what was between, then the others by name; never a second bundle of the own trust domain.
    assert_eq!(
        blocks(&rendered, "bundle.pem"),
        [&own, &own, &other, &old].map(|authority| authority.der.clone())
    );
    let valid = X509Files { omit_expired: true, ..all };
    let rendered = x509(&answer, &valid, "", NOW).unwrap();
    assert_eq!(blocks(&rendered, "bundle.pem"), [&own, &own, &other].map(|authority| authority.der.clone()));
}

#[test]
fn the_hint_chooses_and_one_that_nobody_has_is_told() {
    let authority = authority(NOW + 7200);
    let answer = answer(vec![svid(&authority, "a", "one", false), svid(&authority, "b", "two", false)], &[]);
    let chosen = |hint: &str| x509(&answer, &files(), hint, NOW).map(|rendered| rendered.spiffe_id);
    assert_eq!(chosen("").unwrap(), "spiffe://own.test/a");
    assert_eq!(chosen("two").unwrap(), "spiffe://own.test/b");
    assert!(matches!(chosen("three"), Err(RenderError::Hint { count: 2, .. })));
}

#[test]
fn an_answer_that_nobody_could_use_is_refused_as_a_whole() {
    let authority = authority(NOW + 7200);
    let (good, other) = (svid(&authority, "web", "", false), svid(&authority, "web", "", false));
    let check = |svid: X509svid| x509(&answer(vec![svid], &[]), &files(), "", NOW).unwrap_err();
    assert!(matches!(x509(&answer(vec![], &[]), &files(), "", NOW), Err(RenderError::Nothing)));
    assert!(matches!(
        check(X509svid { x509_svid_key: other.x509_svid_key, ..good.clone() }),
        RenderError::Key
    ));
    assert!(matches!(check(X509svid { x509_svid_key: "x".into(), ..good.clone() }), RenderError::Key));
    assert!(matches!(check(X509svid { x509_svid: "x".into(), ..good.clone() }), RenderError::Chain(_)));
    assert!(matches!(
        check(X509svid { x509_svid: authority.der.clone().into(), ..good.clone() }),
        RenderError::Svid(_)
    ));
    assert!(matches!(check(X509svid { bundle: "x".into(), ..good }), RenderError::Bundle(_)));
}

#[test]
fn jwt_bundles_are_by_name_of_the_trust_domain_and_without_spaces() {
    let file = JwtBundleFile { name: "bundle.json".to_owned(), mode: 0o600 };
    let of = |bundles: &[(&'static str, &'static str)]| {
        let bundles = bundles.iter().map(|(id, jwks)| ((*id).to_owned(), (*jwks).into())).collect();
        jwt_bundles(&JwtBundlesResponse { bundles }, &file)
    };
    let rendered =
        of(&[("spiffe://b.test", "{ \"keys\": [ ] }"), ("spiffe://a.test", "{\"keys\":[]}")]).unwrap();
    let plain = STANDARD.encode("{\"keys\":[]}");
    assert_eq!(
        String::from_utf8(rendered.files[0].content.to_vec()).unwrap(),
        format!("{{\"a.test\":\"{plain}\",\"b.test\":\"{plain}\"}}")
    );
    assert!(matches!(of(&[("spiffe://a.test", "garbage")]), Err(RenderError::Jwks { .. })));
    assert!(matches!(of(&[("spiffe://A B", "{\"keys\":[]}")]), Err(RenderError::TrustDomain { .. })));
}

#[test]
fn a_token_for_another_audience_is_not_written() {
    // {"alg":"RS256","kid":"k"} . {"sub":"spiffe://d.test/w","aud":["a"],"exp":1000} . signature
    const TOKEN: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJzdWIiOiJzcGlmZmU6Ly9kLnRlc3QvdyIsImF1ZCI6WyJhIl0sImV4cCI6MTAwMH0.AAAA";
    let answer = JwtsvidResponse { svids: vec![Jwtsvid { svid: TOKEN.to_owned(), ..Jwtsvid::default() }] };
    let file = |audience: &str| JwtSvidFile {
        name: "t".to_owned(),
        mode: 0o600,
        audience: vec![audience.to_owned()],
    };
    let rendered = jwt_svid(&answer, &file("a"), "").unwrap();
    assert_eq!(*rendered.files[0].content, TOKEN.as_bytes());
    assert_eq!(rendered.validity.map(|validity| validity.until), Some(1000));
    assert!(matches!(jwt_svid(&answer, &file("b"), ""), Err(RenderError::Token(_))));
}
