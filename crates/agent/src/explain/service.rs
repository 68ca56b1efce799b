//! Answers: the facts, and what follows from them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use vouchsafe_proto::vouchsafe::agent::v1 as proto;
use vouchsafe_proto::vouchsafe::agent::v1::explain_request::Subject;
use vouchsafe_runtime::blocking;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::causes::AgentFacts;
use super::diagnosis::{About, Facts, diagnose};
use super::message::{agent_state, explanation};
use super::notes::Notes;
use super::sight::{Sight, Standing, Turns};
use super::subject::{process_name, processes_of_pod};
use crate::callers::Caller;
use crate::denials::Denials;
use crate::server_client::ServerClient;
use crate::status::AgentStatus;
use crate::workload_api::request::{Api, check_security_header};

/// Serves `vouchsafe.agent.v1.Explain`.
pub struct Explainer {
    parts: Parts,
    turns: Turns,
}

/// What explanations are made from.
#[derive(Debug)]
pub struct Parts {
    /// Entries, SVIDs, attestors, limits, time.
    pub api: Arc<Api>,
    /// What went wrong lately.
    pub notes: Notes,
    /// What the agent says about itself.
    pub status: watch::Receiver<AgentStatus>,
    /// What the server denies it.
    pub denials: Denials,
    /// Knows whether the server is the right one.
    pub client: Arc<ServerClient>,
    /// The server, or servers, as `host:port`.
    pub server: String,
    /// How many SVIDs the agent keeps.
    pub svid_limit: usize,
}

impl fmt::Debug for Explainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer").finish_non_exhaustive()
    }
}

impl Explainer {
    /// Over the agent's state.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, turns: Turns::default() }
    }

    async fn answer(
        &self,
        peer: &PeerProcess,
        subject: Option<Subject>,
        standing: Standing,
    ) -> Result<proto::ExplainResponse, Status> {
        let sight = standing.sight();
        let abouts = match (subject, sight) {
            (None, _) => vec![self.examine(peer.clone()).await],
            (Some(Subject::Pid(pid)), _) if pid == peer.pid => vec![self.examine(peer.clone()).await],
            (Some(subject), Sight::Everything) => self.resolve(subject).await?,
            (Some(_), Sight::Itself) => return Err(Status::permission_denied(standing.refusal())),
        };
        let agent = self.agent_facts();
        let api = &self.parts.api;
        let snapshot = api.identities.load();
        let facts = Facts {
            now: api.clock.unix_now(),
            instant: Instant::now(),
            snapshot: &snapshot,
            agent: &agent,
            notes: &self.parts.notes,
            limits: &api.limits,
            svid_limit: self.parts.svid_limit,
        };
        let explanations =
            abouts.into_iter().map(|about| explanation(diagnose(&facts, about), sight)).collect();
        let agent = (sight == Sight::Everything).then(|| agent_state(&agent));
        Ok(proto::ExplainResponse { explanations, agent })
    }

    async fn resolve(&self, subject: Subject) -> Result<Vec<About>, Status> {
        Ok(match subject {
            Subject::Pid(pid) => vec![self.of_pid(pid).await],
            Subject::SpiffeId(id) => {
                vec![About::Id(SpiffeId::parse(&id).map_err(|error| {
                    Status::invalid_argument(format!("{id:?} is not a SPIFFE ID: {error}"))
                })?)]
            }
            Subject::Selectors(selectors) => vec![About::Selectors(parse(&selectors.selectors)?)],
            Subject::PodUid(uid) => {
                let wanted = uid.clone();
                let found = blocking::run(move || processes_of_pod(Path::new("/proc"), &wanted)).await;
                let found = found
                    .map_err(|error| Status::internal(error.to_string()))?
                    .map_err(Status::invalid_argument)?;
                if found.is_empty() {
                    return Ok(vec![About::NoPod(uid)]);
                }
                futures_util::future::join_all(found.into_iter().map(|pid| self.of_pid(pid))).await
            }
        })
    }

    async fn of_pid(&self, pid: i32) -> About {
        match PeerProcess::of_pid(pid) {
            Ok(process) => self.examine(process).await,
            Err(_) => About::NoProcess(pid),
        }
    }

    async fn examine(&self, process: PeerProcess) -> About {
        let examined = self.parts.api.attestors.examine(&process).await;
        About::Process { pid: process.pid, name: process_name(process.pid), examined }
    }

    fn agent_facts(&self) -> AgentFacts {
        let parts = &self.parts;
        let issued = parts.api.identities.load();
        let newest =
            issued.svids.values().map(|svid| svid.lifetime).max_by_key(|lifetime| lifetime.received_at);
        let by_svids =
            newest.map(|lifetime| super::notes::clock_ahead(lifetime.not_before, lifetime.received_at));
        AgentFacts {
            status: parts.status.borrow().clone(),
            server: parts.server.clone(),
            servers: parts.client.pool().snapshot(),
            denial: parts.denials.latest(),
            server_is_unknown: parts.client.server_is_unknown(),
            sync: parts.notes.sync_failure(),
            node: parts.notes.node_failure(),
            server_clock_ahead: by_svids.or_else(|| parts.notes.server_clock_ahead()),
        }
    }
}

#[tonic::async_trait]
impl proto::explain_server::Explain for Explainer {
    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainResponse>, Status> {
        check_security_header(request.metadata())?;
        let caller = request
            .extensions()
            .get::<Arc<Caller>>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection does not say which process it belongs to"))?;
        let _one_of_this_connection = caller
            .explaining
            .try_lock()
            .map_err(|_| Status::resource_exhausted("one explanation at a time for each connection"))?;
        let peer = &caller.peer;
        let standing = Standing::of(peer);
        let turn = self.turns.take(peer.uid, standing.sight());
        let _turn = turn.map_err(|not_now| Status::resource_exhausted(not_now.to_string()))?;
        self.answer(peer, request.into_inner().subject, standing).await.map(Response::new)
    }
}

fn parse(texts: &[String]) -> Result<SelectorSet, Status> {
    if texts.is_empty() || texts.len() > MAX_SELECTORS {
        return Err(Status::invalid_argument(format!("1 to {MAX_SELECTORS} selectors make a process")));
    }
    let parsed = texts.iter().map(|text| Selector::parse(text)).collect::<Result<_, _>>();
    parsed.map_err(|error| Status::invalid_argument(format!("selectors look like unix:uid:1000: {error}")))
}

/// Its one method, for counting.
pub const EXPLAIN: &str = "/vouchsafe.agent.v1.Explain/Explain";

/// Selectors of a process that is made up.
const MAX_SELECTORS: usize = 256;
