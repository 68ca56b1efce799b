//! Configuration text, with and without the expansion of variables, is read or refused at a place in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe::hcl;

fuzz_target!(|text: &str| {
    let lines = text.lines().count().max(1) + 1;
    if let Err(error) = hcl::parse(text) {
        assert!((1..=lines).contains(&(error.position.line as usize)), "{error}");
    }
    let expanded = hcl::expand_environment(text, |name| (name.len() < 3).then(|| name.to_uppercase()));
    if hcl::parse(&expanded).is_ok() && !text.contains('$') {
        assert!(hcl::parse(text).is_ok());
    }
});
