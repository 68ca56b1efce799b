//! The server's administrative API, in batches with a deadline each.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_proto::convert::{federation_from_proto, federation_to_proto};
use vouchsafe_proto::spire::api::server::entry::v1 as entry;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::trustdomain::v1 as trustdomain;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_client::TrustDomainClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::class::Class;
use vouchsafe_transport::connect::uds_channel_lazy;
use vouchsafe_types::{Bundle, EntryId, FederationRelationship, TrustDomain};

use self::answers::{answer, done, each, gone, read};
use crate::draft::Draft;

mod answers;

/// A connection to the server, made when it is needed and again when it was lost.
#[derive(Clone, Debug)]
pub struct Server {
    entries: EntryClient<Channel>,
    trust_domains: TrustDomainClient<Channel>,
}

/// A call that has no answer. What it did is not known.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {}: {}", status.code(), status.message())]
pub struct ServerError {
    /// What was asked.
    pub call: &'static str,
    /// What came back.
    pub status: Status,
}

impl ServerError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.status.code() {
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => Class::Permanent,
            Code::InvalidArgument | Code::OutOfRange => Class::Bug,
            _ => Class::Transient,
        }
    }
}

/// What the server said to one of a batch.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is so now.
    Done(EntryId, Box<Draft>),
    /// A similar one was there.
    Exists(EntryId, Box<Draft>),
    /// There is no such entry.
    Gone,
    /// It may not be, for this reason.
    Refused(String),
}

/// A federation relationship, and the bundle to begin with.
pub type Relationship = (FederationRelationship, Option<Bundle>);

impl Server {
    /// The server that listens at `socket`. Answers of more than `max_bytes` are refused.
    #[must_use]
    pub fn new(socket: &Path, max_bytes: usize) -> Self {
        let channel = uds_channel_lazy(socket);
        Self {
            entries: EntryClient::new(channel.clone()).max_decoding_message_size(max_bytes),
            trust_domains: TrustDomainClient::new(channel).max_decoding_message_size(max_bytes),
        }
    }

