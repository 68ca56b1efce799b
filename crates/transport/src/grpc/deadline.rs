//! The `grpc-timeout` of a request.

use std::future::Future;
use std::time::Duration;

use http::HeaderMap;
use http_body_util::Either;
use tonic::Status;
use tonic::body::Body;

/// Parses `grpc-timeout`: at most eight digits, then one of `H M S m u n` (gRPC over HTTP2, "Timeout"). `None`
/// when it is missing or not of this form.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    const MAX_DIGITS: usize = 8;
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// `response`, or DEADLINE_EXCEEDED when it takes longer than `timeout`.
pub(super) async fn bound<B, E>(
    response: impl Future<Output = Result<http::Response<B>, E>>,
    timeout: Option<Duration>,
) -> Result<http::Response<Either<B, Body>>, E> {
    let response = match timeout {
        None => response.await,
        Some(timeout) => match tokio::time::timeout(timeout, response).await {
            Ok(response) => response,
            Err(_) => {
                let status = Status::deadline_exceeded("deadline exceeded");
                return Ok(status.into_http::<Body>().map(Either::Right));
            }
        },
    };
    response.map(|response| response.map(Either::Left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_timeouts_of_the_standard_form_count() {
        fn check(text: &'static str, expected: Option<Duration>) {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_static(text));
            assert_eq!(grpc_timeout(&headers), expected, "{text:?}");
        }
        check("2H", Some(Duration::from_secs(7200)));
        check("3M", Some(Duration::from_secs(180)));
        check("42S", Some(Duration::from_secs(42)));
        check("500m", Some(Duration::from_millis(500)));
        check("99999999u", Some(Duration::from_micros(99_999_999)));
        check("1n", Some(Duration::from_nanos(1)));
        for wrong in ["", "S", "1", "+1S", "-1S", "1s", "999999999S", "1 S", "S1"] {
            check(wrong, None);
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_takes_too_long_is_answered_for() {
        let never = std::future::pending::<Result<http::Response<Body>, std::convert::Infallible>>();
        let response = bound(never, Some(Duration::from_secs(1))).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
    }
}
