//! Calls to the servers.
//!
//! A call goes to the server in use ([`crate::servers`]) over one connection that all calls share. Its handshake presents
//! the agent's SVID as it is at that moment, so a renewed SVID asks for a new connection ([`ServerClient::reconnect`]);
//! calls that run on the old one end there. How calls move from server to server is in `errand`, how long to wait before the
//! next one in `retry`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use vouchsafe_identity::config::{Expect, KeyExchange, ServerTrust};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_identity::verify::VerifyError;
use vouchsafe_proto::convert::bundle_from_proto;
use vouchsafe_proto::spire::api::server::agent::v1 as agent_api;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle_api;
use vouchsafe_proto::spire::api::server::svid::v1 as svid_api;
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::net::Network;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::entries::EntryIndex;
use crate::metrics::Metrics;
use crate::servers::{self, Kind, Pool};
use crate::sync::Outcome;
use errand::Errand;

mod attestation;
mod entry_stream;
mod errand;
pub mod hint;
mod retry;
mod revisions;

pub use attestation::MAX_CHALLENGES;
pub use errand::{Line, MAX_ATTEMPTS, PATIENCE, RPC_DEADLINE};
pub use retry::{LOOK_AGAIN, RETRY_MAX, RETRY_MIN, look_again, retry_backoff};

/// Speaks with the servers.
pub struct ServerClient {
    pool: Arc<Pool>,
    trust_domain: TrustDomain,
    own: SvidCell,
    roots: RootsCell,
    entropy: Mutex<Entropy>,
    key_exchange: KeyExchange,
}

