//! The first identity: an entry for the calling user, and an SVID fetched and verified as any workload would.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rustls::pki_types::{CertificateDer, UnixTime};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::verify::SvidVerifier;
use vouchsafe_proto::convert::spiffe_id_to_proto;
use vouchsafe_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::certificate;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::config::up::Config;
use crate::go;

/// How long the entry may take to become an SVID in the caller's hands.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// What was registered and fetched.
pub(super) struct FirstSvid {
    user: String,
    uid: u32,
    id: SpiffeId,
    created: bool,
    expires_at: i64,
}

impl FirstSvid {
    /// Registers the calling user, fetches its SVID over the Workload API, and verifies it against `bundle`.
    pub(super) async fn fetch(
        config: &Config,
        agent: &SpiffeId,
        bundle: &Bundle,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
        let named = user
            .as_deref()
            .and_then(|name| SpiffeId::new(&config.trust_domain, &format!("/user/{name}")).ok());
        let id = match named {
            Some(id) => id,
            None => SpiffeId::new(&config.trust_domain, &format!("/user/uid-{uid}"))?,
        };
        let created = register(config, agent, &id, uid.as_raw()).await?;
        let chain = tokio::time::timeout(FETCH_TIMEOUT, fetch(config, &id)).await;
        let chain = chain.with_context(|| format!("no SVID within {FETCH_TIMEOUT:?}"))??;
        let verifier = SvidVerifier::new(RootsCell::new(TrustRoots::of([bundle])));
        let now = clock.now().duration_since(SystemTime::UNIX_EPOCH)?;
        let svid =
            verifier.verify(&chain, UnixTime::since_unix_epoch(now)).context("the SVID does not verify")?;
        if svid.id != id {
            bail!("the Workload API gave {} instead of {id}", svid.id);
        }
        Ok(Self {
            user: user.unwrap_or_else(|| uid.to_string()),
            uid: uid.as_raw(),
            id,
            created,
            expires_at: svid.not_after,
        })
    }

    /// What was done, where things are, and what to try next.
    pub(super) fn report(
        &self,
        config: &Config,
        server: SocketAddr,
        agent: &SpiffeId,
        took: Duration,
    ) -> String {
        let (admin, api) = (config.server_socket.display(), config.agent_socket.display());
        let Self { user, uid, id, .. } = self;
        let program = std::env::args().next().unwrap_or_else(|| "vouchsafe".to_owned());
        let registered = if self.created { "registered" } else { "registered before" };
        format!(
            "Vouchsafe is up in {:.2} s; trust domain {}\n\
             \n  server        {server}, admin socket {admin}\
             \n  agent         {agent}\
             \n  entry         {registered}: processes of {user} (unix:uid:{uid}) are {id}\
             \n  first SVID    fetched and verified, valid until {}\
             \n  Workload API  unix://{api}\
             \n  state         {}\n\
             \nTry next, in another terminal:\
             \n  {program} agent api fetch x509 -socketPath {api}\
             \n  {program} agent api fetch jwt -audience demo -socketPath {api}\
             \n  {program} server entry show -socketPath {admin}\n\
             \nCtrl-C stops it; the state stays.\n\n",
            took.as_secs_f64(),
            config.trust_domain.as_str(),
            go::rfc3339(self.expires_at),
            config.data_dir.display(),
        )
    }
}

/// Returns whether the entry is new.
async fn register(config: &Config, agent: &SpiffeId, id: &SpiffeId, uid: u32) -> anyhow::Result<bool> {
    let mut client = EntryClient::new(uds_channel(&config.server_socket).await?);
    let entry = types::Entry {
        spiffe_id: Some(spiffe_id_to_proto(id)),
        parent_id: Some(spiffe_id_to_proto(agent)),
        selectors: vec![types::Selector { r#type: "unix".to_owned(), value: format!("uid:{uid}") }],
        ..types::Entry::default()
    };
    let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
    let answer = client.batch_create_entry(request).await.context("cannot register an entry")?.into_inner();
    let status = answer.results.into_iter().next().and_then(|result| result.status).unwrap_or_default();
    match tonic::Code::from(status.code) {
        tonic::Code::Ok => Ok(true),
        tonic::Code::AlreadyExists => Ok(false),
        _ => bail!("cannot register an entry: {}", status.message),
    }
}

/// The chain of `id`, as soon as the Workload API has it: the first refusal makes the agent look for the new entry.
async fn fetch(config: &Config, id: &SpiffeId) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let mut client = SpiffeWorkloadApiClient::new(uds_channel(&config.agent_socket).await?);
    let mut pause = FIRST_PAUSE;
    loop {
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let refused = match client.fetch_x509svid(request).await {
            Err(status) => status,
            Ok(stream) => match chain_of(id, stream.into_inner()).await {
                Ok(chain) => return Ok(chain),
                Err(status) => status,
            },
        };
        if refused.code() != tonic::Code::PermissionDenied {
            bail!("cannot fetch an SVID: {}", refused.message());
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(20);

async fn chain_of(
    id: &SpiffeId,
    mut updates: Streaming<X509svidResponse>,
) -> Result<Vec<CertificateDer<'static>>, Status> {
    while let Some(update) = updates.message().await? {
        if let Some(svid) = update.svids.iter().find(|svid| svid.spiffe_id == id.as_str()) {
            let chain = certificate::split(&svid.x509_svid).map_err(|e| Status::internal(e.to_string()))?;
            return Ok(chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect());
        }
    }
    Err(Status::unavailable("the stream ended"))
}
