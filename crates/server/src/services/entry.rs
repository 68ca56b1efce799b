//! `spire.api.server.entry.v1.Entry`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{info, warn};
use uuid::Uuid;
use vouchsafe_proto::convert::{entry_from_proto, entry_patch_from_proto, entry_to_proto};
use vouchsafe_proto::revisions::POSITION_HEADER;
use vouchsafe_proto::spire::api::server::entry::v1::entry_server::Entry as EntryApi;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
    BatchUpdateEntryRequest, BatchUpdateEntryResponse, CountEntriesRequest, CountEntriesResponse,
    GetAuthorizedEntriesRequest, GetAuthorizedEntriesResponse, GetEntryRequest, ListEntriesRequest,
    ListEntriesResponse, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse,
    batch_create_entry_response, batch_delete_entry_response, batch_update_entry_response,
    count_entries_request, list_entries_request,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::{CreateOutcome, Error as StoreError, Rejected, Store};
use vouchsafe_types::entry::{Entry, EntryId};
use vouchsafe_types::trust_domain::TrustDomain;

use super::revisions::state_of;
use super::{calling_agent, sync};
use crate::agents::Agents;
use crate::audit::{self, Audit};
use crate::filter::EntryFilter;
use crate::model::ReadModel;
use crate::page::Page;
use crate::status::{Chain, failed, invalid, item_status, store_failed};

/// Registration entries: reads from the model, writes to the store.
pub(crate) struct EntryService {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) store: Arc<dyn Store>,
}

impl EntryService {
    async fn create(&self, message: &types::Entry) -> Result<(Option<Status>, Entry), Status> {
        let mut message = message.clone();
        if message.id.is_empty() {
            message.id = Uuid::new_v4().to_string();
        }
        let entry = entry_from_proto(&message).map_err(|e| invalid(CONVERT, e))?;
        self.check(&entry)?;
        self.check_bundles(&entry.federates_with, "failed to create entry")?;
        match self.store.create_entry(entry).await {
            Ok(CreateOutcome::Created(entry, position)) => {
                self.model.settled(position).await;
                info!(registration_id = %entry.id, spiffe_id = %entry.spiffe_id, "Entry created");
                Ok((None, entry))
            }
            Ok(CreateOutcome::Similar(entry)) => {
                Ok((Some(Status::already_exists("similar entry already exists")), entry))
            }
            Err(cause) => Err(store_failed("failed to create entry", &cause)),
        }
    }

    async fn update(&self, message: &types::Entry, mask: Option<&types::EntryMask>) -> Result<Entry, Status> {
        let patch = entry_patch_from_proto(message, mask).map_err(|e| invalid(CONVERT, e))?;
        let id = EntryId::parse(&message.id).map_err(|e| invalid("failed to update entry", e))?;
        if mask.is_none_or(|mask| mask.federates_with) {
            // What does not parse was refused with the patch.
            let named: Vec<_> =
                message.federates_with.iter().filter_map(|name| TrustDomain::parse(name).ok()).collect();
            self.check_bundles(&named, "failed to update entry")?;
        }
        let trust_domain = self.trust_domain.clone();
        let change = move |entry: &mut Entry| {
            patch.clone().apply(entry);
            entry.validate(&trust_domain).map_err(|why| Rejected::new(Chain(&why).to_string()))
        };
        match self.store.update_entry(&id, Box::new(change)).await {
            Ok((entry, position)) => {
                self.model.settled(position).await;
                info!(registration_id = %entry.id, spiffe_id = %entry.spiffe_id, "Entry updated");
                Ok(entry)
            }
            Err(StoreError::Rejected(why)) => Err(invalid(CONVERT, why)),
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("failed to update entry")),
            Err(cause) => Err(store_failed("failed to update entry", &cause)),
        }
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        // What is not an entry ID names no entry.
        let id = EntryId::parse(id).map_err(|_| Status::not_found("entry not found"))?;
        match self.store.delete_entry(&id).await {
            Ok((entry, position)) => {
                self.model.settled(position).await;
                info!(registration_id = %entry.id, spiffe_id = %entry.spiffe_id, "Entry deleted");
                Ok(())
            }
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("entry not found")),
            Err(cause) => Err(store_failed("failed to delete entry", &cause)),
        }
    }

    /// An entry federates with trust domains whose bundle is held: agents have something to hand out, and a name that was
    /// mistyped is noticed.
    fn check_bundles(&self, named: &[TrustDomain], what: &str) -> Result<(), Status> {
        let snapshot = self.model.load();
        match named.iter().find(|name| !snapshot.bundles.contains_key(*name)) {
            Some(missing) => {
                let why = format!("unable to find federated bundle \"{}\"", missing.id_string());
                Err(failed(Code::Internal, what, why))
            }
            None => Ok(()),
        }
    }

    fn check(&self, entry: &Entry) -> Result<(), Status> {
        entry.validate(&self.trust_domain).map_err(|why| {
            warn!(spiffe_id = %entry.spiffe_id, error = %why, "Invalid argument: {CONVERT}");
            invalid(CONVERT, why)
        })
    }
}

