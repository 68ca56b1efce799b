//! A DNS name that is accepted is short, plain, and has at most one wildcard, in front.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::dns_name::{MAX_DNS_NAME_BYTES, check_dns_name, wildcard_overlap};

fuzz_target!(|text: &str| {
    if check_dns_name(text).is_ok() {
        assert!(text.is_ascii() && text.len() <= MAX_DNS_NAME_BYTES);
        assert!(!text.trim_start_matches("*.").contains('*'));
        assert!(text.split('.').all(|label| (1..=63).contains(&label.len())));
    }
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(name) = wildcard_overlap(&names) {
        assert!(names.iter().any(|other| other == name) && names.len() > 1);
    }
});
