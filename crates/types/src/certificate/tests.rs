use super::*;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};

/// A certificate that is signed by its own key and otherwise as `change` wants it; by default a valid leaf.
pub(crate) fn leaf(change: impl FnOnce(&mut CertificateParams)) -> Arc<[u8]> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://example.org/workload")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    change(&mut params);
    der(&params, &KeyPair::generate().unwrap())
}

/// An authority of `key` and otherwise as `change` wants it.
pub(crate) fn authority_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Arc<[u8]> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "SPIFFE");
    params.subject_alt_names = vec![uri("spiffe://example.org")];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    der(&params, key)
}

/// An authority of a new key.
pub(crate) fn authority() -> Arc<[u8]> {
    authority_of(&KeyPair::generate().unwrap(), |_| {})
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn der(params: &CertificateParams, key: &KeyPair) -> Arc<[u8]> {
    params.self_signed(key).unwrap().der().as_ref().into()
}

const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];
const SUBJECT_KEY_ID: &[u64] = &[2, 5, 29, 14];

#[track_caller]
fn check(der: &[u8], expected: CertificateError) {
    assert_eq!(Certificate::parse(der).err(), Some(expected));
}

#[test]
fn what_a_certificate_says_is_read() {
    let read = Certificate::parse(&leaf(|params| {
        params.serial_number = Some(SerialNumber::from_slice(&[1; 16]));
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2050, 1, 2);
        params.subject_alt_names.push(SanType::DnsName("a.example".try_into().unwrap()));
        params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(vec![0, 0xab]);
    }))
    .unwrap();
    assert_eq!(read.serial, "1334440654591915542993625911497130241");
    assert_eq!((read.not_before, read.not_after), (1_767_225_600, 2_524_694_400));
    assert_eq!(read.uris, ["spiffe://example.org/workload"]);
    assert_eq!(read.dns_names, ["a.example"]);
    assert_eq!(read.authority_id(), "00ab");
    assert!(!read.is_ca);
    let usage = read.key_usage.unwrap();
    assert!(usage.critical && usage.digital_signature && !usage.cert_sign && !usage.crl_sign);
    assert_eq!(read.subject_der, read.issuer_der);
}

#[test]
fn an_authority_says_that_it_is_one() {
    let key = KeyPair::generate().unwrap();
    let read = Certificate::parse(&authority_of(&key, |params| {
        params.use_authority_key_identifier_extension = true;
    }))
    .unwrap();
    assert!(read.is_ca);
    assert!(read.key_usage.unwrap().cert_sign && read.key_usage.unwrap().crl_sign);
    assert_eq!(read.authority_id().len(), 40);
    assert_eq!(read.issuer_authority_id(), read.authority_id());
    assert_eq!(read.public_key_der, rcgen::PublicKeyData::subject_public_key_info(&key));
}

#[test]
fn a_certificate_may_say_very_little() {
    let read = Certificate::parse(&leaf(|params| {
        params.subject_alt_names.clear();
        params.key_usages.clear();
        params.is_ca = IsCa::NoCa;
    }))
    .unwrap();
    assert_eq!((read.uris.len(), read.dns_names.len(), read.key_usage, read.is_ca), (0, 0, None, false));
    assert_eq!((read.authority_id(), read.issuer_authority_id()), (String::new(), String::new()));
}

#[test]
fn bytes_that_are_not_one_certificate_are_refused() {
    let good = leaf(|_| {});
    check(b"", CertificateError::Malformed);
    check(b"\x30\x00", CertificateError::Malformed);
    check(b"not a certificate", CertificateError::Malformed);
    check(&good[..good.len() - 1], CertificateError::Malformed);
    check(&[&good[..], &[0]].concat(), CertificateError::TrailingBytes);
    check(&[&good[..], &good[..]].concat(), CertificateError::TrailingBytes);
    check(&vec![0x30; MAX_CERTIFICATE_BYTES + 1], CertificateError::TooLong);
}

#[test]
fn serial_numbers_are_positive_and_at_most_20_bytes() {
    let with_serial =
        |bytes: &[u8]| leaf(|params| params.serial_number = Some(SerialNumber::from_slice(bytes)));
    assert!(Certificate::parse(&with_serial(&[0xff; 20])).is_ok());
    check(&with_serial(&[0x7f; 22]), CertificateError::Serial);
    let mut negative = with_serial(&[0x7a; 8]).to_vec();
    let at = negative.windows(8).position(|window| window == [0x7a; 8]).unwrap();
    negative[at] = 0xfa;
    check(&negative, CertificateError::Serial);
}

