//! A public key that is read as SPKI DER is written back byte for byte, and survives the way through a JWK.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::jwk::{JwkParameters, PublicKey};

fuzz_target!(|spki: &[u8]| {
    let Ok(key) = PublicKey::from_spki(spki) else { return };
    assert_eq!(key.to_spki(), spki);
    let pairs = key.jwk_parameters();
    let find = |wanted| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
    let jwk = JwkParameters {
        kty: Some(key.kty()),
        crv: find("crv"),
        x: find("x"),
        y: find("y"),
        n: find("n"),
        e: find("e"),
    };
    assert_eq!(PublicKey::from_jwk(&jwk).as_ref(), Ok(&key));
});
