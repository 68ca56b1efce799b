//! `spire.api.server.debug.v1.Debug`: what this server is and how much it holds.

mod subject;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::UnixTime;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::path::Authorities;
use vouchsafe_proto::convert::spiffe_id_to_proto;
use vouchsafe_proto::spire::api::server::debug::v1::debug_server::Debug as DebugApi;
use vouchsafe_proto::spire::api::server::debug::v1::{GetInfoRequest, GetInfoResponse, get_info_response};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::model::ReadModel;
use crate::status::failed;

/// How long an answer is given again, as in SPIRE.
pub(crate) const KEEP: Duration = Duration::from_secs(5);

/// Tells about the server.
pub(crate) struct DebugService {
    trust_domain: TrustDomain,
    clock: Clock,
    model: Arc<ReadModel>,
    own: SvidCell,
    started: Instant,
    held: Mutex<Option<(Instant, GetInfoResponse)>>,
}

impl DebugService {
    pub(crate) fn new(trust_domain: TrustDomain, clock: Clock, model: Arc<ReadModel>, own: SvidCell) -> Self {
        Self { trust_domain, clock, model, own, started: Instant::now(), held: Mutex::default() }
    }

    fn info(&self) -> Result<GetInfoResponse, Status> {
        let snapshot = self.model.load();
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Ok(GetInfoResponse {
            svid_chain: self.chain()?,
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: count(snapshot.agents.len()),
            entries_count: count(snapshot.entries.len()),
            // Its own among them, as in SPIRE.
            federated_bundles_count: count(snapshot.bundles.len()),
        })
    }

    /// From the server's own certificate to the root, as somebody who has the bundle sees it.
    fn chain(&self) -> Result<Vec<get_info_response::Cert>, Status> {
        let bundle = self.model.load().bundles.get(&self.trust_domain).cloned();
        let bundle = bundle.ok_or_else(|| Status::not_found("trust domain bundle not found"))?;
        let svid = self.own.load().ok_or_else(|| Status::internal("the server has no SVID yet"))?;
        let authorities = Authorities::new(bundle.x509_authorities.iter().map(|each| each.der.clone()));
        let since = self.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let above = authorities
            .issuers_of(&svid.chain, UnixTime::since_unix_epoch(since))
            .map_err(|e| failed(Code::Internal, "failed verification against bundle", e))?;
        let certificates = svid.chain.first().into_iter().chain(&above);
        certificates.map(|der| told(der)).collect()
    }
}

fn told(der: &[u8]) -> Result<get_info_response::Cert, Status> {
    let parsed = Certificate::parse(der).map_err(|e| failed(Code::Internal, "failed to parse bundle", e))?;
    let id = match parsed.uris.as_slice() {
        [uri] => SpiffeId::parse(uri).ok().as_ref().map(spiffe_id_to_proto),
        _ => None,
    };
    let subject = subject::text(&parsed.subject_der);
    Ok(get_info_response::Cert { id, expires_at: parsed.not_after, subject })
}

#[tonic::async_trait]
impl DebugApi for DebugService {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, info)) = &*held
            && at.elapsed() < KEEP
        {
            return Ok(Response::new(info.clone()));
        }
        let info = self.info()?;
        *held = Some((Instant::now(), info.clone()));
        Ok(Response::new(info))
    }
}
