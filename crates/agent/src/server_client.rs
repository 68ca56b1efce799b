//! Calls to the server.
//!
//! One connection carries everything. Its handshake presents the agent's SVID as it is at that moment, so a renewed
//! SVID asks for a new connection ([`ServerClient::reconnect`]); calls that run on the old one end there. A call that
//! gets no answer in [`RPC_DEADLINE`] fails, and the next one connects anew: the host may have moved.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_identity::config::{Expect, KeyExchange, ServerTrust, client_config_with};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_identity::verify::VerifyError;
use vouchsafe_proto::convert::bundle_from_proto;
use vouchsafe_proto::spire::api::server::agent::v1 as agent_api;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle_api;
use vouchsafe_proto::spire::api::server::svid::v1 as svid_api;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::connect::tls_channel;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::entries::EntryIndex;
use crate::sync::Outcome;

mod attestation;
mod entry_stream;

pub use attestation::MAX_CHALLENGES;

/// Speaks with the server.
pub struct ServerClient {
    address: String,
    trust_domain: TrustDomain,
    clock: Clock,
    own: SvidCell,
    roots: RootsCell,
    channel: Mutex<Option<Channel>>,
    entropy: Mutex<Entropy>,
    unknown: AtomicBool,
    key_exchange: KeyExchange,
}

impl fmt::Debug for ServerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerClient").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Whom a connection is for.
#[derive(Clone, Debug)]
pub enum Anonymous {
    /// The server must prove by these that it is the trust domain's.
    Verified(RootsCell),
    /// Whoever answers is believed.
    Insecure,
}

impl ServerClient {
    /// For the server of `trust_domain` at `address` (`host:port`). Connects at the first call.
    #[must_use]
    pub fn new(
        (address, trust_domain): (String, TrustDomain),
        (own, roots): (SvidCell, RootsCell),
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let (channel, entropy) = (Mutex::new(None), Mutex::new(entropy));
        let unknown = AtomicBool::new(false);
        let key_exchange = KeyExchange::Any;
        Self { address, trust_domain, clock, own, roots, channel, entropy, unknown, key_exchange }
    }

    /// The same, with the key exchange that the operator requires.
    #[must_use]
    pub fn with_key_exchange(self, key_exchange: KeyExchange) -> Self {
        Self { key_exchange, ..self }
    }

    /// Whether whoever answered last is signed by nobody that we know: the bundle is of another server, or somebody is
    /// between it and us.
    #[must_use]
    pub fn server_is_unknown(&self) -> bool {
        self.unknown.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn set_server_is_unknown(&self, unknown: bool) {
        self.unknown.store(unknown, Ordering::Relaxed);
    }

    /// A random place in a retry's step, on `[0, 1)`.
    #[must_use]
    pub fn jitter(&self) -> f64 {
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner).fraction()
    }

    /// The next call connects anew.
    pub fn reconnect(&self) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A connection of its own, without the agent's SVID.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` when the address is not `host:port`.
    pub fn anonymous(&self, who: Anonymous) -> Result<Channel, Status> {
        let trust = match who {
            Anonymous::Verified(roots) => {
                ServerTrust::Verified(roots, Expect::Id(SpiffeId::server(&self.trust_domain)))
            }
            Anonymous::Insecure => ServerTrust::InsecureBootstrap(SpiffeId::server(&self.trust_domain)),
        };
        self.connect(trust, None)
    }

    fn verified(&self) -> ServerTrust {
        ServerTrust::Verified(self.roots.clone(), Expect::Id(SpiffeId::server(&self.trust_domain)))
    }

