//! A certificate signing request that is read says the same whether or not its signature is checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_ca::x509::csr::{VerifyProofOfPossession, parse_csr};

fuzz_target!(|der: &[u8]| {
    let read = parse_csr(der, VerifyProofOfPossession::No);
    match parse_csr(der, VerifyProofOfPossession::Yes) {
        Ok(verified) => {
            assert_eq!(read.expect("what has a good signature can be read without checking it"), verified);
        }
        Err(error) => assert!(error.status_text().starts_with(error.prefix())),
    }
});
