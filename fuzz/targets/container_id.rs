//! What is taken for a container ID is one, and does not depend on how a file's bytes are cut.
//!
//! The first byte chooses where the reader cuts.
#![no_main]

use std::io::BufReader;

use libfuzzer_sys::fuzz_target;
use vouchsafe_agent::attest::docker::container_id::{LocateError, group_paths, in_mountinfo, in_paths};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, file)) = input.split_first() else { return };
    let in_cgroup = |size: usize| {
        let paths = group_paths(BufReader::with_capacity(size, file))?;
        in_paths(paths.iter().map(Vec::as_slice))
    };
    let size = usize::from(choice) + 1;
    compare(in_cgroup(size), in_cgroup(64 * 1024));
    compare(in_mountinfo(BufReader::with_capacity(size, file)), in_mountinfo(file));
});

fn compare(one: Result<Option<String>, LocateError>, other: Result<Option<String>, LocateError>) {
    if let Ok(Some(id)) = &one {
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
    let text = |outcome: Result<Option<String>, LocateError>| outcome.map_err(|error| error.to_string());
    let (one, other) = (text(one), text(other));
    if let Err(error) = &one {
        assert!(error.len() < 2048, "{} bytes", error.len());
    }
    assert_eq!(one, other);
}
