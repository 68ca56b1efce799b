//! The stream that says what changed.

use std::time::Duration;

use tonic::{Status, Streaming};
use vouchsafe_proto::vouchsafe::server::v1::revisions_client::RevisionsClient;
use vouchsafe_proto::vouchsafe::server::v1::{WatchRequest, WatchResponse};

use super::errand::{Errand, Line};
use super::{MAX_MESSAGE, ServerClient};
use crate::entries::output_mask;
use crate::servers::Kind;

impl ServerClient {
    /// What changes for this agent, as it changes; a message every `heartbeat` at the latest. Stays with its server.
    ///
    /// # Errors
    ///
    /// The server's status: `Unimplemented` for one that has no such stream.
    pub async fn watch_revisions(&self, heartbeat: Duration) -> Result<Streaming<WatchResponse>, Status> {
        let heartbeat_millis = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
        let request = WatchRequest { heartbeat_millis, output_mask: Some(output_mask()) };
        let call = |line: Line| async move {
            let mut client = RevisionsClient::new(line.channel).max_decoding_message_size(MAX_MESSAGE);
            client.watch(request).await
        };
        self.call(Errand::short(Kind::Revisions), call).await.map(tonic::Response::into_inner)
    }
}
