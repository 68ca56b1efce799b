//! A client of the Workload API.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tonic::Status;
use tonic::transport::Channel;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
pub(in crate::cli) use vouchsafe_proto::workload_client::request;

use crate::cli::socket::{AgentSocketArgs, MAX_ANSWER_BYTES, Target};
use crate::go;

#[derive(Args, Debug)]
pub(super) struct WorkloadArgs {
    /// Time to wait for a response
    #[arg(long = "timeout", value_name = "duration", default_value = "5s", value_parser = go::parse_duration)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) socket: AgentSocketArgs,
}

/// Connects to the Workload API.
pub(super) async fn connect(target: &Target) -> anyhow::Result<SpiffeWorkloadApiClient<Channel>> {
    let channel = target.connect().await.map_err(failed)?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// Waits for an answer for at most `timeout`, or for ever if that is zero.
pub(in crate::cli) async fn within<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    if timeout.is_zero() {
        return call.await;
    }
    let late = || Status::deadline_exceeded("context deadline exceeded");
    tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(late()))
}

/// The first message of a stream.
pub(super) async fn first<T>(
    stream: impl Future<Output = Result<tonic::Response<tonic::Streaming<T>>, Status>>,
) -> Result<T, Status> {
    let mut stream = stream.await?.into_inner();
    stream.message().await?.ok_or_else(|| Status::unknown("EOF"))
}

/// A failed call, with the words of SPIRE.
pub(super) fn failed(status: Status) -> anyhow::Error {
    anyhow!(go::rpc_error(&status))
}