    /// All entries. One that cannot be read is left out, and so left alone.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: nothing is known.
    pub async fn list_entries(&self) -> Result<Vec<(EntryId, Draft)>, ServerError> {
        let mut client = self.entries.clone();
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = entry::ListEntriesRequest {
                page_size: PAGE,
                page_token,
                ..entry::ListEntriesRequest::default()
            };
            let page = within("list entries", client.list_entries(request)).await?;
            found.extend(page.entries.iter().filter_map(read));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Creates entries, at most [`CHANGES`]; an id that is empty is chosen by the server.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: it is not known which were created.
    pub async fn create_entries(&self, entries: &[(String, Arc<Draft>)]) -> Result<Vec<Answer>, ServerError> {
        let sent = entries.len();
        let entries = entries.iter().map(|(id, draft)| draft.to_proto(id)).collect();
        let request = entry::BatchCreateEntryRequest { entries, output_mask: None };
        let mut client = self.entries.clone();
        let response = within("create entries", client.batch_create_entry(request)).await?;
        let results = each("create entries", sent, response.results)?;
        Ok(results.into_iter().map(|result| answer(result.status, result.entry.as_ref())).collect())
    }

    /// Changes entries, at most [`CHANGES`].
    ///
    /// # Errors
    ///
    /// [`ServerError`]: it is not known which were changed.
    pub async fn update_entries(
        &self,
        entries: &[(EntryId, Arc<Draft>)],
    ) -> Result<Vec<Answer>, ServerError> {
        let sent = entries.len();
        let entries = entries.iter().map(|(id, draft)| draft.to_proto(id.as_str())).collect();
        let request = entry::BatchUpdateEntryRequest { entries, input_mask: None, output_mask: None };
        let mut client = self.entries.clone();
        let response = within("update entries", client.batch_update_entry(request)).await?;
        let results = each("update entries", sent, response.results)?;
        Ok(results.into_iter().map(|result| answer(result.status, result.entry.as_ref())).collect())
    }

    /// Deletes entries, at most [`DELETIONS`], and says for each whether it is gone, or why not.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: it is not known which were deleted.
    pub async fn delete_entries(&self, ids: &[EntryId]) -> Result<Vec<Result<(), String>>, ServerError> {
        let sent = ids.len();
        let ids = ids.iter().map(|id| id.as_str().to_owned()).collect();
        let mut client = self.entries.clone();
        let request = entry::BatchDeleteEntryRequest { ids };
        let response = within("delete entries", client.batch_delete_entry(request)).await?;
        let results = each("delete entries", sent, response.results)?;
        Ok(results.into_iter().map(|result| gone(result.status)).collect())
    }

    /// All federation relationships.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: nothing is known.
    pub async fn list_relationships(&self) -> Result<Vec<FederationRelationship>, ServerError> {
        let mut client = self.trust_domains.clone();
        let (mut found, mut page_token) = (Vec::new(), String::new());
        let output_mask = types::FederationRelationshipMask {
            bundle_endpoint_url: true,
            bundle_endpoint_profile: true,
            trust_domain_bundle: false,
        };
        loop {
            let request = trustdomain::ListFederationRelationshipsRequest {
                page_size: PAGE,
                page_token,
                output_mask: Some(output_mask),
            };
            let call = client.list_federation_relationships(request);
            let page = within("list federation relationships", call).await?;
            let read = page.federation_relationships.iter().filter_map(|one| federation_from_proto(one).ok());
            found.extend(read.map(|(relationship, _)| relationship));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }

    /// Creates federation relationships, at most [`CHANGES`], and says for each why not.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: it is not known which were created.
    pub async fn create_relationships(
        &self,
        relationships: &[Relationship],
    ) -> Result<Vec<Result<(), String>>, ServerError> {
        let sent = relationships.len();
        let request = trustdomain::BatchCreateFederationRelationshipRequest {
            federation_relationships: messages(relationships),
            output_mask: None,
        };
        let mut client = self.trust_domains.clone();
        let call = client.batch_create_federation_relationship(request);
        let response = within("create federation relationships", call).await?;
        let results = each("create federation relationships", sent, response.results)?;
        Ok(results.into_iter().map(|result| done(result.status)).collect())
    }

    /// Changes federation relationships, at most [`CHANGES`], and says for each why not.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: it is not known which were changed.
    pub async fn update_relationships(
        &self,
        relationships: &[Relationship],
    ) -> Result<Vec<Result<(), String>>, ServerError> {
        let sent = relationships.len();
        let request = trustdomain::BatchUpdateFederationRelationshipRequest {
            federation_relationships: messages(relationships),
            input_mask: None,
            output_mask: None,
        };
        let mut client = self.trust_domains.clone();
        let call = client.batch_update_federation_relationship(request);
        let response = within("update federation relationships", call).await?;
        let results = each("update federation relationships", sent, response.results)?;
        Ok(results.into_iter().map(|result| done(result.status)).collect())
    }

    /// Deletes federation relationships, at most [`DELETIONS`], and says for each why not.
    ///
    /// # Errors
    ///
    /// [`ServerError`]: it is not known which were deleted.
    pub async fn delete_relationships(
        &self,
        trust_domains: &[TrustDomain],
    ) -> Result<Vec<Result<(), String>>, ServerError> {
        let sent = trust_domains.len();
        let trust_domains = trust_domains.iter().map(|name| name.as_str().to_owned()).collect();
        let request = trustdomain::BatchDeleteFederationRelationshipRequest { trust_domains };
        let mut client = self.trust_domains.clone();
        let call = client.batch_delete_federation_relationship(request);
        let response = within("delete federation relationships", call).await?;
        let results = each("delete federation relationships", sent, response.results)?;
        Ok(results.into_iter().map(|result| gone(result.status)).collect())
    }
}

fn messages(relationships: &[Relationship]) -> Vec<types::FederationRelationship> {
    relationships.iter().map(|(one, bundle)| federation_to_proto(one, bundle.as_ref(), None)).collect()
}

async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ServerError> {
    let answer = tokio::time::timeout(DEADLINE, answer).await;
    let late = || Err(Status::deadline_exceeded(format!("no answer within {DEADLINE:?}")));
    match answer.unwrap_or_else(|_| late()) {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(ServerError { call, status }),
    }
}

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Most entries of an answer.
const PAGE: i32 = 500;
/// Most entries of one call that creates or changes.
pub const CHANGES: usize = 50;
/// Most entries of one call that deletes.
pub const DELETIONS: usize = 200;