    fn connect(&self, trust: ServerTrust, own: Option<&SvidCell>) -> Result<Channel, Status> {
        let config = client_config_with(self.key_exchange, trust, own, self.clock.clone())
            .map_err(|error| Status::internal(error.to_string()))?;
        tls_channel(&self.address, Arc::new(config))
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn channel(&self) -> Result<Channel, Status> {
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = held.as_ref() {
            return Ok(channel.clone());
        }
        let channel = self.connect(self.verified(), Some(&self.own))?;
        *held = Some(channel.clone());
        Ok(channel)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let outcome = timeout(RPC_DEADLINE, call).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!(
                "no answer from the server within {} s",
                RPC_DEADLINE.as_secs()
            )))
        });
        if let Err(status) = &outcome
            && (is_broken_connection(status)
                || matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded))
        {
            self.reconnect();
        }
        self.note_server(outcome.as_ref().err());
        outcome.map_err(with_causes)
    }

    /// Remembers whether the server is the one that we know. A connection that fails in another way says nothing.
    fn note_server(&self, failure: Option<&Status>) {
        let unknown = match failure.map(|status| (status, VerifyError::behind(status))) {
            None => false,
            Some((_, Some(VerifyError::UnknownAuthority { .. }))) => true,
            Some((_, Some(_))) => return,
            Some((status, None)) if status.code() == Code::DeadlineExceeded => return,
            // A status that came from the server has no cause of its own.
            Some((status, None)) if std::error::Error::source(status).is_some() => return,
            Some((_, None)) => false,
        };
        self.unknown.store(unknown, Ordering::Relaxed);
    }

    /// The trust domain's bundle, over `channel`.
    ///
    /// # Errors
    ///
    /// The server's status; `Internal` for a bundle that cannot be used.
    pub async fn bundle_over(&self, channel: Channel) -> Result<Bundle, Status> {
        let call = async {
            let mut client = bundle_client(channel);
            client.get_bundle(bundle_api::GetBundleRequest { output_mask: None }).await
        };
        let bundle = read_bundle(self.call(call).await?.get_ref())?;
        if bundle.trust_domain != self.trust_domain {
            return Err(Status::internal(format!("the server sent the bundle of {}", bundle.trust_domain)));
        }
        if bundle.x509_authorities.is_empty() {
            return Err(Status::internal("the server sent a bundle without X.509 authorities"));
        }
        Ok(bundle)
    }

    /// The trust domain's bundle.
    ///
    /// # Errors
    ///
    /// As [`ServerClient::bundle_over`].
    pub async fn bundle(&self) -> Result<Bundle, Status> {
        self.bundle_over(self.channel()?).await
    }

    /// The bundles of other trust domains: what the server has of them, each with its own outcome.
    pub async fn federated_bundles(
        &self,
        names: Vec<TrustDomain>,
    ) -> Vec<(TrustDomain, Result<Bundle, Status>)> {
        let fetch = |name: TrustDomain| async move {
            let call = async {
                let mut client = bundle_client(self.channel()?);
                let request = bundle_api::GetFederatedBundleRequest {
                    trust_domain: name.as_str().to_owned(),
                    output_mask: None,
                };
                client.get_federated_bundle(request).await
            };
            let bundle = self.call(call).await.and_then(|response| read_bundle(response.get_ref()));
            (name, bundle)
        };
        stream::iter(names).map(fetch).buffer_unordered(MAX_PARALLEL_BUNDLES).collect().await
    }

    /// A new SVID for the agent itself.
    ///
    /// # Errors
    ///
    /// The server's status.
    pub async fn renew_agent(&self, csr: Vec<u8>) -> Result<types::X509svid, Status> {
        let call = async {
            let mut client = agent_api::agent_client::AgentClient::new(self.channel()?);
            let params = Some(agent_api::AgentX509svidParams { csr: csr.into() });
            client.renew_agent(agent_api::RenewAgentRequest { params }).await
        };
        let response = self.call(call).await?.into_inner();
        response.svid.ok_or_else(|| Status::internal("renew response is missing SVID"))
    }

    /// Tells the server which version runs here.
    ///
    /// # Errors
    ///
    /// The server's status.
    pub async fn post_status(&self, version: &str) -> Result<(), Status> {
        let call = async {
            let mut client = agent_api::agent_client::AgentClient::new(self.channel()?);
            let request =
                agent_api::PostStatusRequest { current_bundle_serial: 0, agent_version: version.to_owned() };
            client.post_status(request).await
        };
        self.call(call).await.map(drop)
    }

    /// The entries of this agent, as a difference to `held`.
    ///
    /// # Errors
    ///
    /// The server's status; `Internal` when it does not keep to the protocol.
    pub async fn sync_entries(&self, held: &EntryIndex) -> Result<Outcome, Status> {
        self.call(async { entry_stream::fetch(self.channel()?, held).await }).await
    }

    /// X.509-SVIDs for (entry, request), in order.
    ///
    /// # Errors
    ///
    /// The server's status for the whole call.
    pub async fn new_x509_svids(
        &self,
        asks: Vec<(String, Vec<u8>)>,
    ) -> Result<Vec<Result<types::X509svid, Status>>, Status> {
        let count = asks.len();
        let call = async {
            let params = asks
                .into_iter()
                .map(|(entry_id, csr)| svid_api::NewX509svidParams { entry_id, csr: Bytes::from(csr) })
                .collect();
            let mut client = svid_api::svid_client::SvidClient::new(self.channel()?)
                .max_decoding_message_size(MAX_MESSAGE);
            client.batch_new_x509svid(svid_api::BatchNewX509svidRequest { params }).await
        };
        let results = self.call(call).await?.into_inner().results;
        if results.len() != count {
            return Err(Status::internal(format!(
                "the server answered {} of {count} requests",
                results.len()
            )));
        }
        Ok(results.into_iter().map(read_result).collect())
    }

    /// A JWT-SVID.
    ///
    /// # Errors
    ///
    /// The server's status.
    pub async fn new_jwt_svid(&self, entry_id: &str, audience: &[String]) -> Result<types::Jwtsvid, Status> {
        let call = async {
            let mut client = svid_api::svid_client::SvidClient::new(self.channel()?);
            let request =
                svid_api::NewJwtsvidRequest { entry_id: entry_id.to_owned(), audience: audience.to_vec() };
            client.new_jwtsvid(request).await
        };
        let response = self.call(call).await?.into_inner();
        response.svid.ok_or_else(|| Status::internal("JWTSVID response missing SVID"))
    }
}

