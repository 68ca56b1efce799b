use super::*;
use proptest::prelude::*;
use rcgen::{KeyPair, PublicKeyData, RsaKeySize};

fn parameters<'a>(pairs: &[(&str, &'a str)]) -> JwkParameters<'a> {
    let find = |wanted| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    JwkParameters {
        kty: find("kty"),
        crv: find("crv"),
        x: find("x"),
        y: find("y"),
        n: find("n"),
        e: find("e"),
    }
}

#[track_caller]
fn round_trip(key: &KeyPair, kty: &str, size: usize) {
    let spki = key.subject_public_key_info();
    let parsed = PublicKey::from_spki(&spki).unwrap();
    assert_eq!(parsed.kty(), kty);
    assert_eq!(parsed.to_spki(), spki);
    let pairs = parsed.jwk_parameters();
    let find = |wanted| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
    let jwk = JwkParameters {
        kty: Some(parsed.kty()),
        crv: find("crv"),
        x: find("x"),
        y: find("y"),
        n: find("n"),
        e: find("e"),
    };
    assert_eq!(PublicKey::from_jwk(&jwk).unwrap(), parsed);
    assert_eq!(
        URL_SAFE_NO_PAD.decode(pairs.iter().map(|p| &p.1).find(|v| v.len() > 8).unwrap()).unwrap().len(),
        size
    );
}

#[test]
fn keys_of_another_library_round_trip_in_both_forms() {
    round_trip(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(), "EC", 32);
    round_trip(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(), "EC", 48);
    round_trip(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(), "EC", 66);
    round_trip(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), "OKP", 32);
    round_trip(&KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(), "RSA", 256);
}

/// RFC 7517 appendix A.1.
const EXAMPLE_EC: &[(&str, &str)] = &[
    ("kty", "EC"),
    ("crv", "P-256"),
    ("x", "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"),
    ("y", "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"),
];

#[test]
fn the_example_of_the_standard_is_read_and_written() {
    let key = PublicKey::from_jwk(&parameters(EXAMPLE_EC)).unwrap();
    assert!(matches!(&key, PublicKey::Ec { curve: Curve::P256, x, .. } if x[..2] == [0x30, 0xa0]));
    let written: Vec<_> = key.jwk_parameters();
    let expected: Vec<_> = EXAMPLE_EC[1..].iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    assert_eq!(written, expected);
    assert_eq!(key.to_spki().len(), 91);
}

#[track_caller]
fn check(pairs: &[(&str, &str)], expected: KeyError) {
    assert_eq!(PublicKey::from_jwk(&parameters(pairs)), Err(expected), "{pairs:?}");
}

#[test]
fn a_jwk_that_is_incomplete_broken_or_unknown_is_told_apart() {
    check(&[], KeyError::Missing("kty"));
    check(&[("kty", "oct")], KeyError::Unsupported);
    check(&[("kty", "ec")], KeyError::Unsupported);
    check(&[("kty", "EC")], KeyError::Missing("crv"));
    check(&[("kty", "EC"), ("crv", "secp256k1")], KeyError::Unsupported);
    check(&[("kty", "EC"), ("crv", "P-256")], KeyError::Missing("x"));
    check(&[("kty", "EC"), ("crv", "P-256"), ("x", "AA")], KeyError::Missing("y"));
    check(&[("kty", "EC"), ("crv", "P-256"), ("x", "AA"), ("y", "AA")], KeyError::Broken("x"));
    check(&[("kty", "EC"), ("crv", "P-256"), EXAMPLE_EC[2], ("y", "AA")], KeyError::Broken("y"));
    check(&[("kty", "EC"), ("crv", "P-384"), EXAMPLE_EC[2], EXAMPLE_EC[3]], KeyError::Broken("x"));
    check(&[("kty", "EC"), ("crv", "P-256"), ("x", "A+A="), ("y", "AA")], KeyError::Broken("x"));
    check(&[("kty", "OKP"), ("crv", "X25519"), ("x", "AA")], KeyError::Unsupported);
    check(&[("kty", "OKP"), ("crv", "Ed25519"), ("x", "AA")], KeyError::Broken("x"));
    check(&[("kty", "RSA")], KeyError::Missing("n"));
    check(&[("kty", "RSA"), ("n", "AQ")], KeyError::Missing("e"));
    check(&[("kty", "RSA"), ("n", "AAAA"), ("e", "AQAB")], KeyError::Broken("n"));
    check(&[("kty", "RSA"), ("n", ""), ("e", "AQAB")], KeyError::Broken("n"));
    check(&[("kty", "RSA"), ("n", "AQ"), ("e", "AQAAAAAAAAAA")], KeyError::Broken("e"));
}

