//! What the server says to each of a batch.

use tonic::{Code, Status};
use vouchsafe_proto::convert::entry_from_proto;
use vouchsafe_proto::spire::api::types;
use vouchsafe_types::EntryId;

use super::{Answer, ServerError};
use crate::draft::Draft;

/// The results of a batch of `sent`: one for each, or nobody knows which is whose.
pub(super) fn each<T>(call: &'static str, sent: usize, results: Vec<T>) -> Result<Vec<T>, ServerError> {
    if results.len() == sent {
        return Ok(results);
    }
    let got = results.len();
    Err(ServerError { call, status: Status::internal(format!("{got} results for {sent} requests")) })
}

pub(super) fn read(message: &types::Entry) -> Option<(EntryId, Draft)> {
    match entry_from_proto(message) {
        Ok(entry) => Some((entry.id.clone(), entry.into())),
        Err(error) => {
            tracing::debug!(entry = message.id, %error, "entry of the server cannot be read");
            None
        }
    }
}

pub(super) fn answer(status: Option<types::Status>, entry: Option<&types::Entry>) -> Answer {
    let status = status.unwrap_or_default();
    match (Code::from_i32(status.code), entry.and_then(read)) {
        (Code::Ok, Some((id, draft))) => Answer::Done(id, Box::new(draft)),
        (Code::AlreadyExists, Some((id, draft))) => Answer::Exists(id, Box::new(draft)),
        (Code::NotFound, _) => Answer::Gone,
        (Code::Ok, None) => Answer::Refused("the server answered without the entry".to_owned()),
        (code, _) => Answer::Refused(refusal(code, &status.message)),
    }
}

pub(super) fn done(status: Option<types::Status>) -> Result<(), String> {
    let status = status.unwrap_or_default();
    match Code::from_i32(status.code) {
        Code::Ok => Ok(()),
        code => Err(refusal(code, &status.message)),
    }
}

/// As [`done`], where it is as good if there is none.
pub(super) fn gone(status: Option<types::Status>) -> Result<(), String> {
    match status.as_ref().map(|status| Code::from_i32(status.code)) {
        Some(Code::NotFound) => Ok(()),
        _ => done(status),
    }
}

fn refusal(code: Code, message: &str) -> String {
    format!("{code:?}: {}", message.chars().take(MAX_REFUSAL_CHARS).collect::<String>())
}

/// What is kept of a refusal's text.
const MAX_REFUSAL_CHARS: usize = 512;

#[cfg(test)]
mod tests {
    use vouchsafe_runtime::class::Class;

    use super::*;

    #[test]
    fn an_answer_with_fewer_results_than_requests_is_no_answer() {
        assert_eq!(each("create entries", 2, vec![1, 2]).unwrap(), [1, 2]);
        for results in [vec![], vec![1], vec![1, 2, 3]] {
            let error = each("create entries", 2, results).unwrap_err();
            assert_eq!(error.class(), Class::Transient);
            assert!(error.to_string().contains("results for 2 requests"), "{error}");
        }
    }
}
