//! A trust domain name that is read keeps to its alphabet and is found again in its SPIFFE ID.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::TrustDomain;
use vouchsafe_types::trust_domain::MAX_TRUST_DOMAIN_BYTES;

fuzz_target!(|text: &str| {
    let Ok(name) = TrustDomain::parse(text) else { return };
    assert!(name.as_str().len() <= MAX_TRUST_DOMAIN_BYTES);
    assert!(
        name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    );
    assert_eq!(TrustDomain::parse(&name.id_string()).as_ref(), Ok(&name));
    assert_eq!(TrustDomain::parse(name.as_str()).as_ref(), Ok(&name));
    assert_eq!(name.id().trust_domain(), name);
});