#[test]
fn an_extension_that_is_broken_or_present_twice_is_not_taken_for_absent() {
    let with = |oid: &[u64], content: &[u8]| {
        let extension = CustomExtension::from_oid_content(oid, content.to_vec());
        leaf(|params| params.custom_extensions.push(extension))
    };
    // The usual extension is in the certificate already: a second one.
    check(
        &with(BASIC_CONSTRAINTS, b"\x30\x03\x01\x01\xff"),
        CertificateError::Extension("basic constraints"),
    );
    check(&with(KEY_USAGE, b"\x03\x02\x02\x04"), CertificateError::Extension("key usage"));
    check(
        &with(SUBJECT_ALTERNATIVE_NAME, b"\x30\x00"),
        CertificateError::Extension("subject alternative name"),
    );
    check(&with(SUBJECT_KEY_ID, b"\x04\x01\x01"), CertificateError::Extension("subject key identifier"));
    // The only one, and broken.
    let bare = |oid: &[u64], content: &[u8]| {
        let extension = CustomExtension::from_oid_content(oid, content.to_vec());
        leaf(|params| {
            params.subject_alt_names.clear();
            params.key_usages.clear();
            params.is_ca = IsCa::NoCa;
            params.custom_extensions.push(extension);
        })
    };
    check(&bare(BASIC_CONSTRAINTS, b"\x04\x00"), CertificateError::Extension("basic constraints"));
    check(&bare(KEY_USAGE, b"\x30\x00"), CertificateError::Extension("key usage"));
    check(&bare(SUBJECT_KEY_ID, b"\x30\x00"), CertificateError::Extension("subject key identifier"));
    // Broken only behind what a lenient reader would stop at.
    check(
        &bare(BASIC_CONSTRAINTS, b"\x30\x00\x30\x03\x01\x01\xff"),
        CertificateError::Extension("basic constraints"),
    );
    check(&bare(KEY_USAGE, b"\x03\x02\x07\x80\x00"), CertificateError::Extension("key usage"));
    // A URI that is not ASCII cannot be read, and must not be overlooked either.
    check(
        &bare(SUBJECT_ALTERNATIVE_NAME, b"\x30\x03\x86\x01\xff"),
        CertificateError::Extension("subject alternative name"),
    );
}

#[test]
fn certificates_without_separator_are_split_and_joined() {
    let (a, b) = (leaf(|_| {}), authority());
    let joined = join([&a, &b]);
    assert_eq!(split(&joined).unwrap(), [a, b]);
    assert_eq!(split(b"").unwrap(), Vec::<Arc<[u8]>>::new());
    assert_eq!(split(&joined[..joined.len() - 1]), Err(CertificateError::Malformed));
    assert_eq!(split(b"\x30\x82\xff"), Err(CertificateError::Malformed));
    assert_eq!(split(b"\x30\x84\xff\xff\xff\xff"), Err(CertificateError::TooLong));
    assert_eq!(split(b"\x30\x85\x01\x01\x01\x01\x01"), Err(CertificateError::Malformed));
    assert_eq!(split(b"\x30\x80"), Err(CertificateError::Malformed));
    assert_eq!(split(&[0x30, 0].repeat(MAX_CERTIFICATES + 1)), Err(CertificateError::TooMany));
}

proptest! {
    #[test]
    fn splitting_loses_nothing(bytes in prop::collection::vec(prop_oneof![Just(0x30_u8), 0_u8..6, any::<u8>()], 0..40)) {
        if let Ok(parts) = split(&bytes) {
            prop_assert_eq!(join(&parts), bytes);
        }
    }

    #[test]
    fn a_damaged_certificate_never_panics(position in 0_usize..2000, value in any::<u8>()) {
        let mut der = leaf(|_| {}).to_vec();
        let position = position % der.len();
        der[position] = value;
        if let Ok(read) = Certificate::parse(&der) {
            prop_assert!(!read.public_key_der.is_empty());
        }
    }
}
