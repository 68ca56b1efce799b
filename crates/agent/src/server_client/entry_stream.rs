//! The conversation of `SyncAuthorizedEntries`; what it means is [`crate::sync`].

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vouchsafe_proto::revisions::{POSITION_HEADER, State};
use vouchsafe_proto::spire::api::server::entry::v1 as entry_api;

use super::{Line, MAX_MESSAGE};
use crate::entries::{EntryIndex, output_mask};
use crate::sync::{Outcome, ProtocolError, Sync};

/// Asks for the difference to `held`.
pub(super) async fn fetch(line: Line, held: &EntryIndex) -> Result<Outcome, Status> {
    let mut client = entry_api::entry_client::EntryClient::new(line.channel.clone())
        .max_decoding_message_size(MAX_MESSAGE);
    let (send, requests) = mpsc::channel(1);
    let gone = |_| Status::unavailable("the server ended the synchronization");
    let first = entry_api::SyncAuthorizedEntriesRequest { output_mask: Some(output_mask()), ids: Vec::new() };
    send.send(first).await.map_err(gone)?;
    let answer = client.sync_authorized_entries(ReceiverStream::new(requests)).await?;
    let state = answer.metadata().get(POSITION_HEADER).and_then(|value| State::parse(value.to_str().ok()?));
    let mut answers = answer.into_inner();
    let ended = |sync: Sync<'_>| Outcome { state: state.unwrap_or_default(), ..sync.finish() };
    let mut next = async || {
        answers.message().await?.ok_or_else(|| Status::unavailable("the server ended the synchronization"))
    };
    let mut sync = Sync::new(held);
    let mut page = next().await?;
    line.heard();
    // Without revisions the first message is the complete list.
    if page.entry_revisions.is_empty() {
        loop {
            sync.entries(&page.entries);
            if !page.more {
                return Ok(ended(sync));
            }
            page = next().await?;
        }
    }
    let page_size = page.entry_revisions.len();
    loop {
        if !page.entries.is_empty() {
            return Err(Status::internal(ProtocolError::UnexpectedEntries.to_string()));
        }
        sync.revisions(&page.entry_revisions);
        if !page.more {
            break;
        }
        page = next().await?;
    }
    for ids in sync.requests(page_size) {
        let request = entry_api::SyncAuthorizedEntriesRequest { output_mask: None, ids };
        send.send(request).await.map_err(gone)?;
        loop {
            let page = next().await?;
            if !page.entry_revisions.is_empty() {
                return Err(Status::internal(ProtocolError::UnexpectedRevisions.to_string()));
            }
            sync.entries(&page.entries);
            if !page.more {
                break;
            }
        }
    }
    Ok(ended(sync))
}
