//! `spire.api.server.agent.v1.Agent`.

mod attestation;
mod filters;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{error, info};
use uuid::Uuid;
use vouchsafe_ca::x509::csr::{VerifyProofOfPossession, parse_csr};
use vouchsafe_proto::convert::{agent_to_proto, spiffe_id_from_proto};
use vouchsafe_proto::denial::{Reason, denied};
use vouchsafe_proto::spire::api::server::agent::v1::agent_server::Agent as AgentApi;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, BanAgentRequest, CountAgentsRequest, CountAgentsResponse,
    CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, ListAgentsResponse,
    PostStatusRequest, PostStatusResponse, RenewAgentRequest, RenewAgentResponse,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::budget::KeyedBudgets;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::{Error as StoreError, Store};
use vouchsafe_transport::tls::TlsPeer;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::{Entry, EntryId, check_workload};
use vouchsafe_types::join_token::JoinToken;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use self::attestation::Applicant;
pub(crate) use self::attestation::attestation_budgets;
use self::filters::{agent_filter, same_filter};
use super::attest::stream::Conversation;
use super::attest::{self, NodeAttestors};
use super::svid::{sign_failed, x509_to_proto};
use super::{calling_agent, calling_agent_id};
use crate::agents::Agents;
use crate::audit::{Audit, agent_filter_fields};
use crate::authorize::Registry;
use crate::filter::AgentFilter;
use crate::ids::check_agent;
use crate::issuer::Issuer;
use crate::limits::processor::Urgency;
use crate::model::ReadModel;
use crate::page::Page;
use crate::status::{SOON, failed, invalid, store_failed, unavailable};

/// Longest version that an agent may report, in bytes.
pub(crate) const MAX_VERSION: usize = 255;

/// Agents: attestation, renewal, and what an operator does with them.
pub(crate) struct AgentService(pub(crate) Arc<AgentParts>);

impl std::ops::Deref for AgentService {
    type Target = AgentParts;

    fn deref(&self) -> &AgentParts {
        &self.0
    }
}

/// What [`AgentService`] is built on.
pub(crate) struct AgentParts {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) attestors: NodeAttestors,
    pub(crate) agents: Arc<Agents>,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) store: Arc<dyn Store>,
    /// How often one agent may prove itself anew; `None`: as often as it likes.
    pub(crate) again: Option<KeyedBudgets<SpiffeId>>,
}

impl AgentParts {
    fn agent_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        let id = spiffe_id_from_proto(id).map_err(|e| invalid("invalid agent ID", e))?;
        check_agent(&id, &self.trust_domain).map_err(|e| invalid("invalid agent ID", e))?;
        Ok(id)
    }

    /// What an operator does to an agent that attested a moment ago must find it in the database.
    async fn write_if_new(&self, id: &SpiffeId) -> Result<(), StoreError> {
        if self.model.load().agents.contains_key(id) {
            return Ok(());
        }
        self.agents.write_now(&*self.store, id).await
    }

    /// The agents after `after` that `filter` lets through, with what is not in the database yet.
    fn matching<'a>(
        &'a self,
        ids: impl Iterator<Item = SpiffeId> + 'a,
        filter: &'a AgentFilter,
    ) -> impl Iterator<Item = Agent> + 'a {
        ids.filter_map(|id| self.agents.agent(&id)).filter(|agent| filter.matches(agent))
    }
}

