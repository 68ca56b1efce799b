//! A SPIFFE ID that is read is spelled canonically and can be put together again from its parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::spiffe_id::MAX_SPIFFE_ID_BYTES;
use vouchsafe_types::{SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text);
    assert!(text.len() <= MAX_SPIFFE_ID_BYTES && text.is_ascii());
    assert_eq!(text, format!("spiffe://{}{}", id.trust_domain_name(), id.path()));
    assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()).as_ref(), Ok(&id));
    assert_eq!(TrustDomain::parse(text), Ok(id.trust_domain()));
    assert!(id.is_member_of(&id.trust_domain()));
    assert!(!id.is_agent() || id.is_reserved());
});
