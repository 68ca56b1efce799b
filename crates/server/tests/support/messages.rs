//! Messages, and what is asserted of them.

use tonic::{Code, Status};
use vouchsafe_proto::denial::{self, Reason};
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::spiffe_id::SpiffeId;

/// `spiffe://example.org<path>`.
pub fn id(path: &str) -> Option<types::Spiffeid> {
    Some(types::Spiffeid { trust_domain: "example.org".into(), path: path.into() })
}

pub fn id_of(id: &SpiffeId) -> Option<types::Spiffeid> {
    Some(vouchsafe_proto::convert::spiffe_id_to_proto(id))
}

pub fn selector(text: &str) -> types::Selector {
    let (kind, value) = text.split_once(':').unwrap();
    types::Selector { r#type: kind.into(), value: value.into() }
}

/// A plain entry for `path` under `parent`.
pub fn entry(path: &str, parent: &SpiffeId) -> types::Entry {
    types::Entry {
        spiffe_id: id(path),
        parent_id: id_of(parent),
        selectors: vec![selector("unix:uid:1000")],
        ..types::Entry::default()
    }
}

pub fn ids(entries: &[types::Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.id.as_str()).collect()
}

/// The paths of the entries' SPIFFE IDs, sorted.
pub fn paths(entries: &[types::Entry]) -> Vec<&str> {
    let mut paths: Vec<_> =
        entries.iter().map(|entry| entry.spiffe_id.as_ref().unwrap().path.as_str()).collect();
    paths.sort_unstable();
    paths
}

/// Asserts a time that is counted from a moment since which the clock went on to what `latest` is counted from: by half a minute
/// at most, on a machine that is busy.
#[track_caller]
pub fn assert_lately(seen: i64, latest: i64) {
    assert!((latest - 30..=latest).contains(&seen), "{seen} is not shortly before {latest}");
}

/// Asserts code and text of a refusal. A text that ends in `…` stands for its beginning.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, text: &str) {
    let status = outcome.expect_err(text);
    assert_text(status.code(), status.message(), code, text);
}

/// As [`assert_refused`] for one item of a batch.
#[track_caller]
pub fn assert_item_refused(status: &types::Status, code: Code, text: &str) {
    assert_text(Code::from(status.code), &status.message, code, text);
}

#[track_caller]
fn assert_text(code: Code, message: &str, expected: Code, text: &str) {
    assert_eq!(code, expected, "{message}");
    match text.strip_suffix('…') {
        Some(beginning) => {
            assert!(
                message.starts_with(beginning) && message.len() > beginning.len(),
                "{message:?} is not {text:?}"
            )
        }
        None => assert_eq!(message, text),
    }
}

/// Asserts that a call was denied for `reason`, which the agent acts on.
#[track_caller]
pub fn assert_denied<T: std::fmt::Debug>(outcome: Result<T, Status>, reason: Option<Reason>) {
    let status = outcome.expect_err("denied");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(denial::reason(&status), reason, "{status:?}");
}

/// How long the caller is told to wait (`google.rpc.RetryInfo`).
pub fn retry_delay(status: &Status) -> Option<std::time::Duration> {
    tonic_types::StatusExt::get_details_retry_info(status).and_then(|info| info.retry_delay)
}
