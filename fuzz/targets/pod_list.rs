//! A kubelet's list of Pods says the same however its bytes arrive, and a list that is JSON has the Pods that JSON says.
//!
//! The first byte is the size of the pieces.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::Value;
use vouchsafe_agent::attest::k8s::index::{Answer, Builder, Index, Sought};
use vouchsafe_agent::attest::k8s::pod::ContainerId;
use vouchsafe_agent::attest::k8s::scanner::{ListError, Scanner, TakePod};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, list)) = input.split_first() else { return };
    let (mut whole, mut pieces) = (Texts::default(), Texts::default());
    let outcome = scan(list, list.len().max(1), &mut whole);
    assert_eq!(outcome, scan(list, usize::from(choice) + 1, &mut pieces));
    assert_eq!(whole.0, pieces.0);
    for pod in &whole.0 {
        assert!(pod.starts_with(b"{") && matches!(pod.last(), Some(b'}' | b']')), "{pod:?}");
    }
    // A name of a key may be written with escapes; the kubelet writes none.
    if let (Ok(list), false) = (serde_json::from_slice(list), list.windows(2).any(|pair| pair == b"\\u")) {
        compare(list, &outcome, &whole.0);
    }
    let mut builder = Builder::new(Arc::default());
    if scan(list, usize::from(choice) + 1, &mut builder).is_ok() {
        let unreadable = builder.unreadable.as_ref().map_or(0, |(count, _)| *count);
        let index = builder.finish();
        assert!(index.pods() + unreadable <= whole.0.len());
        look(&index);
    }
});

fn scan(list: &[u8], size: usize, taker: &mut dyn TakePod) -> Result<(), ListError> {
    let mut scanner = Scanner::default();
    list.chunks(size).try_for_each(|piece| scanner.scan(piece, taker))?;
    scanner.finish()
}

/// `list` is JSON, so there is no doubt about what is in it.
fn compare(List(entries): List, outcome: &Result<(), ListError>, pods: &[Vec<u8>]) {
    if matches!(outcome, Err(ListError::Shape("is nested too deep"))) {
        return;
    }
    let (mut expected, mut usable) = (Vec::new(), true);
    let mut items = entries.into_iter().filter(|(key, _)| key == "items").peekable();
    if items.peek().is_none() {
        assert_eq!(*outcome, Err(ListError::NoItems));
        return;
    }
    for (_, value) in items {
        match value {
            Value::Null => {}
            Value::Array(elements) => {
                usable &= elements.iter().all(Value::is_object);
                expected.extend(elements);
            }
            _ => usable = false,
        }
    }
    assert_eq!(outcome.is_ok(), usable, "{outcome:?}");
    if usable {
        let pods = pods.iter().map(|pod| serde_json::from_slice(pod).expect("part of what is JSON"));
        assert_eq!(pods.collect::<Vec<Value>>(), expected);
    }
}

/// Two containers that the seeds have: what is said of them is bounded and of the attestor's own kind.
fn look(index: &Index) {
    for digit in ["a", "b"] {
        let id = ContainerId::parse(&digit.repeat(64)).expect("64 digits");
        for pod in [None, Some(Arc::from("2c48913c-b29f-11e7-9350-020968147796"))] {
            let sought = Sought { id, pod };
            for pod_is_enough in [false, true] {
                let answer = index.find(&sought, pod_is_enough);
                assert!(!matches!(answer, Answer::Of(_, false)) || pod_is_enough && sought.pod.is_some());
                for selector in answer.selectors(&sought, true).unwrap_or_default() {
                    assert_eq!(selector.kind(), "k8s");
                }
            }
        }
    }
}

#[derive(Default)]
struct Texts(Vec<Vec<u8>>);

impl TakePod for Texts {
    fn take_pod(&mut self, json: &[u8]) -> Result<(), ListError> {
        self.0.push(json.to_vec());
        Ok(())
    }
}

/// The entries of an object, those of the same name too.
struct List(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = List;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(List(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
