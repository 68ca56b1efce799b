//! A certificate signing request that is read says the same whether or not its signature is checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_ca::x509::csr::{VerifyProofOfPossession, parse_csr};

fuzz_target!(|der: &[u8]| {
    let read = parse_csr(der, VerifyProofOfPossession::No);
    if let Ok(verified) = parse_csr(der, VerifyProofOfPossession::Yes) {
        let read = read.expect("a request with a good signature can be read without checking it");
        assert_eq!(read.public_key_der, verified.public_key_der);
    }
});
