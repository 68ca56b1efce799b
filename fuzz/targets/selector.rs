//! A selector that is read has two parts that make it again, and sets of selectors behave as sets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vouchsafe_types::{Selector, SelectorSet};

fuzz_target!(|text: &str| {
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(selector.as_str(), text);
        assert!(
            !selector.kind().is_empty() && !selector.kind().contains(':') && !selector.value().is_empty()
        );
        assert_eq!(Selector::new(selector.kind(), selector.value()).as_ref(), Ok(&selector));
    }
    let set: SelectorSet = text.lines().filter_map(|line| Selector::parse(line).ok()).collect();
    assert!(set.as_slice().is_sorted() && set.contains_all(&set));
    assert!(set.iter().all(|selector| set.contains(selector)));
});
