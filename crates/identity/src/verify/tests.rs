use std::error::Error;

use rcgen::{
    CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    SanType,
};

use super::*;
use crate::test_pki::{Ca, Leaf, NOW, ip_constraints, now, roots};

const WORKLOAD: &str = "spiffe://example.org/workload";

type Change = fn(&mut rcgen::CertificateParams);

struct Fixture {
    ca: Ca,
    verifier: SvidVerifier,
}

impl Fixture {
    fn new() -> Self {
        let ca = Ca::root("example");
        let verifier = SvidVerifier::new(RootsCell::new(roots(&[("example.org", &[&ca])])));
        Self { ca, verifier }
    }

    fn verify(&self, chain: &[&CertificateDer<'static>]) -> Result<X509Svid, VerifyError> {
        let chain: Vec<_> = chain.iter().map(|der| (*der).clone()).collect();
        self.verifier.verify(&chain, now())
    }

    /// The whole message, with its causes.
    fn refusal(&self, chain: &[&CertificateDer<'static>]) -> String {
        let error = self.verify(chain).unwrap_err();
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

#[test]
fn a_leaf_that_its_trust_domain_signed_is_whom_it_says() {
    let fixture = Fixture::new();
    let leaf = fixture.ca.issue(WORKLOAD);
    let peer = fixture.verify(&[&leaf.der]).unwrap();
    assert_eq!(peer.id.as_str(), WORKLOAD);
    assert_eq!(peer.not_after, i64::try_from(NOW + 3600).unwrap());
    assert_eq!(peer.chain.len(), 1);
    assert!(peer.serial.bytes().all(|digit| digit.is_ascii_digit()) && !peer.serial.is_empty());
}

#[test]
fn keys_of_every_kind_and_any_extended_key_usage_are_accepted() {
    let fixture = Fixture::new();
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        assert!(fixture.verify(&[&fixture.ca.issue_with(WORKLOAD, algorithm, |_| ()).der]).is_ok());
    }
    for usages in
        [vec![], vec![ExtendedKeyUsagePurpose::CodeSigning], vec![ExtendedKeyUsagePurpose::ServerAuth]]
    {
        let leaf = fixture
            .ca
            .issue_with(WORKLOAD, &PKCS_ECDSA_P384_SHA384, |params| params.extended_key_usages = usages);
        assert!(fixture.verify(&[&leaf.der]).is_ok());
    }
}

#[test]
fn a_path_leads_over_intermediates_in_any_order() {
    let fixture = Fixture::new();
    let upper = fixture.ca.intermediate("upper", |_| ());
    let lower = upper.intermediate("lower", |_| ());
    let leaf = lower.issue(WORKLOAD);
    assert!(fixture.verify(&[&leaf.der, &lower.der, &upper.der]).is_ok());
    assert!(fixture.verify(&[&leaf.der, &upper.der, &lower.der]).is_ok());
    let missing = fixture.verify(&[&leaf.der, &lower.der]).unwrap_err();
    assert!(matches!(missing, VerifyError::UnknownAuthority { .. }), "{missing}");
}

#[test]
fn an_intermediate_in_the_bundle_is_an_authority_itself() {
    let fixture = Fixture::new();
    let intermediate = fixture.ca.intermediate("intermediate", |_| ());
    fixture.verifier.roots.set(roots(&[("example.org", &[&intermediate])]));
    assert!(fixture.verify(&[&intermediate.issue(WORKLOAD).der]).is_ok());
}

#[test]
fn only_the_authorities_of_the_leafs_own_trust_domain_count() {
    let fixture = Fixture::new();
    let other = Ca::root("other");
    fixture.verifier.roots.set(roots(&[("example.org", &[&fixture.ca]), ("other.test", &[&other])]));
    assert!(fixture.verify(&[&other.issue("spiffe://other.test/w").der]).is_ok());
    for (ca, id) in [(&fixture.ca, "spiffe://other.test/w"), (&other, WORKLOAD)] {
        let error = fixture.verify(&[&ca.issue(id).der]).unwrap_err();
        assert!(
            matches!(&error, VerifyError::UnknownAuthority { id: claimed } if claimed.as_str() == id),
            "{error}"
        );
    }
}

#[test]
fn a_trust_domain_without_a_bundle_is_named() {
    let fixture = Fixture::new();
    let error = fixture.verify(&[&fixture.ca.issue("spiffe://foreign.test/w").der]).unwrap_err();
    assert_eq!(error.to_string(), "no bundle for the trust domain of spiffe://foreign.test/w");
}

#[test]
fn an_impostor_with_the_same_name_is_refused() {
    let fixture = Fixture::new();
    let impostor = Ca::root("example");
    let error = fixture.verify(&[&impostor.issue(WORKLOAD).der]).unwrap_err();
    assert_eq!(error.id().unwrap().as_str(), WORKLOAD);
    assert!(matches!(error, VerifyError::Path { .. } | VerifyError::UnknownAuthority { .. }), "{error:?}");
}

#[test]
fn a_leaf_that_is_not_an_svid_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let issue = |change: Change| -> Leaf { fixture.ca.issue_with(WORKLOAD, &PKCS_ECDSA_P384_SHA384, change) };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let two: Change = |params| {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        params.subject_alt_names = vec![uri(WORKLOAD), uri("spiffe://example.org/other")];
    };
    let cases: [(Change, &str); 5] = [
        (two, "more than one URI"),
        (|params| params.subject_alt_names = vec![SanType::DnsName("a.test".try_into().unwrap())], "no URI"),
        (|params| params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "CA flag"),
        (|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), "keyCertSign"),
        (|params| params.key_usages.push(KeyUsagePurpose::CrlSign), "cRLSign"),
    ];
    for (change, reason) in cases {
        let refusal = fixture.refusal(&[&issue(change).der]);
        assert!(refusal.starts_with("the certificate is not an X.509-SVID: "), "{refusal}");
        assert!(refusal.contains(reason), "{refusal}");
    }
    let not_spiffe = fixture.ca.issue_with(WORKLOAD, &PKCS_ECDSA_P384_SHA384, |params| {
        params.subject_alt_names = vec![uri("https://example.org/workload")];
    });
    assert!(fixture.refusal(&[&not_spiffe.der]).contains("is not a SPIFFE ID"));
}

#[test]
fn what_is_not_a_certificate_is_refused() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.verify(&[]), Err(VerifyError::Leaf { .. })));
    let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
    assert!(matches!(fixture.verify(&[&garbage]), Err(VerifyError::Leaf { .. })));
    let leaf = fixture.ca.issue(WORKLOAD).der;
    let many = vec![&leaf; 100];
    assert!(matches!(fixture.verify(&many), Err(VerifyError::Leaf { .. })), "a chain without end");
}

