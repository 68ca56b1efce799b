//! Why an agent is denied: the status detail that a SPIRE agent acts on.
//!
//! An agent reads `PermissionDeniedDetails` from `grpc-status-details-bin` and re-attests, shuts down or carries on
//! by its reason. Without the detail it only backs off, so every denial of an agent carries one.

use bytes::Bytes;
use prost::Message;
use tonic::{Code, Status};

use crate::google::rpc;
use crate::spire::api::types::PermissionDeniedDetails;
pub use crate::spire::api::types::permission_denied_details::Reason;

/// A `PERMISSION_DENIED` status with `message` that carries `reason`.
#[must_use]
pub fn denied(reason: Reason, message: impl Into<String>) -> Status {
    let message = message.into();
    let detail = PermissionDeniedDetails { reason: reason.into() };
    let rpc = rpc::Status {
        code: Code::PermissionDenied.into(),
        message: message.clone(),
        details: vec![prost_types::Any { type_url: TYPE_URL.to_owned(), value: detail.encode_to_vec() }],
    };
    Status::with_details(Code::PermissionDenied, message, Bytes::from(rpc.encode_to_vec()))
}

/// The reason that `status` carries, if it is a denial with one.
#[must_use]
pub fn reason(status: &Status) -> Option<Reason> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let rpc = rpc::Status::decode(status.details()).ok()?;
    let detail = rpc.details.iter().find(|detail| detail.type_url == TYPE_URL)?;
    let detail = PermissionDeniedDetails::decode(detail.value.as_slice()).ok()?;
    Reason::try_from(detail.reason).ok()
}

const TYPE_URL: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_travels_in_the_status() {
        let status = denied(Reason::AgentBanned, "no");
        assert_eq!(reason(&status), Some(Reason::AgentBanned));
        assert_eq!(status.message(), "no");
    }

    #[test]
    fn a_status_without_the_detail_has_no_reason() {
        assert_eq!(reason(&Status::permission_denied("no")), None);
        assert_eq!(
            reason(&Status::with_details(Code::PermissionDenied, "no", Bytes::from_static(b"\xff"))),
            None
        );
    }
}
