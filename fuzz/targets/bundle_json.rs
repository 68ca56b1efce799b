//! A bundle that is read from a SPIFFE document or a JWK set is written and read again without a change.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::TrustDomain;
use vouchsafe_types::bundle::format::{from_jwks, from_spiffe_json, jwt_jwks, to_pem, to_spiffe_json};

fuzz_target!(|json: &[u8]| {
    let trust_domain = TrustDomain::parse("example.org").expect("a valid name");
    if let Ok(bundle) = from_spiffe_json(&trust_domain, json) {
        let written = to_spiffe_json(&bundle).expect("what was read can be written");
        assert_eq!(from_spiffe_json(&trust_domain, written.as_bytes()).expect("own document"), bundle);
        assert_eq!(to_pem(&bundle).matches("BEGIN").count(), bundle.x509_authorities.len());
    }
    if let Ok(bundle) = from_jwks(&trust_domain, json) {
        let written = jwt_jwks(&bundle).expect("what was read can be written");
        assert_eq!(from_jwks(&trust_domain, &written).expect("own JWK set"), bundle);
    }
});
