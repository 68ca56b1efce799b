//! What stands in front of every service: finds out who calls, asks [`authorize`], lets the call wait for its turn, and
//! hands it on with its [`Caller`](crate::authorize::Caller), its [`Turn`] and its [`Audit`], or answers in its place.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{debug, warn};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::listener::PeerKey;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_transport::tls::TlsPeer;

use crate::agents::Agents;
use crate::audit::{Audit, Audited};
use crate::authorize::{Caller, Denial, Peer, authorize};
use crate::contacts::Contacts;
use crate::limits::{Limits, Turn};

/// Puts authorization, limits and audit in front of a service.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) agents: Arc<Agents>,
    pub(crate) clock: Clock,
    pub(crate) limits: Arc<Limits>,
    pub(crate) contacts: Arc<Contacts>,
    /// Whether calls are written to the audit log.
    pub(crate) audit: bool,
}

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

type Answer<E> = Result<http::Response<Body>, E>;
type Later<E> = Pin<Box<dyn Future<Output = Answer<E>> + Send>>;

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Either<Later<S::Error>, Ready<Answer<S::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = peer_of(request.extensions());
        let method = request.uri().path();
        let caller = match authorize(method, &peer, &*self.guard.agents, self.guard.clock.unix_now()) {
            Ok(caller) => caller,
            Err(denial) => {
                tell(method, &peer, &denial);
                return Either::Right(Either::Right(ready(Ok(denial.status.into_http()))));
            }
        };
        if let Caller::Agent(id) = &caller {
            self.guard.contacts.heard_of(id);
        }
        let waits = self.guard.limits.takes_a_turn(method).then(|| method.to_owned());
        let audit = self.guard.audit.then(|| Audit::begin(&request, &caller, self.guard.via(&caller)));
        let turn = Turn { limits: self.guard.limits.clone(), address: address_of(request.extensions()) };
        let extensions = request.extensions_mut();
        extensions.insert(caller);
        extensions.insert(turn.clone());
        let Some(audit) = audit else {
            // Nearly every call goes this way.
            let Some(method) = waits else { return Either::Left(self.inner.call(request)) };
            let mut inner = self.ready_one();
            return Either::Right(Either::Left(Box::pin(async move {
                match turn.take(&method, 1).await {
                    Ok(()) => inner.call(request).await,
                    Err(status) => Ok(status.into_http()),
                }
            })));
        };
        request.extensions_mut().insert(audit.clone());
        let mut inner = self.ready_one();
        Either::Right(Either::Left(Box::pin(async move {
            let answer = match waits {
                Some(method) => match turn.take(&method, 1).await {
                    Ok(()) => inner.call(request).await?,
                    Err(status) => status.into_http(),
                },
                None => inner.call(request).await?,
            };
            Ok(Audited::response(answer, audit))
        })))
    }
}

impl<S: Clone> Guarded<S> {
    /// The service that was polled ready; a clone takes its place.
    fn ready_one(&mut self) -> S {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }
}

impl Guard {
    /// By what means a caller was allowed, in the words of SPIRE.
    fn via(&self, caller: &Caller) -> &'static str {
        match caller {
            Caller::Anyone => "",
            Caller::Local => "transport",
            Caller::Admin(id) if self.agents.is_configured_admin(id) => "config",
            Caller::Admin(_) | Caller::Downstream(_) => "entries",
            Caller::Agent(_) => "datastore",
        }
    }
}

fn tell(method: &str, peer: &Peer, denial: &Denial) {
    let reason = denial.detail.as_str();
    match peer {
        // Anybody can cause these, as many as they like.
        Peer::Anonymous => debug!(method, caller = %peer, reason, "Failed to authenticate caller"),
        _ => warn!(method, caller = %peer, reason, "Failed to authenticate caller"),
    }
}

fn peer_of(extensions: &http::Extensions) -> Peer {
    if extensions.get::<PeerProcess>().is_some() {
        return Peer::Local;
    }
    let svid = extensions.get::<TlsPeer>().and_then(|peer| peer.svid.clone());
    svid.map_or(Peer::Anonymous, Peer::Svid)
}

fn address_of(extensions: &http::Extensions) -> Option<PeerKey> {
    extensions.get::<TlsPeer>().map(|peer| PeerKey::address(peer.address.ip()))
}
