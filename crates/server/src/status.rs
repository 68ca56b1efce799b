//! gRPC statuses, in the form that SPIRE's tools expect: `"<what failed>: <why>"`.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{error, warn};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::class::Class;
use vouchsafe_store::Error as StoreError;

pub(crate) use vouchsafe_runtime::chain::Chain;

/// A status with the text `"<what>: <why>"`, causes included.
pub(crate) fn failed(code: Code, what: &str, why: impl Into<BoxError>) -> Status {
    Status::new(code, format!("{what}: {}", Chain(&*why.into())))
}

/// `INVALID_ARGUMENT` with the text `"<what>: <why>"`, causes included.
pub(crate) fn invalid(what: &str, why: impl Into<BoxError>) -> Status {
    failed(Code::InvalidArgument, what, why)
}

/// `UNAVAILABLE` with the text `"<what>: <why>"` and how long to wait (`google.rpc.RetryInfo`), which agents keep to.
pub(crate) fn unavailable(what: &str, why: impl Into<BoxError>, retry_after: Duration) -> Status {
    retry_later(format!("{what}: {}", Chain(&*why.into())), retry_after)
}

/// `UNAVAILABLE` with `text` and how long to wait.
pub(crate) fn retry_later(text: String, retry_after: Duration) -> Status {
    let details = ErrorDetails::with_retry_info(Some(retry_after));
    Status::with_error_details(Code::Unavailable, text, details)
}

/// When to come back after something that heals by itself within moments.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// What a text or any error turns into.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a failed store operation looks like from outside. The log has the cause; the caller learns whether to retry.
pub(crate) fn store_failed(what: &'static str, cause: &StoreError) -> Status {
    let code = match cause.class() {
        Class::Caller => match cause {
            StoreError::NotFound { .. } => Code::NotFound,
            StoreError::AlreadyExists { .. } => Code::AlreadyExists,
            _ => Code::InvalidArgument,
        },
        Class::Transient => {
            warn!(error = %cause, "{what}");
            Code::Unavailable
        }
        Class::Peer | Class::Permanent | Class::Bug => {
            error!(error = %cause, "{what}");
            match cause {
                // Heals as soon as somebody makes room.
                StoreError::DiskFull { .. } => Code::ResourceExhausted,
                _ => Code::Internal,
            }
        }
    };
    let why = Chain(cause).to_string();
    match code {
        Code::Unavailable => unavailable(what, why, cause.retry_after().unwrap_or(SOON)),
        code => failed(code, what, why),
    }
}

/// The per-item status of batch calls.
pub(crate) fn item_status(status: Result<(), &Status>) -> types::Status {
    match status {
        Ok(()) => types::Status { code: Code::Ok.into(), message: "OK".to_owned() },
        Err(status) => types::Status { code: status.code().into(), message: status.message().to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_store::Outcome;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("no such file")]
        Missing,
        #[error("cannot read")]
        Silent(#[source] Box<Self>),
        #[error("cannot open: {0}")]
        Telling(#[source] Box<Self>),
    }

    #[test]
    fn every_cause_is_told_once() {
        let told = Sample::Telling(Box::new(Sample::Missing));
        assert_eq!(Chain(&told).to_string(), "cannot open: no such file");
        let both = Sample::Telling(Box::new(Sample::Silent(Box::new(Sample::Missing))));
        assert_eq!(Chain(&both).to_string(), "cannot open: cannot read: no such file");
        assert_eq!(invalid("oops", told).message(), "oops: cannot open: no such file");
    }

    #[test]
    fn who_is_told_to_come_back_is_told_when() {
        let away = StoreError::Unavailable {
            operation: "create entry",
            outcome: Outcome::NotWritten,
            retry_after: Duration::from_secs(2),
            source: None,
        };
        let told = |status: &Status| status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(told(&store_failed("failed to create entry", &away)), Some(Duration::from_secs(2)));
        let mistake = StoreError::Bug { operation: "create entry", detail: "x".into() };
        assert_eq!(told(&store_failed("failed to create entry", &mistake)), None);
    }

    #[test]
    fn the_code_says_who_has_to_act() {
        let check = |cause: StoreError, code: Code, text: &str| {
            let status = store_failed("failed to create entry", &cause);
            assert_eq!((status.code(), status.message()), (code, text));
        };
        check(
            StoreError::DiskFull { operation: "create entry", place: "db".into(), source: None },
            Code::ResourceExhausted,
            "failed to create entry: create entry: no space left for db; free some, writes then work again \
             without a restart",
        );
        check(
            StoreError::Unavailable {
                operation: "create entry",
                outcome: Outcome::NotWritten,
                retry_after: Duration::from_secs(2),
                source: None,
            },
            Code::Unavailable,
            "failed to create entry: create entry: the database is not available (nothing was written); try again in 2s",
        );
        check(
            StoreError::Bug { operation: "create entry", detail: "x".into() },
            Code::Internal,
            "failed to create entry: create entry: internal error: x",
        );
    }
}
