//! What the API server answers, read within bounds.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Call, ClusterError};
use crate::version::ResourceVersion;

/// One page of a list, unread.
pub(crate) struct Page(Vec<u8>);

/// What a page says of itself.
#[derive(Debug, Default)]
pub(crate) struct PageHead {
    pub(crate) version: Option<ResourceVersion>,
    /// Where the list goes on.
    pub(crate) token: Option<String>,
}

impl Page {
    pub(crate) fn new(body: Vec<u8>) -> Self {
        Self(body)
    }

    /// Gives each item to `take`, so that one that cannot be read costs only itself.
    pub(crate) fn read(
        &self,
        call: &Call,
        mut take: impl FnMut(&RawValue),
    ) -> Result<PageHead, ClusterError> {
        let list: List<'_> = serde_json::from_slice(&self.0).map_err(|error| garbled(call, &error))?;
        list.items.into_iter().flatten().for_each(&mut take);
        Ok(PageHead {
            version: ResourceVersion::parse(list.metadata.resource_version.as_deref().unwrap_or_default()),
            token: list.metadata.r#continue.filter(|token| !token.is_empty()),
        })
    }
}

#[derive(Deserialize)]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn collect(call: &Call, mut body: Body, limit: usize) -> Result<Vec<u8>, ClusterError> {
    let mut taken = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|source| ClusterError::Unreachable { call: call.clone(), source: source.into() })?;
        if let Ok(data) = frame.into_data() {
            if taken.len() + data.len() > limit {
                return Err(ClusterError::TooLarge { call: call.clone(), limit });
            }
            taken.extend_from_slice(&data);
        }
    }
    Ok(taken)
}

/// The error that an error status stands for.
pub(super) async fn refusal(call: &Call, response: Response<Body>) -> ClusterError {
    let (head, body) = response.into_parts();
    let body = collect(call, body, MAX_REFUSAL).await.unwrap_or_default();
    let status: Status = serde_json::from_slice(&body).unwrap_or_default();
    refused(call, head.status, seconds(&head.headers), status)
}

/// The error that an event of a watch tells.
pub(crate) fn told(call: &Call, status: Status) -> ClusterError {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    refused(call, code, None, status)
}

fn refused(call: &Call, code: StatusCode, header: Option<u64>, status: Status) -> ClusterError {
    let hint = status.details.as_ref().map(|details| u64::from(details.retry_after_seconds));
    let reason = match status.reason.as_str() {
        "" => code.canonical_reason().unwrap_or_default(),
        reason => reason,
    };
    ClusterError::Refused {
        call: call.clone(),
        code: code.as_u16(),
        reason: reason.chars().take(MAX_REASON).collect(),
        message: status.message.chars().take(MAX_MESSAGE).collect(),
        retry_after: header.or(hint.filter(|seconds| *seconds > 0)).map(Duration::from_secs),
    }
}

fn seconds(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

/// Where JSON is wrong. Not what is wrong: the text might quote a secret or a token.
pub(super) fn garbled(call: &Call, error: &serde_json::Error) -> ClusterError {
    let detail = format!("line {} column {}", error.line(), error.column());
    ClusterError::Garbled { call: call.clone(), detail }
}

/// The most that is read of an error.
const MAX_REFUSAL: usize = 64 * 1024;

/// The most characters that are kept of an error's message.
const MAX_MESSAGE: usize = 1_024;

/// The most characters that are kept of an error's reason.
const MAX_REASON: usize = 128;
