//! Who may ask, the facts, and the message.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use vouchsafe_proto::vouchsafe::agent::v1 as proto;
use vouchsafe_proto::vouchsafe::agent::v1::explain_request::Subject;
use vouchsafe_runtime::budget::KeyedBudgets;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::{Selector, SelectorSet};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::causes::{AgentFacts, Finding, Severity};
use super::diagnosis::{About, Diagnosis, Facts, diagnose};
use super::near::Near;
use super::notes::Notes;
use super::subject::{in_our_pid_namespace, process_name, processes_of_pod};
use crate::callers::Caller;
use crate::denials::Denials;
use crate::server_client::ServerClient;
use crate::status::{AgentStatus, Phase};
use crate::workload_api::request::{Api, check_security_header};

/// Serves `vouchsafe.agent.v1.Explain`.
pub struct Explainer {
    parts: Parts,
    at_once: Semaphore,
    asks: KeyedBudgets<u32>,
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

/// How much a caller may know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sight {
    /// Everything.
    Everything,
    /// What concerns itself.
    Itself,
}

/// What of a caller decides how much it may know.
#[derive(Clone, Copy, Debug)]
struct Standing {
    uid: u32,
    agent_uid: u32,
    /// It is in the agent's PID namespace: root of a container is not root of the machine.
    same_machine: bool,
}

impl Sight {
    fn of(standing: Standing) -> Self {
        let privileged = standing.uid == 0 || standing.uid == standing.agent_uid;
        if privileged && standing.same_machine { Self::Everything } else { Self::Itself }
    }
}

impl Explainer {
    /// Over the agent's state.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let asks = KeyedBudgets::new(ASKS_PER_SEC, ASKS_AT_ONCE, MAX_USERS);
        Self { parts, at_once: Semaphore::new(MAX_AT_ONCE), asks }
    }

    async fn answer(
        &self,
        caller: &Caller,
        subject: Option<Subject>,
    ) -> Result<proto::ExplainResponse, Status> {
        let peer = &caller.peer;
        let standing = Standing {
            uid: peer.uid,
            agent_uid: nix::unistd::geteuid().as_raw(),
            // Read by number: it counts only if the number still is that process.
            same_machine: in_our_pid_namespace(peer.pid) && peer.still_same(),
        };
        let sight = Sight::of(standing);
        let abouts = match (subject, sight) {
            (None, _) => vec![self.examine(peer.clone()).await],
            (Some(Subject::Pid(pid)), _) if pid == peer.pid => vec![self.examine(peer.clone()).await],
            (Some(subject), Sight::Everything) => self.resolve(subject).await?,
            (Some(_), Sight::Itself) => {
                return Err(Status::permission_denied(
                    "only root and the agent's own user, on the agent's machine, may ask about anything but themselves",
                ));
            }
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
                let found =
                    tokio::task::spawn_blocking(move || processes_of_pod(Path::new("/proc"), &wanted)).await;
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
        let busy = |_| Status::resource_exhausted("the agent is explaining something already; try again");
        let _one_of_this_connection = caller
            .explaining
            .try_lock()
            .map_err(|_| Status::resource_exhausted("one explanation at a time for each connection"))?;
        let _one_of_all = self.at_once.try_acquire().map_err(busy)?;
        self.asks.try_take(&caller.peer.uid, 1).map_err(|wait| {
            Status::resource_exhausted(format!("rate limit exceeded, try again in {wait:?}"))
        })?;
        self.answer(&caller, request.into_inner().subject).await.map(Response::new)
    }
}

fn parse(texts: &[String]) -> Result<SelectorSet, Status> {
    if texts.is_empty() || texts.len() > MAX_SELECTORS {
        return Err(Status::invalid_argument(format!("1 to {MAX_SELECTORS} selectors make a process")));
    }
    let parsed = texts.iter().map(|text| Selector::parse(text)).collect::<Result<_, _>>();
    parsed.map_err(|error| Status::invalid_argument(format!("selectors look like unix:uid:1000: {error}")))
}

