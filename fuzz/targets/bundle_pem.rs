//! PEM that is read is written and read again without a change, whatever its blocks hold.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::bundle::format::{from_pem, to_pem};
use vouchsafe_types::{TrustDomain, pem};

fuzz_target!(|text: &[u8]| {
    if let Ok(blocks) = pem::parse(text) {
        let mut written = String::new();
        for block in &blocks {
            pem::append(&mut written, &block.label, &block.der);
        }
        assert!(pem::parse(written.as_bytes()).is_ok_and(|again| again == blocks));
    }
    let trust_domain = TrustDomain::parse("example.org").expect("a valid name");
    if let Ok(bundle) = from_pem(&trust_domain, text) {
        assert_eq!(from_pem(&trust_domain, to_pem(&bundle).as_bytes()).expect("own PEM"), bundle);
    }
});