#[test]
fn leading_zeros_of_rsa_numbers_are_dropped() {
    let key = PublicKey::from_jwk(&parameters(&[("kty", "RSA"), ("n", "AP8"), ("e", "AAEAAQ")])).unwrap();
    assert_eq!(key, PublicKey::Rsa { n: vec![0xff], e: vec![1, 0, 1] });
}

#[test]
fn rsa_keys_are_bounded_in_both_forms() {
    let long = |bytes| PublicKey::Rsa { n: vec![0xff; bytes], e: vec![1, 0, 1] };
    let largest = long(MAX_RSA_MODULUS_BYTES);
    assert_eq!(PublicKey::from_spki(&largest.to_spki()).unwrap(), largest);
    assert_eq!(PublicKey::from_spki(&long(MAX_RSA_MODULUS_BYTES + 1).to_spki()), Err(KeyError::TooLong));
    assert_eq!(PublicKey::from_spki(&vec![0x30; MAX_SPKI_BYTES + 1]), Err(KeyError::TooLong));
    let text = "A".repeat(MAX_SPKI_BYTES + 1);
    let jwk = JwkParameters { kty: Some("RSA"), n: Some(&text), e: Some("AQAB"), ..JwkParameters::default() };
    assert_eq!(PublicKey::from_jwk(&jwk), Err(KeyError::TooLong));
}

#[test]
fn a_second_spelling_of_a_key_is_refused() {
    let spki = PublicKey::from_jwk(&parameters(EXAMPLE_EC)).unwrap().to_spki();
    assert_eq!(PublicKey::from_spki(&[&spki[..], &[0]].concat()), Err(KeyError::Malformed));
    assert_eq!(PublicKey::from_spki(&spki[..90]), Err(KeyError::Malformed));
    // The same length, said in one byte more than needed.
    let long_form = [&[0x30, 0x81, 0x59][..], &spki[2..]].concat();
    assert_eq!(PublicKey::from_spki(&long_form), Err(KeyError::Malformed));
    // A compressed point.
    let mut compressed = spki[..27].to_vec();
    compressed.extend_from_slice(&spki[27..59]);
    compressed[26] = 2;
    compressed[1] = 57;
    compressed[24] = 34;
    assert_eq!(PublicKey::from_spki(&compressed), Err(KeyError::Unsupported));
    // Another curve: secp256k1.
    let other = [0x30, 16, 0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 0x06, 5, 0x2b, 0x81, 4, 0, 0x0a];
    let other = [&[0x30, 22][..], &other, &[3, 2, 0, 4]].concat();
    assert_eq!(PublicKey::from_spki(&other), Err(KeyError::Unsupported));
}

proptest! {
    #[test]
    fn every_key_round_trips_as_spki(n in prop::collection::vec(any::<u8>(), 1..600), e in 1_u32.., curve in 0_usize..3, fill in any::<u8>()) {
        let mut n = n;
        n[0] |= 1;
        let e: Vec<u8> = e.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        let rsa = PublicKey::Rsa { n, e };
        prop_assert_eq!(PublicKey::from_spki(&rsa.to_spki()).unwrap(), rsa);
        let curve = [Curve::P256, Curve::P384, Curve::P521][curve];
        let coordinate = vec![fill; curve.coordinate_bytes()];
        let ec = PublicKey::Ec { curve, x: coordinate.clone(), y: coordinate };
        prop_assert_eq!(PublicKey::from_spki(&ec.to_spki()).unwrap(), ec);
    }

    #[test]
    fn whatever_is_read_is_written_back_byte_for_byte(position in 0_usize..91, value in any::<u8>()) {
        let mut spki = PublicKey::from_jwk(&parameters(EXAMPLE_EC)).unwrap().to_spki();
        spki[position] = value;
        if let Ok(key) = PublicKey::from_spki(&spki) {
            prop_assert_eq!(key.to_spki(), spki);
        }
    }
}
