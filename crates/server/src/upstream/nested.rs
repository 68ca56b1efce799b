//! Another server of the same trust domain as the upstream authority (`spire`).
//!
//! This server is a workload of an agent of the upstream server, with an entry marked `downstream`; with its SVID it asks
//! for a CA certificate, publishes its JWT keys, and fetches the bundle every few seconds. One connection carries
//! everything; a new SVID asks for a new one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};
use vouchsafe_ca::upstream::{MintedCa, Published, UpstreamAuthority, UpstreamError};
use vouchsafe_identity::config::{Expect, KeyExchange, ServerTrust, client_config_with};
use vouchsafe_proto::convert::{bundle_from_proto, jwt_authority_from_proto, jwt_authority_to_proto};
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::bundle::v1::{GetBundleRequest, PublishJwtAuthorityRequest};
use vouchsafe_proto::spire::api::server::svid::v1::NewDownstreamX509caRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::connect::tls_channel;
use vouchsafe_types::bundle::{Bundle, JwtAuthority};
use vouchsafe_types::spiffe_id::SpiffeId;

use super::Trouble;
use super::workload::WorkloadSvid;
use crate::config::UpstreamServer;
use crate::status::BoxError;

/// The upstream server.
pub(super) struct NestedServer {
    address: String,
    source: WorkloadSvid,
    clock: Clock,
    key_exchange: KeyExchange,
    /// The connection, and which SVID of ours it was made with.
    channel: Mutex<Option<(u64, Channel)>>,
    bundle: watch::Sender<Option<Arc<Bundle>>>,
}

/// How often the upstream server's bundle is fetched, give or take [`JITTER`].
const POLL_EVERY: Duration = Duration::from_secs(5);
/// The part of [`POLL_EVERY`] by which a poll comes earlier or later, so that a fleet does not ask in step.
const JITTER: f64 = 0.1;
/// How long one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for the first SVID of our own.
const SVID_DEADLINE: Duration = Duration::from_secs(15);
/// Largest answer that is accepted.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

impl NestedServer {
    pub(super) fn new(server: &UpstreamServer, source: WorkloadSvid, clock: Clock) -> Self {
        let host = match server.host.contains(':') && !server.host.starts_with('[') {
            true => format!("[{}]", server.host),
            false => server.host.clone(),
        };
        let address = format!("{host}:{}", server.port);
        let (channel, bundle) = (Mutex::new(None), watch::Sender::new(None));
        Self { address, source, clock, channel, bundle, key_exchange: server.key_exchange }
    }

