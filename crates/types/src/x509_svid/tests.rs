use super::*;
use crate::certificate::tests::{authority, authority_of, leaf, uri};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

#[track_caller]
fn check(change: impl FnOnce(&mut CertificateParams), expected: Result<&str, X509SvidError>) {
    let der = leaf(change);
    let id = leaf_id(&der);
    assert_eq!(id.as_ref().map(SpiffeId::as_str), expected.as_ref().copied());
    assert_eq!(X509Svid::parse(vec![der]).map(|svid| svid.id), id);
}

#[test]
fn a_leaf_names_a_workload() {
    check(|_| {}, Ok("spiffe://example.org/workload"));
    check(|params| params.is_ca = IsCa::NoCa, Ok("spiffe://example.org/workload"));
    check(
        |params| params.subject_alt_names.push(SanType::DnsName("a.example".try_into().unwrap())),
        Ok("spiffe://example.org/workload"),
    );
    check(
        |params| params.key_usages.extend([KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement]),
        Ok("spiffe://example.org/workload"),
    );
}

#[test]
fn a_leaf_has_exactly_one_spiffe_id_with_a_path() {
    check(|params| params.subject_alt_names.clear(), Err(X509SvidError::NoUri));
    check(
        |params| params.subject_alt_names = vec![SanType::DnsName("example.org".try_into().unwrap())],
        Err(X509SvidError::NoUri),
    );
    check(
        |params| params.subject_alt_names.push(uri("spiffe://example.org/b")),
        Err(X509SvidError::ManyUris(2)),
    );
    check(
        |params| params.subject_alt_names.push(uri("https://example.org")),
        Err(X509SvidError::ManyUris(2)),
    );
    check(
        |params| params.subject_alt_names = vec![uri("https://example.org/a")],
        Err(X509SvidError::Id(SpiffeIdError::Scheme)),
    );
    check(|params| params.subject_alt_names = vec![uri("spiffe://example.org")], Err(X509SvidError::NoPath));
    check(
        |params| params.subject_alt_names = vec![uri("spiffe://example.org/")],
        Err(X509SvidError::Id(SpiffeIdError::TrailingSlash)),
    );
}

#[test]
fn a_leaf_signs_data_and_nothing_else() {
    check(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), Err(X509SvidError::LeafIsCa));
    check(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), Err(X509SvidError::LeafCertSign));
    check(|params| params.key_usages.push(KeyUsagePurpose::CrlSign), Err(X509SvidError::LeafCrlSign));
    check(|params| params.key_usages.clear(), Err(X509SvidError::LeafNoDigitalSignature));
    check(
        |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement],
        Err(X509SvidError::LeafNoDigitalSignature),
    );
}

#[test]
fn what_follows_the_leaf_signs_certificates() {
    let key = KeyPair::generate().unwrap();
    let chain = |signer| X509Svid::parse(vec![leaf(|_| {}), signer]).err();
    assert_eq!(chain(authority()), None);
    assert_eq!(chain(authority_of(&key, |params| params.subject_alt_names.clear())), None);
    assert_eq!(chain(leaf(|_| {})), Some(X509SvidError::SignerNotCa));
    let crl_only = authority_of(&key, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(chain(crl_only), Some(X509SvidError::SignerNoCertSign));
    let silent = authority_of(&key, |params| params.key_usages.clear());
    assert_eq!(chain(silent), Some(X509SvidError::SignerNoCertSign));
    assert_eq!(chain([0_u8][..].into()), Some(X509SvidError::Signer(CertificateError::Malformed)));
}

#[test]
fn the_chain_is_bounded_and_kept_as_it_came() {
    assert_eq!(X509Svid::parse(Vec::new()), Err(X509SvidError::Empty));
    assert_eq!(
        X509Svid::parse(vec![[1_u8][..].into()]),
        Err(X509SvidError::Leaf(CertificateError::Malformed))
    );
    let mut chain = vec![leaf(|params| params.not_after = rcgen::date_time_ymd(2030, 1, 1))];
    chain.extend(vec![authority(); MAX_CHAIN_LENGTH - 1]);
    let svid = X509Svid::parse(chain.clone()).unwrap();
    assert_eq!(svid.not_after, 1_893_456_000);
    assert_eq!(svid.serial, Certificate::parse(&chain[0]).unwrap().serial);
    assert_eq!(crate::certificate::split(&svid.concatenated()).unwrap(), chain);
    chain.push(authority());
    assert_eq!(X509Svid::parse(chain), Err(X509SvidError::TooLong));
}
