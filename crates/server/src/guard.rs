//! Authorization in front of every service: finds out who calls, asks [`authorize`], and lets the call through with its
//! [`Caller`](crate::authorize::Caller) or answers in its place.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{debug, warn};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_transport::tls::TlsPeer;

use crate::agents::Agents;
use crate::authorize::{Peer, authorize};

/// Puts the authorization in front of a service.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) agents: Arc<Agents>,
    pub(crate) clock: Clock,
}

/// A service behind the authorization.
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

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let peer = peer_of(request.extensions());
        let method = request.uri().path();
        match authorize(method, &peer, &*self.guard.agents, self.guard.clock.unix_now()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(denial) => {
                let reason = denial.detail;
                match peer {
                    // Anybody can cause these, as many as they like.
                    Peer::Anonymous => {
                        debug!(method, caller = %peer, reason, "Failed to authenticate caller")
                    }
                    _ => warn!(method, caller = %peer, reason, "Failed to authenticate caller"),
                }
                Either::Right(ready(Ok(denial.status.into_http())))
            }
        }
    }
}

fn peer_of(extensions: &http::Extensions) -> Peer {
    if extensions.get::<PeerProcess>().is_some() {
        return Peer::Local;
    }
    let svid = extensions.get::<TlsPeer>().and_then(|peer| peer.svid.clone());
    svid.map_or(Peer::Anonymous, Peer::Svid)
}