#[tonic::async_trait]
impl AgentApi for AgentService {
    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let audit = Audit::of(&request);
        let filter = request.into_inner().filter.map(same_filter);
        audit.add_all(|| filter.as_ref().map(agent_filter_fields).unwrap_or_default());
        let filter = agent_filter(filter)?;
        let snapshot = self.model.load();
        let ids = snapshot.agents.keys().cloned().chain(self.agents.new_ids());
        let count = self.matching(ids, &filter).count();
        Ok(Response::new(CountAgentsResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        use std::ops::Bound::{Excluded, Unbounded};
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add_all(|| request.filter.as_ref().map(agent_filter_fields).unwrap_or_default());
        let filter = agent_filter(request.filter)?;
        let page = Page::new(request.page_size, &request.page_token);
        let after =
            page.after.map(SpiffeId::parse).transpose().map_err(|e| invalid("malformed page token", e))?;
        let snapshot = self.model.load();
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        // Both are in order, and have nothing in common.
        let mut new =
            self.agents.new_ids().range(range.clone()).cloned().collect::<Vec<_>>().into_iter().peekable();
        let mut known = snapshot.agents.range(range).map(|(id, _)| id.clone()).peekable();
        let ids = std::iter::from_fn(|| match (known.peek(), new.peek()) {
            (Some(first), Some(second)) if second < first => new.next(),
            (None, _) => new.next(),
            _ => known.next(),
        });
        let found = self.matching(ids, &filter);
        let (agents, next_page_token) = page.cut(found, |agent| agent.id.to_string());
        let agents = agents.map(|agent| agent_to_proto(&agent, request.output_mask.as_ref())).collect();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<types::Agent>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let id = self.agent_id(request.id.as_ref())?;
        audit.add("spiffe_id", id.as_str());
        let agent = self.agents.agent(&id).ok_or_else(|| Status::not_found("agent not found"))?;
        Ok(Response::new(agent_to_proto(&agent, request.output_mask.as_ref())))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let audit = Audit::of(&request);
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        audit.add("spiffe_id", id.as_str());
        self.write_if_new(&id).await.map_err(|cause| store_failed("failed to remove agent", &cause))?;
        match self.store.delete_agent(&id).await {
            Ok((_, position)) => {
                self.agents.forget(&id).await;
                self.model.settled(position).await;
                info!(spiffe_id = %id, "Agent deleted");
                Ok(Response::new(()))
            }
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("agent not found")),
            Err(cause) => Err(store_failed("failed to remove agent", &cause)),
        }
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let audit = Audit::of(&request);
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        audit.add("spiffe_id", id.as_str());
        // A banned agent is one without serial numbers.
        let ban = |agent: &mut Agent| {
            agent.serial_number.clear();
            agent.new_serial_number.clear();
            Ok(())
        };
        self.write_if_new(&id).await.map_err(|cause| store_failed("failed to ban agent", &cause))?;
        match self.store.update_agent(&id, Box::new(ban)).await {
            Ok((_, position)) => {
                self.agents.forget(&id).await;
                self.model.settled(position).await;
                info!(spiffe_id = %id, "Agent banned");
                Ok(Response::new(()))
            }
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("agent not found")),
            Err(cause) => Err(store_failed("failed to ban agent", &cause)),
        }
    }

    type AttestAgentStream = Pin<Box<dyn Stream<Item = Result<AttestAgentResponse, Status>> + Send>>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let applicant = Applicant {
            turn: request.extensions().get().cloned(),
            address: request.extensions().get::<TlsPeer>().map(|peer| peer.address),
            audit: Audit::of(&request),
        };
        let parts = self.0.clone();
        let conversation = Conversation::begin(request.into_inner(), |mut exchange| async move {
            parts.attest(&applicant, &mut exchange).await
        });
        Ok(Response::new(Box::pin(conversation)))
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let agent = calling_agent(&*self.agents, &request)?;
        if agent.can_reattest {
            return Err(denied(Reason::AgentMustReattest, "agent must reattest instead of renew"));
        }
        let audit = Audit::of(&request);
        let urgency = Urgency::of(&request, 1);
        let params = request.into_inner().params;
        let params = params.ok_or_else(|| Status::invalid_argument("params cannot be nil"))?;
        audit.add_csr(&params.csr);
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        info!(spiffe_id = %agent.id, "Renewing agent SVID");
        let csr = parse_csr(&params.csr, VerifyProofOfPossession::No)
            .map_err(|e| invalid("failed to parse CSR", e))?;
        let entered = self.issuer.processor.enter(urgency).await?;
        let issued = self.issuer.agent_x509(&agent.id, &csr.public_key_der).await;
        drop(entered);
        let issued = issued.map_err(|e| sign_failed("failed to sign X509 SVID", &e))?;
        self.agents.renewed(&agent.id, issued.serial.clone(), issued.not_after).await.map_err(|cause| {
            error!(error = %cause, agent_id = %agent.id, "Cannot note the renewal of an agent");
            unavailable("failed to update agent", cause, SOON)
        })?;
        Ok(Response::new(RenewAgentResponse { svid: Some(x509_to_proto(&agent.id, issued)) }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        if request.ttl > 0 {
            audit.add("ttl", request.ttl);
        }
        if request.ttl < 1 {
            return Err(Status::invalid_argument("ttl is required, you must provide one"));
        }
        let trust_domain = &self.trust_domain;
        let alias = match &request.agent_id {
            None => None,
            Some(id) => {
                let id = spiffe_id_from_proto(Some(id)).map_err(|e| invalid("invalid agent ID", e))?;
                check_workload(&id, trust_domain).map_err(|e| invalid("invalid agent ID", e))?;
                audit.add("spiffe_id", id.as_str());
                Some(id)
            }
        };
        let value = if request.token.is_empty() { Uuid::new_v4().to_string() } else { request.token };
        let agent = attest::agent_id(trust_domain, &value)
            .map_err(|e| failed(Code::InvalidArgument, "token cannot be part of a SPIFFE ID", e))?;
        let expires_at = self.clock.unix_now() + i64::from(request.ttl);
        let token = JoinToken { value: value.clone().into(), expires_at };
        let alias = alias.map(|id| alias_entry(&agent, id)).transpose()?;
        let position = self.store.create_join_token(token, alias).await;
        let position = position.map_err(|cause| store_failed("failed to create token", &cause))?;
        self.model.settled(position).await;
        Ok(Response::new(types::JoinToken { value, expires_at }))
    }

    async fn post_status(
        &self,
        request: Request<PostStatusRequest>,
    ) -> Result<Response<PostStatusResponse>, Status> {
        let id = calling_agent_id(&request)?;
        let audit = Audit::of(&request);
        audit.add("spiffe_id", id.as_str());
        let version = request.into_inner().agent_version;
        if version.len() > MAX_VERSION {
            return Err(Status::invalid_argument("agent version is too long (max 255 characters)"));
        }
        if version.contains('\0') {
            return Err(Status::invalid_argument("agent version has a character that cannot be stored"));
        }
        if !version.is_empty() {
            audit.add("agent_version", version.as_str());
            self.agents.reported(&id, version);
        }
        Ok(Response::new(PostStatusResponse {}))
    }
}

/// The entry that lets the agent of a join token act as `alias` too. The store removes it with the agent.
fn alias_entry(agent: &SpiffeId, alias: SpiffeId) -> Result<Entry, Status> {
    let selector = Selector::new("spiffe_id", agent.as_str())
        .map_err(|e| failed(Code::InvalidArgument, "failed to create join token registration entry", e))?;
    let id = EntryId::parse(&Uuid::new_v4().to_string());
    let id = id.map_err(|e| failed(Code::Internal, "failed to create join token registration entry", e))?;
    Ok(Entry::new(id, alias, agent.clone(), SelectorSet::from_iter([selector])))
}
