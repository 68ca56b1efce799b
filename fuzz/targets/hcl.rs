//! Configuration text, with and without the expansion of variables, is read or refused, and every place that is named is
//! a place in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe::hcl;

fuzz_target!(|text: &str| {
    read(text);
    let expanded = hcl::expand_environment(text, |name| (name.len() < 3).then(|| name.to_uppercase()));
    assert!(text.contains('$') || expanded == text);
    read(&expanded);
});

fn read(text: &str) {
    match hcl::parse(text) {
        Ok(body) => check(&body, text, 0),
        Err(error) => assert!(is_in(error.position, text), "{error}"),
    }
}

fn check(body: &hcl::Body, text: &str, depth: usize) {
    assert!(depth <= hcl::MAX_NESTING);
    for item in &body.items {
        assert!(is_in(item.position, text));
        check_value(&item.value, text, depth);
    }
}

fn check_value(value: &hcl::Value, text: &str, depth: usize) {
    assert!(is_in(value.position, text) && depth <= hcl::MAX_NESTING);
    match &value.kind {
        hcl::Kind::Object(body) => check(body, text, depth + 1),
        hcl::Kind::List(values) => values.iter().for_each(|value| check_value(value, text, depth + 1)),
        hcl::Kind::String(_) | hcl::Kind::Number(_) | hcl::Kind::Bool(_) => {}
    }
}

/// Whether the text has this place, or ends there.
fn is_in(position: hcl::Position, text: &str) -> bool {
    let line = text.split('\n').nth(position.line as usize - 1);
    line.is_some_and(|line| (1..=line.chars().count() + 1).contains(&(position.column as usize)))
}