    /// Fetches the bundle again and again, until `cancel`.
    pub(super) async fn poll(self: Arc<Self>, mut entropy: Entropy, cancel: CancellationToken) {
        let mut trouble = Trouble::new("Failed to fetch bundle while polling");
        let poll = async {
            loop {
                match self.fetch_bundle().await {
                    Ok(bundle) => {
                        trouble.ended();
                        let news = |held: &Option<Arc<Bundle>>| held.as_deref() != Some(&bundle);
                        if news(&self.bundle.borrow()) {
                            self.bundle.send_replace(Some(Arc::new(bundle)));
                        }
                    }
                    Err(error) => trouble.failed(&error),
                }
                let place = 1.0 + JITTER * (2.0 * entropy.fraction() - 1.0);
                sleep(POLL_EVERY.mul_f64(place)).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = poll => {}
        }
    }

    async fn fetch_bundle(&self) -> Result<Bundle, UpstreamError> {
        const WHAT: &str = "failed to fetch bundle from upstream server";
        let call = async |channel| {
            let mut client = BundleClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
            client.get_bundle(GetBundleRequest { output_mask: None }).await
        };
        let bundle = bundle_from_proto(&self.call(WHAT, call).await?).map_err(remote(WHAT))?;
        if bundle.trust_domain != *self.source.trust_domain() {
            let why = format!("it sent the bundle of {}", bundle.trust_domain);
            return Err(UpstreamError::Remote { what: WHAT, source: why.into() });
        }
        if bundle.x509_authorities.is_empty() {
            let why = "it has no X.509 authorities".into();
            return Err(UpstreamError::Remote { what: WHAT, source: why });
        }
        Ok(bundle)
    }

    /// One call, within its deadline. One that got no answer makes the next connect anew.
    async fn call<T>(
        &self,
        what: &'static str,
        call: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, UpstreamError> {
        if timeout(SVID_DEADLINE, self.source.ready()).await.is_err() {
            let why = "the Workload API has given this server no X.509-SVID; is there an entry for it?";
            return Err(UpstreamError::Remote { what, source: why.into() });
        }
        let channel = self.channel().map_err(|source| UpstreamError::Remote { what, source })?;
        match timeout(CALL_DEADLINE, call(channel)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            failed => {
                *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let Ok(Err(status)) = failed else { return Err(UpstreamError::Deadline(CALL_DEADLINE)) };
                Err(UpstreamError::Remote { what, source: told(&status).into() })
            }
        }
    }

    fn channel(&self) -> Result<Channel, BoxError> {
        let with = *self.source.own.watch().borrow();
        let mut held = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, channel)) = &*held
            && *of == with
        {
            return Ok(channel.clone());
        }
        let server = SpiffeId::server(self.source.trust_domain());
        let trust = ServerTrust::Verified(self.source.roots.clone(), Expect::Id(server));
        let config =
            client_config_with(self.key_exchange, trust, Some(&self.source.own), self.clock.clone())?;
        let channel = tls_channel(&self.address, Arc::new(config))?;
        *held = Some((with, channel.clone()));
        Ok(channel)
    }
}

#[async_trait]
impl UpstreamAuthority for NestedServer {
    fn name(&self) -> &'static str {
        "spire"
    }

    async fn mint_x509_ca(
        &self,
        csr: &[u8],
        ttl: Duration,
        _: SystemTime,
    ) -> Result<MintedCa, UpstreamError> {
        const WHAT: &str = "unable to request a new Downstream X509CA";
        let request = NewDownstreamX509caRequest {
            csr: Bytes::copy_from_slice(csr),
            preferred_ttl: i32::try_from(ttl.as_secs()).unwrap_or(i32::MAX),
        };
        let call = async |channel| {
            let mut client = SvidClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
            client.new_downstream_x509ca(request).await
        };
        let minted = self.call(WHAT, call).await?;
        let chain = minted.ca_cert_chain.iter().map(|der| Arc::from(&**der)).collect();
        // The answer has roots too, but without their taint.
        Ok(MintedCa { chain, roots: self.fetch_bundle().await?.x509_authorities })
    }

    async fn publish_jwt_key(&self, key: &JwtAuthority) -> Result<Published, UpstreamError> {
        const WHAT: &str = "failed to push JWT authority";
        let request = PublishJwtAuthorityRequest { jwt_authority: Some(jwt_authority_to_proto(key)) };
        let call = async |channel| {
            let mut client = BundleClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
            client.publish_jwt_authority(request).await
        };
        let known = self.call(WHAT, call).await?.jwt_authorities;
        let known = known.iter().map(jwt_authority_from_proto).collect::<Result<_, _>>();
        Ok(Published::Known(known.map_err(remote(WHAT))?))
    }

    fn watch(&self) -> Option<watch::Receiver<Option<Arc<Bundle>>>> {
        Some(self.bundle.subscribe())
    }
}

impl fmt::Debug for NestedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NestedServer").field("address", &self.address).finish_non_exhaustive()
    }
}

fn remote<E: Into<BoxError>>(what: &'static str) -> impl FnOnce(E) -> UpstreamError {
    move |source| UpstreamError::Remote { what, source: source.into() }
}

/// tonic keeps the reason of a failed connection in the error's causes, and its text says only "transport error".
fn told(status: &Status) -> String {
    let causes = std::error::Error::source(status).map(|cause| crate::status::Chain(cause).to_string());
    match causes {
        Some(causes) if !causes.contains(status.message()) => format!("{}: {causes}", status.message()),
        Some(causes) => causes,
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