fn bundle_client(channel: Channel) -> bundle_api::bundle_client::BundleClient<Channel> {
    bundle_api::bundle_client::BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}

fn read_bundle(message: &types::Bundle) -> Result<Bundle, Status> {
    bundle_from_proto(message)
        .map_err(|error| Status::internal(format!("malformed bundle from the server: {error}")))
}

fn read_result(result: svid_api::batch_new_x509svid_response::Result) -> Result<types::X509svid, Status> {
    let status = result.status.unwrap_or_default();
    match Code::from(status.code) {
        Code::Ok => result.svid.ok_or_else(|| Status::internal("missing SVID")),
        code => Err(Status::new(code, status.message)),
    }
}

/// tonic calls some broken connections `Unknown` or `Cancelled`; with a cause of its own no status came from the server.
fn is_broken_connection(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
        && std::error::Error::source(status).is_some()
}

/// tonic keeps the reason of a failed connection in the error's causes, and its text says only "transport error".
fn with_causes(status: Status) -> Status {
    if let Some(refused) = VerifyError::behind(&status) {
        return Status::unavailable(format!("the server's certificate is refused: {refused}"));
    }
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(&status);
    if cause.is_none() {
        return status;
    }
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    let code = if is_broken_connection(&status) { Code::Unavailable } else { status.code() };
    Status::new(code, text)
}

/// A status as one line for logs and for operators.
#[must_use]
pub fn shown(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// How long the agent waits between attempts: short at first, never long, never in step with other agents.
#[must_use]
pub fn retry_backoff() -> Backoff {
    #[expect(clippy::expect_used, reason = "the two constants are a range")]
    Backoff::new(RETRY_MIN, RETRY_MAX).expect("a range")
}

/// How long one call may take.
pub const RPC_DEADLINE: Duration = Duration::from_secs(30);

/// Step of the first retry.
pub const RETRY_MIN: Duration = Duration::from_secs(1);

/// Longest time between attempts.
pub const RETRY_MAX: Duration = Duration::from_secs(30);

/// Largest message that is accepted from the server; a page of entries is the largest there is.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Federated bundles that are fetched at one time.
const MAX_PARALLEL_BUNDLES: usize = 10;