impl fmt::Debug for ServerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = &self.pool.settings().addresses;
        f.debug_struct("ServerClient").field("servers", servers).finish_non_exhaustive()
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
    /// For the server of `trust_domain` at `address` (`host:port`), each address that it stands for being one. Connects at
    /// the first call.
    #[must_use]
    pub fn new(
        (address, trust_domain): (String, TrustDomain),
        (own, roots): (SvidCell, RootsCell),
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        let settings = servers::Settings {
            addresses: vec![address],
            own: own.clone(),
            instance: entropy.seed().to_string(),
            clock,
            network: Network::default(),
            metrics: None,
        };
        let (pool, entropy) = (Arc::new(Pool::new(settings)), Mutex::new(entropy));
        Self { pool, trust_domain, own, roots, entropy, key_exchange: KeyExchange::Any }
    }

    /// The same, with the key exchange that the operator requires.
    #[must_use]
    pub fn with_key_exchange(self, key_exchange: KeyExchange) -> Self {
        Self { key_exchange, ..self }
    }

    /// The same, on `network`.
    #[must_use]
    pub fn with_network(self, network: Network) -> Self {
        self.with_pool(|settings| settings.network = network)
    }

    /// The same, with further servers, each `host:port`.
    #[must_use]
    pub fn with_servers(self, addresses: &[String]) -> Self {
        self.with_pool(|settings| settings.addresses.extend_from_slice(addresses))
    }

    /// The same, counting calls by server.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        let this = self.with_pool(|settings| settings.metrics = Some(metrics));
        this.pool.report();
        this
    }

    fn with_pool(self, change: impl FnOnce(&mut servers::Settings)) -> Self {
        let mut settings = self.pool.settings().clone();
        change(&mut settings);
        Self { pool: Arc::new(Pool::new(settings)), ..self }
    }

    /// The servers.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The agent's SVID, which connections present.
    #[must_use]
    pub fn own(&self) -> &SvidCell {
        &self.own
    }

    /// Whether whoever answers is signed by nobody that we know: the bundle is of other servers, or somebody is between
    /// them and us.
    #[must_use]
    pub fn server_is_unknown(&self) -> bool {
        self.pool.is_unknown()
    }

    #[cfg(test)]
    pub(crate) fn set_server_is_unknown(&self, unknown: bool) {
        self.pool.set_unknown(unknown);
    }

    /// A random place in a retry's step, on `[0, 1)`.
    #[must_use]
    pub fn jitter(&self) -> f64 {
        self.entropy.lock().unwrap_or_else(PoisonError::into_inner).fraction()
    }

    /// The next call connects anew.
    pub fn reconnect(&self) {
        self.pool.reconnect();
    }

    fn verified(&self) -> ServerTrust {
        ServerTrust::Verified(self.roots.clone(), Expect::Id(SpiffeId::server(&self.trust_domain)))
    }

    /// The trust domain's bundle, over `line`.
    ///
    /// # Errors
    ///
    /// The server's status; `Internal` for a bundle that cannot be used.
    pub async fn bundle_over(&self, line: &Line) -> Result<Bundle, Status> {
        self.own_bundle(&self.call_over(line, Errand::COMPARABLE, get_bundle).await?)
    }

    /// The trust domain's bundle.
    ///
    /// # Errors
    ///
    /// As [`ServerClient::bundle_over`].
    pub async fn bundle(&self) -> Result<Bundle, Status> {
        self.own_bundle(&self.call(Errand::COMPARABLE, get_bundle).await?)
    }

    fn own_bundle(&self, message: &types::Bundle) -> Result<Bundle, Status> {
        let bundle = read_bundle(message)?;
        if bundle.trust_domain != self.trust_domain {
            return Err(Status::internal(format!("the server sent the bundle of {}", bundle.trust_domain)));
        }
        if bundle.x509_authorities.is_empty() {
            return Err(Status::internal("the server sent a bundle without X.509 authorities"));
        }
        Ok(bundle)
    }

    /// The bundles of other trust domains: what the server has of them, each with its own outcome.
    pub async fn federated_bundles(
        &self,
        names: Vec<TrustDomain>,
    ) -> Vec<(TrustDomain, Result<Bundle, Status>)> {
        let fetch = |name: TrustDomain| async move {
            let call = |line: Line| {
                let request = bundle_api::GetFederatedBundleRequest {
                    trust_domain: name.as_str().to_owned(),
                    output_mask: None,
                };
                async move { bundle_client(line.channel).get_federated_bundle(request).await }
            };
            let response = self.call(Errand::short(Kind::FederatedBundle), call).await;
            let bundle = response.and_then(|response| read_bundle(response.get_ref()));
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
        let params = Some(agent_api::AgentX509svidParams { csr: csr.into() });
        let request = agent_api::RenewAgentRequest { params };
        let call = |line: Line| {
            let request = request.clone();
            async move { agent_client(line.channel).renew_agent(request).await }
        };
        let response = self.call(Errand::RENEWAL, call).await?.into_inner();
        response.svid.ok_or_else(|| Status::internal("renew response is missing SVID"))
    }

    /// Tells the server which version runs here.
    ///
    /// # Errors
    ///
    /// The server's status.
    pub async fn post_status(&self, version: &str) -> Result<(), Status> {
        let call = |line: Line| {
            let request =
                agent_api::PostStatusRequest { current_bundle_serial: 0, agent_version: version.to_owned() };
            async move { agent_client(line.channel).post_status(request).await }
        };
        self.call(Errand::short(Kind::Status), call).await.map(drop)
    }

    /// The entries of this agent, as a difference to `held`.
    ///
    /// # Errors
    ///
    /// The server's status; `Internal` when it does not keep to the protocol.
    pub async fn sync_entries(&self, held: &EntryIndex) -> Result<Outcome, Status> {
        self.call(Errand::short(Kind::Entries), |line| entry_stream::fetch(line, held)).await
    }

    /// X.509-SVIDs for (entry, request), in order. The soonest of what they replace ends at `due` (Unix seconds; 0 if a
    /// workload has none): a server that has more to do than it can goes by that. One that issues none of them, because it is
    /// broken, is treated as one that does not answer.
    ///
    /// # Errors
    ///
    /// The server's status for the whole call.
    pub async fn new_x509_svids(
        &self,
        asks: Vec<(String, Vec<u8>)>,
        due: i64,
    ) -> Result<Vec<Result<types::X509svid, Status>>, Status> {
        let count = asks.len();
        let params = asks
            .into_iter()
            .map(|(entry_id, csr)| svid_api::NewX509svidParams { entry_id, csr: Bytes::from(csr) })
            .collect();
        let request = svid_api::BatchNewX509svidRequest { params };
        let none = Mutex::new(None);
        let call = |line: Line| {
            let mut request = Request::new(request.clone());
            request.metadata_mut().insert(DUE_HEADER, due.into());
            let client = svid_api::svid_client::SvidClient::new(line.channel);
            let none = &none;
            async move {
                let mut client = client.max_decoding_message_size(MAX_MESSAGE);
                let results = client.batch_new_x509svid(request).await?.into_inner().results;
                let Some(why) = why_none(&results) else { return Ok(results) };
                *none.lock().unwrap_or_else(PoisonError::into_inner) = Some(results);
                Err(why)
            }
        };
        let outcome = self.call(Errand::of_batch(count), call).await;
        // If no server does better, each entry has its own reason.
        let none = none.lock().unwrap_or_else(PoisonError::into_inner).take();
        let results = outcome.or_else(|status| none.ok_or(status))?;
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
        let request =
            svid_api::NewJwtsvidRequest { entry_id: entry_id.to_owned(), audience: audience.to_vec() };
        let call = |line: Line| {
            let request = request.clone();
            async move { svid_api::svid_client::SvidClient::new(line.channel).new_jwtsvid(request).await }
        };
        let response = self.call(Errand::short(Kind::Jwt), call).await?.into_inner();
        response.svid.ok_or_else(|| Status::internal("JWTSVID response missing SVID"))
    }
}

