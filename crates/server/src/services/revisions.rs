//! `vouchsafe.server.v1.Revisions`: the streams of agents that listen.
//!
//! A stream is a state that is polled, not a task. Whenever it says something it asks again whether the agent may still
//! listen, so one that was banned hears it at once and one whose SVID has expired at its next heartbeat.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};
use tower_service::Service;
use vouchsafe_proto::convert::entry_to_proto;
use vouchsafe_proto::denial::{Reason, reason};
use vouchsafe_proto::revisions::{State, entries_digest};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::server::v1::{BundleRevision, WatchRequest, WatchResponse};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::grpc::Closing;
use vouchsafe_transport::tls::TlsPeer;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use self::codec::LeanCodec;
use super::calling_agent;
use crate::agents::Agents;
use crate::authorize::{Peer, Registry, WATCH, authorize};
use crate::model::{ReadModel, Snapshot};
use crate::revisions::concern::News;
use crate::revisions::{Listening, Revisions, Turn};

mod codec;

/// Shortest heartbeat that an agent gets.
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
/// Longest heartbeat that an agent gets.
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);
/// The heartbeat of an agent that has no wish.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Largest request.
const MAX_REQUEST: usize = 4 << 10;

/// What streams answer from.
pub(crate) struct RevisionsParts {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) revisions: Arc<Revisions>,
}

/// The service. Written by hand for its codec: the buffer that tonic gives each stream for as long as it lives is
/// larger than all that we keep of it.
#[derive(Clone)]
pub(crate) struct RevisionsService(pub(crate) Arc<RevisionsParts>);

impl NamedService for RevisionsService {
    const NAME: &'static str = "vouchsafe.server.v1.Revisions";
}

