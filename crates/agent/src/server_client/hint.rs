//! When the server wants to be asked again: `google.rpc.RetryInfo` in a status.

use std::time::Duration;

use prost::Message;
use tonic::Status;
use vouchsafe_proto::google::rpc;

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// How long the server asks to wait, if it says so.
#[must_use]
pub fn of(status: &Status) -> Option<Duration> {
    if status.details().is_empty() {
        return None;
    }
    let details = rpc::Status::decode(status.details()).ok()?.details;
    let detail = details.iter().find(|detail| detail.type_url == TYPE_URL)?;
    let delay = RetryInfo::decode(detail.value.as_slice()).ok()?.retry_delay?;
    Duration::try_from(delay).ok()
}

const TYPE_URL: &str = "type.googleapis.com/google.rpc.RetryInfo";

#[cfg(test)]
pub(crate) fn with(code: tonic::Code, delay: Duration) -> Status {
    let retry_delay = Some(prost_types::Duration::try_from(delay).unwrap());
    let value = RetryInfo { retry_delay }.encode_to_vec();
    let detail = prost_types::Any { type_url: TYPE_URL.to_owned(), value };
    let rpc = rpc::Status { code: code.into(), message: "later".into(), details: vec![detail] };
    Status::with_details(code, "later", rpc.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn the_delay_travels_in_the_status() {
        let delay = Duration::from_millis(12_500);
        assert_eq!(of(&with(Code::Unavailable, delay)), Some(delay));
        assert_eq!(of(&Status::unavailable("x")), None);
        assert_eq!(of(&Status::with_details(Code::Unavailable, "x", vec![0xff].into())), None);
        let negative = prost_types::Duration { seconds: -1, nanos: 0 };
        let value = RetryInfo { retry_delay: Some(negative) }.encode_to_vec();
        let detail = prost_types::Any { type_url: TYPE_URL.to_owned(), value };
        let rpc = rpc::Status { code: 14, message: String::new(), details: vec![detail] };
        assert_eq!(of(&Status::with_details(Code::Unavailable, "x", rpc.encode_to_vec().into())), None);
    }
}