/// How many entries of one request are written at a time.
const CREATES_AT_A_TIME: usize = 64;
const CONVERT: &str = "failed to convert entry";

#[tonic::async_trait]
impl EntryApi for EntryService {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let audit = Audit::of(&request);
        let filter = request.into_inner().filter.map(same_filter);
        audit.add_all(|| filter.as_ref().map(audit::entry_filter_fields).unwrap_or_default());
        let filter = EntryFilter::parse(&self.trust_domain, filter)?;
        let snapshot = self.model.load();
        let count = snapshot.entries.after(None).filter(|entry| filter.matches(entry)).count();
        Ok(Response::new(CountEntriesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add_all(|| request.filter.as_ref().map(audit::entry_filter_fields).unwrap_or_default());
        let filter = EntryFilter::parse(&self.trust_domain, request.filter)?;
        let page = Page::new(request.page_size, &request.page_token);
        let snapshot = self.model.load();
        let found = snapshot.entries.after(page.after).filter(|entry| filter.matches(entry));
        let (entries, next_page_token) = page.cut(found, |entry| entry.id.to_string());
        let entries = entries.map(|entry| entry_to_proto(entry, request.output_mask.as_ref())).collect();
        Ok(Response::new(ListEntriesResponse { entries, next_page_token }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add("entry_id", request.id.as_str());
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let snapshot = self.model.load();
        let entry = snapshot.entries.get(&request.id);
        let entry = entry.ok_or_else(|| Status::not_found("entry not found"))?;
        Ok(Response::new(entry_to_proto(entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mask = request.output_mask.as_ref();
        let create = async |message: &types::Entry| match self.create(message).await {
            Ok((similar, entry)) => batch_create_entry_response::Result {
                status: Some(item_status(similar.as_ref().map_or(Ok(()), Err))),
                entry: Some(entry_to_proto(&entry, mask)),
            },
            Err(status) => {
                batch_create_entry_response::Result { status: Some(item_status(Err(&status))), entry: None }
            }
        };
        // Side by side, so that the store commits many of them together; the answers keep the order.
        let creating = request.entries.iter().map(create);
        let results: Vec<_> =
            futures_util::stream::iter(creating).buffered(CREATES_AT_A_TIME).collect().await;
        for (entry, result) in request.entries.iter().zip(&results) {
            audit.item(result.status.as_ref(), || audit::entry_fields(entry, None));
        }
        Ok(Response::new(BatchCreateEntryResponse { results }))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.entries.len());
        for message in &request.entries {
            let outcome = self.update(message, request.input_mask.as_ref()).await;
            let status = item_status(outcome.as_ref().map(|_| ()));
            audit.item(Some(&status), || audit::entry_fields(message, request.input_mask.as_ref()));
            results.push(batch_update_entry_response::Result {
                status: Some(status),
                entry: outcome.ok().map(|entry| entry_to_proto(&entry, request.output_mask.as_ref())),
            });
        }
        Ok(Response::new(BatchUpdateEntryResponse { results }))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        let audit = Audit::of(&request);
        let ids = request.into_inner().ids;
        let mut results = Vec::with_capacity(ids.len());
        for id in ids {
            let outcome = self.delete(&id).await;
            let status = item_status(outcome.as_ref().copied());
            audit.item(Some(&status), || vec![("entry_id", id.as_str().into())]);
            results.push(batch_delete_entry_response::Result { status: Some(status), id });
        }
        Ok(Response::new(BatchDeleteEntryResponse { results }))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let agent = calling_agent(&*self.agents, &request)?;
        let mask = request.into_inner().output_mask;
        let entries = self.model.load().entries.authorized(&agent, self.clock.unix_now());
        let entries = entries.iter().map(|entry| entry_to_proto(entry, mask.as_ref())).collect();
        Ok(Response::new(GetAuthorizedEntriesResponse { entries }))
    }

    type SyncAuthorizedEntriesStream =
        Pin<Box<dyn Stream<Item = Result<SyncAuthorizedEntriesResponse, Status>> + Send>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let agent = calling_agent(&*self.agents, &request)?;
        let snapshot = self.model.load();
        let entries = snapshot.entries.authorized(&agent, self.clock.unix_now());
        let mut response: Response<Self::SyncAuthorizedEntriesStream> =
            Response::new(Box::pin(sync::answers(entries, request.into_inner())));
        if let Ok(state) = state_of(&snapshot).to_string().parse() {
            response.metadata_mut().insert(POSITION_HEADER, state);
        }
        Ok(response)
    }
}

/// The filters of the count and of the list have the same fields under two names.
fn same_filter(filter: count_entries_request::Filter) -> list_entries_request::Filter {
    list_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    }
}
