//! What the agent is doing, for people and tests that look into it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::error;
use vouchsafe_ca::x509::subject::Subject;
use vouchsafe_identity::own::SvidCell;
use vouchsafe_proto::convert::spiffe_id_to_proto;
use vouchsafe_proto::spire::agent::debug::v1::debug_server::Debug as Service;
use vouchsafe_proto::spire::agent::debug::v1::{GetInfoRequest, GetInfoResponse, get_info_response::Cert};
use vouchsafe_types::bundle::X509Authority;
use vouchsafe_types::certificate::Certificate;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::open_rpc::OpenRpc;
use crate::identities::Identities;
use crate::metrics::Metrics;
use crate::status::AgentStatus;
use crate::workload_api::request::Connections;

/// Serves `spire.agent.debug.v1.Debug`.
#[derive(Debug)]
pub struct Debug {
    own: SvidCell,
    identities: Arc<Identities>,
    status: watch::Receiver<AgentStatus>,
    started: Instant,
    connections: Arc<Connections>,
}

impl Debug {
    /// Over the agent's own SVID, what it serves and what it says about itself.
    #[must_use]
    pub fn new(
        own: SvidCell,
        identities: Arc<Identities>,
        status: watch::Receiver<AgentStatus>,
        metrics: &Metrics,
    ) -> Self {
        let connections = Arc::new(Connections::new(metrics.admin_api_connections("debug_api")));
        Self { own, identities, status, started: Instant::now(), connections }
    }

    /// The agent's certificates up to the authority that they come from.
    fn chain(&self) -> Result<Vec<Cert>, Status> {
        let own = self.own.load();
        let own =
            own.ok_or_else(|| Status::unavailable("the agent is not attested yet; its log says why"))?;
        let snapshot = self.identities.load();
        let authorities =
            snapshot.bundles.as_ref().map_or(&[][..], |bundles| &bundles.own.bundle.x509_authorities);
        up_to_authority(&own.chain, authorities).map_err(|problem| {
            error!(problem, "Failed to verify agent SVID");
            Status::internal(format!("failed to verify agent SVID: {problem}"))
        })
    }
}

#[tonic::async_trait]
impl Service for Debug {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let _open = OpenRpc::new(&self.connections);
        let svid_chain = self.chain()?;
        let status = self.status.borrow().clone();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let last_sync =
            status.last_sync.and_then(|at| at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok());
        Ok(Response::new(GetInfoResponse {
            svid_chain,
            uptime: i32::try_from(self.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            svids_count: count(status.x509_svids),
            cached_x509_svids_count: count(status.x509_svids),
            cached_jwt_svids_count: count(status.jwt_svids),
            cached_svidstore_x509_svids_count: 0,
            last_sync_success: last_sync.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX)),
        }))
    }
}

/// `chain` and the authority that issued the last of it. Dates and signatures were looked at when the SVID arrived; an SVID
/// that has ended since is still worth being shown.
fn up_to_authority(chain: &[Arc<[u8]>], authorities: &[X509Authority]) -> Result<Vec<Cert>, String> {
    let parse = |der: &[u8]| Certificate::parse(der).map_err(|error| error.to_string());
    let mut certificates = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    let last = certificates.last().ok_or("there is no certificate")?;
    let issuer = authorities.iter().filter_map(|authority| parse(&authority.der).ok()).find(|authority| {
        authority.subject_der == last.issuer_der
            && (last.authority_key_id.is_empty() || authority.subject_key_id == last.authority_key_id)
    });
    certificates.push(issuer.ok_or("it is not signed by an authority of the bundle")?);
    Ok(certificates.iter().map(shown).collect())
}

fn shown(certificate: &Certificate) -> Cert {
    let id = match certificate.uris.as_slice() {
        [uri] => SpiffeId::parse(uri).ok(),
        _ => None,
    };
    let subject = Subject::parse(&certificate.subject_der).map(|subject| subject.to_string());
    Cert {
        id: id.as_ref().map(spiffe_id_to_proto),
        expires_at: certificate.not_after,
        subject: subject.unwrap_or_default(),
    }
}
