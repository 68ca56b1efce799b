//! A chain of DER certificates that passes for an X.509-SVID keeps to the rules for leaves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::certificate::{self, Certificate};
use vouchsafe_types::x509_svid::{X509Svid, leaf_id};

fuzz_target!(|der: &[u8]| {
    if let Ok(read) = Certificate::parse(der) {
        assert!(read.serial.bytes().all(|byte| byte.is_ascii_digit()));
        assert_eq!(read.authority_id().len(), read.subject_key_id.len() * 2);
    }
    let Ok(chain) = certificate::split(der) else { return };
    assert_eq!(certificate::join(&chain), der);
    let Ok(svid) = X509Svid::parse(chain) else { return };
    assert_eq!(leaf_id(&svid.chain[0]).as_ref(), Ok(&svid.id));
    let leaf = Certificate::parse(&svid.chain[0]).expect("the leaf was read before");
    assert!(!leaf.is_ca && leaf.uris == [svid.id.as_str()] && !svid.id.path().is_empty());
});
