//! Asking a Workload API, as any workload does.

use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

/// A client on `channel` that takes answers of up to [`MAX_ANSWER_BYTES`].
#[must_use]
pub fn client(channel: Channel) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

/// A request that a Workload API accepts: with the metadata `workload.spiffe.io: true`, which the standard demands so that
/// a forged request from a browser or proxy is not mistaken for a workload's (SPIFFE Workload Endpoint §3).
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// The first message of a stream.
///
/// # Errors
///
/// What the Workload API said, or `Unavailable` when it ended the stream without a message.
pub async fn first<T>(
    stream: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<T, Status> {
    let mut stream = stream.await?.into_inner();
    let first = stream.message().await?;
    first.ok_or_else(|| Status::unavailable("the stream ended without a message"))
}

/// Largest answer that is taken: an answer has all identities of a workload and the bundles of all trust domains that it
/// knows.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
