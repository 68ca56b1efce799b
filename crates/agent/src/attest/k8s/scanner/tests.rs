use proptest::prelude::*;
use vouchsafe_testkit::kubelet::{FakePod, list_json};

use super::*;

#[derive(Default)]
struct Taken(Vec<String>);

impl TakePod for Taken {
    fn take_pod(&mut self, json: &[u8]) -> Result<(), ListError> {
        self.0.push(String::from_utf8_lossy(json).into_owned());
        Ok(())
    }
}

/// Reads `list` in pieces of `size` bytes.
fn read(list: &[u8], size: usize) -> Result<Vec<String>, ListError> {
    let (mut scanner, mut taken) = (Scanner::default(), Taken::default());
    for piece in list.chunks(size) {
        scanner.scan(piece, &mut taken)?;
    }
    scanner.finish()?;
    Ok(taken.0)
}

fn whole(list: &str) -> Result<Vec<String>, ListError> {
    let in_bytes = read(list.as_bytes(), 1);
    assert_eq!(in_bytes, read(list.as_bytes(), list.len().max(1)), "pieces change nothing: {list}");
    in_bytes
}

#[test]
fn pods_are_found_wherever_items_stand() {
    let pods = ["{}", r#"{"a":"]}\"\\","b":[{}]}"#];
    for list in [
        r#"{"items":[{},{"a":"]}\"\\","b":[{}]}]}"#,
        r#" { "kind" : "PodList" , "metadata" : {"items":[1]} , "items" : [ {} , {"a":"]}\"\\","b":[{}]} ] , "x" : "items" } "#,
        r#"{"n":null,"t":true,"i\"tems":[2],"items":[{},{"a":"]}\"\\","b":[{}]}],"z":[{"items":[3]}]}"#,
    ] {
        assert_eq!(whole(list).unwrap(), pods, "{list}");
    }
    for none in [r#"{"items":[]}"#, r#"{"items":null}"#, r#"{"items": null ,"x":{}}"#] {
        assert_eq!(whole(none).unwrap(), Vec::<String>::new(), "{none}");
    }
}

#[test]
fn what_is_no_list_of_pods_is_refused_by_name() {
    for (list, error) in [
        ("", ListError::NoObject),
        ("<html>", ListError::NoObject),
        ("[]", ListError::NoObject),
        ("\u{0}\u{1}", ListError::NoObject),
        ("{}", ListError::NoItems),
        (r#"{"kind":"PodList"}"#, ListError::NoItems),
        (r#"{"items":{}}"#, ListError::NoItems),
        (r#"{"items":"x"}"#, ListError::NoItems),
        (r#"{"items":7}"#, ListError::NoItems),
        (r#"{"items":nul}"#, ListError::NoItems),
        (r#"{"items":[7]}"#, ListError::NoPod { found: b'7' }),
        (r#"{"items":[{}{}]}"#, ListError::NoPod { found: b'{' }),
        (r#"{"items":[null]}"#, ListError::NoPod { found: b'n' }),
        (r#"{"items":[{}],"#, ListError::Shape("ends in the middle")),
        (r#"{"items":[{"a":"}"#, ListError::Shape("ends in the middle")),
        (r#"{"items":[]}{"#, ListError::Shape("goes on after its end")),
    ] {
        assert_eq!(whole(list), Err(error), "{list}");
    }
    let deep = format!("{{\"x\":{}", "[".repeat(100));
    assert_eq!(whole(&deep), Err(ListError::Shape("is nested too deep")));
}

#[test]
fn a_pod_that_no_cluster_can_store_is_passed_over_and_costs_no_memory() {
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(4 * MAX_POD));
    let list = format!(r#"{{"items":[{{}},{large},{{"b":1}}]}}"#);
    let (mut scanner, mut taken) = (Scanner::default(), Taken::default());
    for piece in list.as_bytes().chunks(64 * 1024) {
        scanner.scan(piece, &mut taken).unwrap();
        assert!(scanner.element.bytes.capacity() <= 2 * MAX_POD);
    }
    scanner.finish().unwrap();
    assert_eq!((taken.0, scanner.oversized), (vec!["{}".to_owned(), r#"{"b":1}"#.to_owned()], 1));
}

proptest! {
    #[test]
    fn any_list_is_found_whole_in_pieces_of_any_size(count in 0_usize..6, padding in 0_usize..4000, size in 1_usize..900) {
        let pods: Vec<_> = (0..count).map(FakePod::number).collect();
        let list = list_json(&pods, padding);
        let parsed: serde_json::Value = serde_json::from_slice(&list).unwrap();
        let found = read(&list, size).unwrap();
        let expected: Vec<_> = parsed["items"].as_array().unwrap().iter().map(ToString::to_string).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..400) {
        let mut list = list_json(&[FakePod::number(1)], 0);
        let at = at.min(list.len());
        list.splice(at..at, bytes.iter().copied());
        drop(read(&list, 7));
        drop(read(&bytes, 3));
    }
}
