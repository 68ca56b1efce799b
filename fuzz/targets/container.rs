//! What is taken for a container or a Pod is one, and does not depend on how a file's bytes are cut.
//!
//! The first byte chooses where the reader cuts.
#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use vouchsafe_agent::attest::container::{
    Container, LocateError, Wanted, group_paths, in_mountinfo, in_paths,
};
use vouchsafe_agent::attest::k8s::legacy;

type Found = Result<Option<Container>, LocateError>;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, file)) = input.split_first() else { return };
    let small = || BufReader::with_capacity(usize::from(choice) + 1, file);
    let groups = group_paths(file);
    assert_eq!(text(&groups), text(&group_paths(small())));
    for wanted in [Wanted::Container, Wanted::Pod] {
        let found = in_mountinfo(file, wanted, false);
        check(&found, wanted, DASHED);
        assert_eq!(text(&found), text(&in_mountinfo(small(), wanted, false)));
    }
    let Ok(groups) = groups else { return };
    for wanted in [Wanted::Container, Wanted::Pod] {
        check(&in_paths(groups.iter().map(Vec::as_slice), wanted), wanted, DASHED);
    }
    check(&legacy::in_paths(&groups), Wanted::Pod, BARE);
    // With one path there is nothing to disagree about, and looking for its Pod changes nothing about the container.
    for path in &groups {
        let id =
            |wanted| in_paths([path.as_slice()], wanted).map(|found| found.map(|container| container.id));
        assert_eq!(id(Wanted::Container).expect("one path"), id(Wanted::Pod).expect("one path"));
    }
});

fn check(found: &Found, wanted: Wanted, shortest_uid: usize) {
    match found {
        Ok(None) => {}
        Ok(Some(Container { id, pod })) => {
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(id.len() == 64 && is_hex(id), "{id}");
            assert!(wanted == Wanted::Pod || pod.is_none(), "{pod:?} was not looked for");
            if let Some(uid) = pod {
                let digits = uid.replace('-', "");
                assert!(digits.len() == BARE && is_hex(&digits), "{uid}");
                assert!((shortest_uid..=DASHED).contains(&uid.len()), "{uid}");
            }
        }
        Err(error) => {
            let length = error.to_string().len();
            assert!(length < 2048, "{length} bytes");
        }
    }
}

fn text<T: std::fmt::Debug>(outcome: &Result<T, LocateError>) -> String {
    format!("{outcome:?}")
}

/// A Pod's UID with and without its dashes. SPIRE's old locator takes it with any of them missing.
const DASHED: usize = 36;
const BARE: usize = 32;