async fn get_bundle(line: Line) -> Result<types::Bundle, Status> {
    let request = bundle_api::GetBundleRequest { output_mask: None };
    Ok(bundle_client(line.channel).get_bundle(request).await?.into_inner())
}

fn agent_client(channel: Channel) -> agent_api::agent_client::AgentClient<Channel> {
    agent_api::agent_client::AgentClient::new(channel)
}

fn bundle_client(channel: Channel) -> bundle_api::bundle_client::BundleClient<Channel> {
    bundle_api::bundle_client::BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE)
}

fn read_bundle(message: &types::Bundle) -> Result<Bundle, Status> {
    bundle_from_proto(message)
        .map_err(|error| Status::internal(format!("malformed bundle from the server: {error}")))
}

/// Why none of these was issued, if the reason is the server and not what was asked for.
fn why_none(results: &[svid_api::batch_new_x509svid_response::Result]) -> Option<Status> {
    let status = |result: &svid_api::batch_new_x509svid_response::Result| {
        let status = result.status.clone().unwrap_or_default();
        Status::new(Code::from(status.code), status.message)
    };
    let broken = results.iter().all(|result| servers::is_broken(&status(result)));
    results.first().filter(|_| broken).map(status)
}

fn read_result(result: svid_api::batch_new_x509svid_response::Result) -> Result<types::X509svid, Status> {
    let status = result.status.unwrap_or_default();
    match Code::from(status.code) {
        Code::Ok => result.svid.ok_or_else(|| Status::internal("missing SVID")),
        code => Err(Status::new(code, status.message)),
    }
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
    let code = if servers::is_unreachable(&status) { Code::Unavailable } else { status.code() };
    Status::new(code, text)
}

/// A status as one line for logs and for operators.
#[must_use]
pub fn shown(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// When the soonest of the SVIDs that a call renews ends, in Unix seconds; 0 for a first issue.
pub const DUE_HEADER: &str = "vouchsafe-due";

/// Largest message that is accepted from the server; a page of entries is the largest there is.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Federated bundles that are fetched at one time.
const MAX_PARALLEL_BUNDLES: usize = 10;
