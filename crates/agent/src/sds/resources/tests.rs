use std::collections::HashMap;

use vouchsafe_proto::envoy::service::discovery::v3::DiscoveryResponse;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::*;
use crate::bundles::Bundles;
use crate::entries::tests::entry;
use crate::entries::{EntryIndex, WorkloadEntry};
use crate::identities::Snapshot;
use crate::identities::tests::svid;
use crate::identity_set::IdentitySets;
use crate::sds::asked;

/// Resources of empty secrets.
pub(crate) fn made(names: &[&str]) -> Arc<Resources> {
    let mut out = Encoder::default();
    for name in names {
        out.secret(name, tls::secret::Type::ValidationContext(tls::CertificateValidationContext::default()));
    }
    Arc::new(out.finish())
}

pub(crate) fn secrets(response: &DiscoveryResponse) -> Vec<tls::Secret> {
    let secret = |any: &Any| {
        assert_eq!(any.type_url, SECRET);
        tls::Secret::decode(any.value.as_slice()).unwrap()
    };
    response.resources.iter().map(secret).collect()
}

pub(crate) fn secret_names(response: &DiscoveryResponse) -> Vec<String> {
    secrets(response).into_iter().map(|secret| secret.name).collect()
}

/// A held SVID whose chain is DER, if of nothing.
pub(crate) fn held(id: &str, not_after: i64, serial: u8) -> Arc<HeldSvid> {
    let plain = svid(id, not_after);
    Arc::new(HeldSvid {
        spiffe_id: plain.spiffe_id.clone(),
        issued_for: plain.issued_for,
        chain: Bytes::from(vec![0x30, 0x01, serial, 0x30, 0x01, 0xCA]),
        key: secret_bytes(Zeroizing::new(vec![serial])),
        lifetime: plain.lifetime,
        authority_key_id: None,
    })
}

pub(crate) fn bundle(trust_domain: &str, authority: u8) -> Bundle {
    let authority = X509Authority { der: vec![0x30, 0x01, authority].into(), tainted: false };
    Bundle { x509_authorities: vec![authority], ..Bundle::new(TrustDomain::parse(trust_domain).unwrap()) }
}

/// `a` federates with `other.org`, `b` does not.
fn set(ends: &[(&str, i64)]) -> Arc<IdentitySet> {
    let other = TrustDomain::parse("other.org").unwrap();
    let a = WorkloadEntry { federates_with: [other].into(), ..entry("a", &["unix:uid:1"]) };
    let own = || bundle("example.org", 1);
    let (bundles, _) = Bundles::of(own()).replace(own(), [bundle("other.org", 2)]);
    let svids: HashMap<_, _> =
        ends.iter().map(|(id, end)| (EntryId::parse(id).unwrap(), held(id, *end, 7))).collect();
    let snapshot = Snapshot {
        version: 1,
        index: Arc::new(EntryIndex::build([a, entry("b", &["unix:uid:1"])], &EntryIndex::default())),
        svids: Arc::new(svids),
        bundles: Some(Arc::new(bundles)),
        synchronized: true,
    };
    let mut all: Vec<_> = snapshot.index.iter().cloned().collect();
    all.sort_by(|a, b| a.entry.id.cmp(&b.entry.id));
    IdentitySets::default().of(&snapshot, &all)
}

fn asked(names: &[&str], validator: Validator) -> Asked {
    Asked { names: asked::names(names.iter().map(|name| (*name).to_owned()).collect()), validator }
}

struct Made {
    set: Arc<IdentitySet>,
    config: Sds,
}

impl Made {
    fn new(ends: &[(&str, i64)]) -> Self {
        Self { set: set(ends), config: Sds::default() }
    }

    fn view(&self, now: i64, partial: bool) -> View<'_> {
        View { set: &self.set, config: &self.config, now, partial }
    }

    fn get(&self, names: &[&str], validator: Validator) -> Result<Vec<tls::Secret>, Refusal> {
        self.view(0, false).resources(&asked(names, validator)).map(|resources| decoded(&resources))
    }

    fn names(&self, names: &[&str]) -> Result<Vec<String>, Refusal> {
        self.get(names, Validator::Spiffe)
            .map(|list| list.into_iter().map(|secret| secret.name.replace("spiffe://", "")).collect())
    }
}

