//! What an operator does at a server's socket: join tokens and entries.
//!
//! Through SPIRE's API rather than by the commands, because a replay makes hundreds of them in one go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::agent::v1 as agent_api;
use vouchsafe_proto::spire::api::server::entry::v1 as entry_api;
use vouchsafe_proto::spire::api::types;
use vouchsafe_transport::connect::uds_channel;

use crate::error::Error;
use crate::stack::TRUST_DOMAIN;

/// A server's socket.
#[derive(Clone)]
pub(crate) struct Admin(pub(crate) PathBuf);

/// An entry to make, for the processes of one program on one agent's machine.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry {
    /// Path of its SPIFFE ID.
    pub(crate) path: String,
    /// Path of the agent's alias.
    pub(crate) parent: String,
    /// The program.
    pub(crate) program: PathBuf,
    /// 0 is the server's default.
    pub(crate) x509_ttl_secs: u32,
}

impl NewEntry {
    pub(crate) fn new(path: String, parent: &str, program: &Path) -> Self {
        Self { path, parent: parent.to_owned(), program: program.to_owned(), x509_ttl_secs: 0 }
    }

    /// The SPIFFE ID that it gives.
    pub(crate) fn id(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/{}", self.path)
    }

    fn message(&self) -> types::Entry {
        types::Entry {
            // An agent gets SVIDs ahead of need in the order of these.
            id: self.path.replace('/', "-"),
            spiffe_id: Some(id(&self.path)),
            parent_id: Some(id(&self.parent)),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: format!("path:{}", self.program.display()),
            }],
            x509_svid_ttl: i32::try_from(self.x509_ttl_secs).unwrap_or(i32::MAX),
            ..types::Entry::default()
        }
    }
}

impl Admin {
    /// A join token for an agent that is to be known as `alias` too.
    pub(crate) async fn join_token(&self, alias: &str) -> Result<String, Error> {
        let request = agent_api::CreateJoinTokenRequest {
            ttl: TOKEN_TTL_SECS,
            token: String::new(),
            agent_id: Some(id(alias)),
        };
        let mut client = agent_api::agent_client::AgentClient::new(self.channel().await?);
        match client.create_join_token(request).await {
            Ok(token) => Ok(token.into_inner().value),
            Err(status) => Err(refused("a join token", &status)),
        }
    }

    /// Makes `entries`, so many in a call that one call is never long.
    pub(crate) async fn create(&self, entries: &[NewEntry]) -> Result<(), Error> {
        let mut client = entry_api::entry_client::EntryClient::new(self.channel().await?);
        for batch in entries.chunks(BATCH) {
            let entries = batch.iter().map(NewEntry::message).collect();
            let request = entry_api::BatchCreateEntryRequest { entries, output_mask: None };
            let mut request = tonic::Request::new(request);
            request.set_timeout(DEADLINE);
            let answer = client.batch_create_entry(request).await;
            let answer = answer.map_err(|status| refused("entries", &status))?.into_inner();
            let failed = answer.results.iter().filter_map(|result| result.status.as_ref());
            // One that an earlier attempt made, whose answer was lost, is there.
            let mut failed = failed.filter(|status| ![OK, ALREADY_EXISTS].contains(&status.code));
            if let Some(status) = failed.next() {
                return Err(Error::broken(format!("an entry was refused: {}", status.message)));
            }
        }
        Ok(())
    }

    async fn channel(&self) -> Result<Channel, Error> {
        uds_channel(&self.0).await.map_err(|error| Error::broken(format!("the admin socket: {error}")))
    }
}

fn id(path: &str) -> types::Spiffeid {
    types::Spiffeid { trust_domain: TRUST_DOMAIN.into(), path: format!("/{path}") }
}

fn refused(what: &str, status: &tonic::Status) -> Error {
    Error::broken(format!("the server refused {what}: {}", status.message()))
}

const OK: i32 = 0;
const ALREADY_EXISTS: i32 = 6;
/// Entries in a call.
const BATCH: usize = 50;
const TOKEN_TTL_SECS: i32 = 600;
const DEADLINE: Duration = Duration::from_secs(30);