impl Service<http::Request<Body>> for RevisionsService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = WatchMethod(self.0.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(LeanCodec).max_decoding_message_size(MAX_REQUEST);
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

struct WatchMethod(Arc<RevisionsParts>);

impl ServerStreamingService<WatchRequest> for WatchMethod {
    type Response = WatchResponse;
    type ResponseStream = Watch;
    type Future = std::future::Ready<Result<Response<Watch>, Status>>;

    fn call(&mut self, request: Request<WatchRequest>) -> Self::Future {
        ready(Watch::open(self.0.clone(), &request).map(Response::new))
    }
}

/// One stream.
pub(crate) struct Watch {
    parts: Arc<RevisionsParts>,
    agent: SpiffeId,
    peer: Peer,
    mask: Option<types::EntryMask>,
    listening: Listening,
    sequence: u64,
    heartbeat: Duration,
    next_heartbeat: Instant,
    timer: Pin<Box<Sleep>>,
    closing: Option<Closed>,
    ended: bool,
}

struct Closed {
    closing: Closing,
    begun: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Watch {
    fn open(parts: Arc<RevisionsParts>, request: &Request<WatchRequest>) -> Result<Self, Status> {
        let agent = calling_agent(&*parts.agents, request)?;
        let svid = request.extensions().get::<TlsPeer>().and_then(|peer| peer.svid.clone());
        let message = request.get_ref();
        if message.output_mask.is_some_and(|mask| !mask.revision_number) {
            return Err(Status::invalid_argument("revision number cannot be masked"));
        }
        let heartbeat = match message.heartbeat_millis {
            0 => HEARTBEAT,
            millis => Duration::from_millis(millis.into()).clamp(MIN_HEARTBEAT, MAX_HEARTBEAT),
        };
        let closing = request.extensions().get::<Closing>().cloned();
        let next_heartbeat = Instant::now() + heartbeat;
        Ok(Self {
            peer: svid.map_or(Peer::Anonymous, Peer::Svid),
            mask: message.output_mask,
            listening: parts.revisions.listen(&agent),
            sequence: 0,
            heartbeat,
            next_heartbeat,
            timer: Box::pin(sleep_until(next_heartbeat)),
            closing: closing.map(|closing| Closed { begun: Box::pin(closing.clone().begun()), closing }),
            ended: false,
            agent: agent.id,
            parts,
        })
    }

    /// The next message, if there is one now.
    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<WatchResponse, Status>>> {
        if let Some(closed) = &mut self.closing
            && closed.begun.as_mut().poll(cx).is_ready()
        {
            let stops = closed.closing.server_stops();
            return Poll::Ready(stops.then(|| Err(Status::unavailable("the server is stopping"))));
        }
        loop {
            let now = Instant::now();
            let at = match self.listening.turn(now, cx.waker()) {
                Turn::Tell(news) => match self.tell(&news) {
                    Ok(None) => continue,
                    Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                    Err(status) => return Poll::Ready(Some(Err(status))),
                },
                Turn::Replaced => {
                    let text = "the agent has opened a newer stream";
                    return Poll::Ready(Some(Err(Status::aborted(text))));
                }
                Turn::Later(at) => at.min(self.next_heartbeat),
                Turn::Nothing => self.next_heartbeat,
            };
            if self.timer.deadline() != at {
                self.timer.as_mut().reset(at);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if at == self.next_heartbeat {
                self.next_heartbeat = now + self.heartbeat;
                let state = state_of(&self.parts.model.load());
                return Poll::Ready(Some(self.admitted().map(|_| self.number(state))));
            }
        }
    }

    /// The message for `news`; none when they are nothing to the agent.
    fn tell(&mut self, news: &News) -> Result<Option<WatchResponse>, Status> {
        let agent = self.admitted()?;
        if news.entries.is_empty() && news.bundles.is_empty() && !news.compare {
            return Ok(None);
        }
        let snapshot = self.parts.model.load();
        let now = self.parts.clock.unix_now();
        let first = self.sequence == 0;
        let mut message = self.number(state_of(&snapshot));
        let mut bundles = news.bundles.clone();
        if news.compare {
            let entries = snapshot.entries.authorized(&agent, now);
            message.entries_digest =
                entries_digest(entries.iter().map(|e| (e.id.as_str(), e.revision_number, e.created_at)))
                    .into();
            if first {
                message.heartbeat_millis = u32::try_from(self.heartbeat.as_millis()).unwrap_or(u32::MAX);
                bundles.insert(self.parts.trust_domain.clone());
                bundles.extend(entries.iter().flat_map(|entry| entry.federates_with.iter().cloned()));
            }
        }
        for id in &news.entries {
            match snapshot.entries.authorized_entry(&agent, id.as_str(), now) {
                Some(entry) => message.changed.push(entry_to_proto(entry, self.mask.as_ref())),
                None => message.removed.push(id.to_string()),
            }
        }
        message.bundles = bundles.iter().map(|name| self.bundle(&snapshot, name)).collect();
        self.parts.revisions.count();
        Ok(Some(message))
    }

    fn bundle(&self, snapshot: &Snapshot, name: &TrustDomain) -> BundleRevision {
        let held = snapshot.bundles.get(name);
        BundleRevision {
            trust_domain: name.as_str().to_owned(),
            revision: held.map(|held| self.parts.revisions.bundle_revision(held)).unwrap_or_default(),
        }
    }

    /// An empty message with the next number.
    fn number(&mut self, State { epoch, position }: State) -> WatchResponse {
        self.sequence += 1;
        WatchResponse { sequence: self.sequence, epoch, position, ..WatchResponse::default() }
    }

    /// Asks whether the agent may still listen.
    fn admitted(&self) -> Result<Agent, Status> {
        let now = self.parts.clock.unix_now();
        if let Err(denial) = authorize(WATCH, &self.peer, &*self.parts.agents, now) {
            // It may have been renewed: a new stream over a new connection shows which SVID is the agent's.
            return Err(match reason(&denial.status) {
                Some(Reason::AgentNotActive) => {
                    Status::unavailable("opened with an earlier SVID of the agent; open it again")
                }
                _ => denial.status,
            });
        }
        self.parts.agents.agent(&self.agent).ok_or_else(|| Status::not_found("agent not found"))
    }
}

/// Which state of the server `snapshot` is.
pub(super) fn state_of(snapshot: &Snapshot) -> State {
    State { epoch: snapshot.epoch(), position: snapshot.position().0 }
}

impl Stream for Watch {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = self.next(cx);
        self.ended = matches!(next, Poll::Ready(None | Some(Err(_))));
        next
    }
}