fn decoded(resources: &Resources) -> Vec<tls::Secret> {
    let list = secrets(&DiscoveryResponse::decode(resources.encoded.clone()).unwrap());
    assert_eq!(list.len(), resources.count);
    list
}

fn text(source: Option<DataSource>) -> String {
    String::from_utf8(source.unwrap().inline_bytes.to_vec()).unwrap()
}

fn pem_of(ders: &[&[u8]]) -> String {
    ders.iter().map(|der| pem::encode(CERTIFICATE, der)).collect()
}

const BOTH: &[(&str, i64)] = &[("a", 100), ("b", 50)];

#[test]
fn each_name_is_found_and_nothing_else_comes_with_it() {
    let made = Made::new(BOTH);
    let check = |name: &str, expected: &str| assert_eq!(made.names(&[name]), Ok(vec![expected.to_owned()]));
    check("default", "default");
    check("ROOTCA", "ROOTCA");
    check("ALL", "ALL");
    check("spiffe://example.org", "example.org");
    check("spiffe://other.org", "other.org");
    check("spiffe://example.org/a", "example.org/a");
    check("spiffe://example.org/b", "example.org/b");
}

#[test]
fn no_names_mean_everything() {
    let made = Made::new(BOTH);
    assert_eq!(made.names(&[]).unwrap(), ["example.org", "other.org", "example.org/a", "example.org/b"]);
}

#[test]
fn a_name_that_is_left_over_refuses_the_request() {
    let made = Made::new(BOTH);
    let refused = |names: &[&str], left: &[&str]| {
        let left = left.iter().map(|name| Box::from(*name)).collect();
        assert_eq!(made.get(names, Validator::Spiffe).unwrap_err(), Refusal::Unauthorized(left), "{names:?}");
    };
    refused(&["default", "spiffe://example.org/c", "nobody"], &["nobody", "spiffe://example.org/c"]);
    refused(&["spiffe://elsewhere.org"], &["spiffe://elsewhere.org"]);
    // One answer for the own bundle, one for the first identity, as in SPIRE.
    refused(&["ROOTCA", "ALL"], &["ALL"]);
    refused(&["spiffe://example.org", "ROOTCA"], &["ROOTCA"]);
    refused(&["spiffe://example.org/a", "default"], &["default"]);
    let status = Status::from(Refusal::Unauthorized(vec!["b".into(), "c".into()]));
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.message(), r#"workload is not authorized for the requested identities ["b" "c"]"#);
}

#[test]
fn names_are_what_the_configuration_says() {
    let mut made = Made::new(BOTH);
    made.config = Sds {
        default_svid_name: "mine".into(),
        default_bundle_name: "roots".into(),
        default_all_bundles_name: "everyone".into(),
        ..Sds::default()
    };
    assert_eq!(made.names(&["mine", "roots"]).unwrap(), ["roots", "mine"]);
    assert_eq!(made.names(&["everyone"]).unwrap(), ["everyone"]);
    assert!(
        made.names(&["default"]).is_err()
            && made.names(&["ROOTCA"]).is_err()
            && made.names(&["ALL"]).is_err()
    );
}

#[test]
fn certificate_and_key_of_one_svid_travel_together() {
    let list = Made::new(BOTH).get(&["default"], Validator::Spiffe).unwrap();
    let Some(tls::secret::Type::TlsCertificate(certificate)) = list[0].r#type.clone() else {
        panic!("{list:?}")
    };
    assert_eq!(text(certificate.certificate_chain), pem_of(&[&[0x30, 0x01, 7], &[0x30, 0x01, 0xCA]]));
    assert_eq!(text(certificate.private_key), pem::encode("PRIVATE KEY", &[7]));
}