#[test]
fn validity_is_judged_at_the_given_time_for_the_whole_path() {
    let fixture = Fixture::new();
    let leaf = fixture.ca.issue(WORKLOAD);
    let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let verify = |seconds| fixture.verifier.verify(std::slice::from_ref(&leaf.der), at(seconds));
    assert!(verify(NOW + 3600).is_ok());
    let expired = verify(NOW + 3601).unwrap_err();
    assert!(
        matches!(expired, VerifyError::Expired { not_after, now, .. } if (not_after, now) == (NOW + 3600, NOW + 3601)),
        "{expired}"
    );
    let early = verify(NOW - 61).unwrap_err();
    assert!(
        matches!(early, VerifyError::NotYetValid { not_before, .. } if not_before == NOW - 60),
        "{early}"
    );
    let short = fixture.ca.intermediate("short", |params| {
        params.not_after =
            (std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(NOW - 1)).into();
    });
    let error = fixture.verify(&[&short.issue(WORKLOAD).der, &short.der]).unwrap_err();
    assert!(matches!(error, VerifyError::Expired { .. }), "{error}");
}

#[test]
fn a_leaf_cannot_act_as_an_authority() {
    let fixture = Fixture::new();
    let not_ca = fixture.ca.intermediate("not a CA", |params| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    assert!(fixture.verify(&[&not_ca.issue(WORKLOAD).der, &not_ca.der]).is_err());
}

#[test]
fn constraints_on_other_names_are_fine_and_on_uris_are_refused_with_the_reason() {
    let mut fixture = Fixture::new();
    fixture.ca = Ca::root_with("constrained", |params| params.name_constraints = Some(ip_constraints()));
    fixture.verifier.roots.set(roots(&[("example.org", &[&fixture.ca])]));
    assert!(fixture.verify(&[&fixture.ca.issue(WORKLOAD).der]).is_ok());

    // permitted;URI:example.org. rcgen cannot write it.
    let der = [&[0x30, 0x11, 0xa0, 0x0f, 0x30, 0x0d, 0x86, 0x0b][..], b"example.org"].concat();
    fixture.ca = Ca::root_with("constrained", |params| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    fixture.verifier.roots.set(roots(&[("example.org", &[&fixture.ca])]));
    let error = fixture.verify(&[&fixture.ca.issue(WORKLOAD).der]).unwrap_err();
    assert!(matches!(error, VerifyError::NameConstraints { .. }), "{error:?}");
}

#[test]
fn an_unusable_authority_does_not_take_the_others_away() {
    let fixture = Fixture::new();
    let mut roots = crate::roots::TrustRoots::new();
    let authorities = [&b"garbage"[..], fixture.ca.der.as_ref()];
    roots.insert(&crate::test_pki::trust_domain("example.org"), authorities);
    fixture.verifier.roots.set(roots);
    assert!(fixture.verify(&[&fixture.ca.issue(WORKLOAD).der]).is_ok());
}