fn explanation(diagnosis: Diagnosis, sight: Sight) -> proto::Explanation {
    let well = diagnosis.is_well();
    let identities = diagnosis.identities.iter().map(|(slot, svid)| {
        let life = svid.as_ref().map(|svid| svid.lifetime);
        proto::Identity {
            spiffe_id: slot.entry.spiffe_id.to_string(),
            entry_id: slot.entry.id.to_string(),
            not_before: life.map_or(0, |life| life.not_before),
            expires_at: life.map_or(0, |life| life.not_after),
            selectors: shown(&slot.entry.selectors),
        }
    });
    let attestors = diagnosis.attestors.iter().map(|(name, outcome)| proto::Attestor {
        name: (*name).to_owned(),
        found: outcome.as_ref().map_or(0, |found| u32::try_from(*found).unwrap_or(u32::MAX)),
        error: match (outcome, sight) {
            (Ok(_), _) => String::new(),
            (Err(error), Sight::Everything) => error.clone(),
            (Err(_), Sight::Itself) => "it failed".to_owned(),
        },
    });
    let near = match sight {
        Sight::Everything => diagnosis.near.iter().map(near_entry).collect(),
        Sight::Itself => Vec::new(),
    };
    proto::Explanation {
        subject: diagnosis.subject.clone(),
        well,
        identities: identities.collect(),
        selectors: shown(&diagnosis.selectors),
        attestors: attestors.collect(),
        near,
        findings: diagnosis.findings.iter().map(|found| finding(found, sight)).collect(),
    }
}

fn finding(finding: &Finding, sight: Sight) -> proto::Finding {
    let severity = match finding.severity {
        Severity::Good => proto::finding::Severity::Good,
        Severity::Notice => proto::finding::Severity::Notice,
        Severity::Problem => proto::finding::Severity::Problem,
    };
    let (text, next_step) = match (sight, finding.severity) {
        (Sight::Everything, _) if finding.detail.is_empty() => (finding.text.clone(), finding.next.clone()),
        (Sight::Everything, _) => (format!("{}: {}", finding.text, finding.detail), finding.next.clone()),
        (Sight::Itself, Severity::Good) => (finding.text.clone(), String::new()),
        // Next steps name entries of others.
        (Sight::Itself, _) => (
            finding.text.clone(),
            "as root on the agent's machine, `vouchsafe explain -pid <number>` says more".to_owned(),
        ),
    };
    proto::Finding { code: finding.code.to_owned(), severity: severity.into(), text, next_step }
}

fn near_entry(near: &Near) -> proto::NearEntry {
    let differences = near.missing.iter().map(|difference| proto::Difference {
        wanted: difference.wanted.to_string(),
        instead: difference.instead.iter().map(ToString::to_string).collect(),
    });
    proto::NearEntry {
        spiffe_id: near.slot.entry.spiffe_id.to_string(),
        entry_id: near.slot.entry.id.to_string(),
        differences: differences.collect(),
    }
}

fn agent_state(agent: &AgentFacts) -> proto::AgentState {
    let status = &agent.status;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let last = status.last_sync.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let servers = agent.servers.iter().map(|server| proto::Server {
        address: server.server.clone(),
        score: server.score,
        in_use: server.in_use,
    });
    let phase = match status.phase {
        Phase::Attesting => "attesting",
        Phase::Synchronizing => "synchronizing",
        Phase::Serving => "serving",
        Phase::Refused => "refused",
    };
    proto::AgentState {
        phase: phase.to_owned(),
        spiffe_id: status.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        svid_expires_at: status.svid_expires_at.unwrap_or(0),
        last_sync: last.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX)),
        sync_error: status.sync_error.clone().unwrap_or_default(),
        entries: count(status.entries),
        x509_svids: count(status.x509_svids),
        server_clock_ahead_secs: agent.server_clock_ahead,
        servers: servers.collect(),
    }
}

fn shown(selectors: &SelectorSet) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}

/// Its one method, for counting.
pub const EXPLAIN: &str = "/vouchsafe.agent.v1.Explain/Explain";

/// Explanations at one time. One costs an attestation and a look at every entry.
pub const MAX_AT_ONCE: usize = 4;

/// Explanations per second and user,
pub const ASKS_PER_SEC: f64 = 10.0;

/// and how many at once.
const ASKS_AT_ONCE: u32 = 20;

/// Users that are counted one by one; further ones share one budget.
const MAX_USERS: usize = 256;

/// Selectors of a process that is made up.
const MAX_SELECTORS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_user_see_everything_unless_they_are_those_of_a_container() {
        let sight = |uid, same_machine| Sight::of(Standing { uid, agent_uid: 990, same_machine });
        assert_eq!([sight(0, true), sight(990, true)], [Sight::Everything; 2]);
        assert_eq!([sight(0, false), sight(990, false), sight(1000, true)], [Sight::Itself; 3]);
    }
}