#[test]
fn bundles_go_to_the_validator_by_trust_domain_or_plain() {
    let made = Made::new(BOTH);
    let context = |name: &str, validator| {
        let list = made.get(&[name], validator).unwrap();
        let Some(tls::secret::Type::ValidationContext(context)) = list[0].r#type.clone() else { panic!() };
        context
    };
    let trust_domains = |name: &str| -> Vec<(String, String)> {
        let custom = context(name, Validator::Spiffe).custom_validator_config.unwrap();
        assert_eq!(custom.name, "envoy.tls.cert_validator.spiffe");
        let any = custom.typed_config.unwrap();
        assert_eq!(any.type_url, VALIDATOR_CONFIG);
        let config = tls::SpiffeCertValidatorConfig::decode(any.value.as_slice()).unwrap();
        config.trust_domains.into_iter().map(|domain| (domain.name, text(domain.trust_bundle))).collect()
    };
    let own = ("example.org".to_owned(), pem_of(&[&[0x30, 0x01, 1]]));
    let other = ("other.org".to_owned(), pem_of(&[&[0x30, 0x01, 2]]));
    assert_eq!(trust_domains("ROOTCA"), std::slice::from_ref(&own));
    assert_eq!(trust_domains("spiffe://other.org"), std::slice::from_ref(&other));
    assert_eq!(trust_domains("ALL"), [own.clone(), other.clone()]);
    for (name, expected) in [("ROOTCA", &own), ("spiffe://example.org", &own), ("spiffe://other.org", &other)]
    {
        let plain = context(name, Validator::TrustedCa);
        assert_eq!(text(plain.trusted_ca), expected.1, "{name}");
        assert!(plain.custom_validator_config.is_none());
    }
    assert_eq!(made.get(&["ALL"], Validator::TrustedCa).unwrap_err(), Refusal::NeedsValidator);
    let status = Status::from(Refusal::NeedsValidator);
    assert_eq!(status.code(), tonic::Code::Internal);
    assert_eq!(status.message(), r#"unable to use "SPIFFE validator" on Envoy below 1.17"#);
}

#[test]
fn a_certificate_that_is_missing_or_has_ended_is_waited_for() {
    let made = Made::new(&[("a", 100)]);
    let at = |names: &[&str], now, partial| {
        let resources = made.view(now, partial).resources(&asked(names, Validator::Spiffe));
        resources.map(|resources| resources.count)
    };
    assert_eq!(at(&["default"], 0, false), Ok(1));
    assert_eq!(at(&["ROOTCA"], 0, false), Ok(1), "bundles wait for nothing");
    assert_eq!(at(&["spiffe://example.org/b"], 0, false), Err(Refusal::NotIssued));
    assert_eq!(at(&["spiffe://example.org/b"], 0, true), Err(Refusal::NotIssued));
    assert_eq!(at(&[], 0, false), Err(Refusal::NotIssued));
    assert_eq!(at(&[], 0, true), Ok(3), "everything but one");
    assert_eq!(at(&["default"], 100, false), Err(Refusal::NotIssued), "also when it was shared before");
    assert_eq!(at(&[], 100, true), Err(Refusal::NotIssued));
}

#[test]
fn those_who_ask_the_same_share_one_answer() {
    let made = Made::new(BOTH);
    let ask = |names: &[&str], validator| made.view(0, false).resources(&asked(names, validator)).unwrap();
    let first = ask(&["ALL", "default"], Validator::Spiffe);
    assert!(Arc::ptr_eq(&first, &ask(&["default", "ALL", "ALL"], Validator::Spiffe)));
    assert!(!Arc::ptr_eq(&ask(&["ROOTCA"], Validator::Spiffe), &ask(&["ROOTCA"], Validator::TrustedCa)));
    let names =
        ["default", "spiffe://example.org/b", "ROOTCA", "spiffe://other.org", "spiffe://example.org/a"];
    for bits in 1..(1 << names.len()) {
        let some: Vec<_> = (0..names.len()).filter(|n| bits & (1 << n) != 0).map(|n| names[n]).collect();
        drop(made.view(0, false).resources(&asked(&some, Validator::Spiffe)));
    }
    assert_eq!(made.set.sds.held.lock().unwrap().len(), MAX_SHARED);
}
