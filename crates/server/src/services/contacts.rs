//! `vouchsafe.server.v1.Contacts`: which agents are in contact with this server.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use tonic::{Request, Response, Status};
use vouchsafe_proto::vouchsafe::server::v1::contacts_server::Contacts as ContactsApi;
use vouchsafe_proto::vouchsafe::server::v1::{Contact, ListContactsRequest, ListContactsResponse};
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::contacts::AgentContacts;
use crate::page::Page;
use crate::status::invalid;

/// Tells administrators who is there.
pub(crate) struct ContactsService(pub(crate) Arc<AgentContacts>);

#[tonic::async_trait]
impl ContactsApi for ContactsService {
    async fn list_contacts(
        &self,
        request: Request<ListContactsRequest>,
    ) -> Result<Response<ListContactsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::new(request.page_size, &request.page_token);
        let after =
            page.after.map(SpiffeId::parse).transpose().map_err(|e| invalid("malformed page token", e))?;
        let snapshot = self.0.model.load();
        let agents = snapshot.agents.range((after.map_or(Unbounded, Excluded), Unbounded));
        let contacts = agents
            .filter(|(_, agent)| !agent.is_banned())
            .map(|(id, _)| self.contact(id))
            .filter(|contact| !(request.only_disconnected && contact.connected));
        let (contacts, next_page_token) = page.cut(contacts, |contact| contact.spiffe_id.clone());
        Ok(Response::new(ListContactsResponse { contacts: contacts.collect(), next_page_token }))
    }
}

impl ContactsService {
    fn contact(&self, id: &SpiffeId) -> Contact {
        let listens = self.0.revisions.listens(id);
        let last_heard = self.0.contacts.last_heard(id);
        let connected = listens || last_heard.is_some_and(|at| self.0.contacts.is_recent(at));
        Contact { spiffe_id: id.to_string(), connected, listens, last_heard: last_heard.unwrap_or(0) }
    }
}
