//! `spire.api.server.svid.v1.SVID`.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tonic::{Code, Request, Response, Status};
use tracing::debug;
use uuid::Uuid;
use vouchsafe_ca::x509::Subject;
use vouchsafe_ca::x509::csr::{Csr, CsrError, VerifyProofOfPossession, parse_csr};
use vouchsafe_ca::x509::svid::Issued;
use vouchsafe_proto::convert::{spiffe_id_from_proto, spiffe_id_to_proto};
use vouchsafe_proto::spire::api::server::svid::v1::svid_server::Svid as SvidApi;
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
    MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
    MintX509svidResponse, NewDownstreamX509caRequest, NewDownstreamX509caResponse, NewJwtsvidRequest,
    NewJwtsvidResponse, NewX509svidParams, batch_new_x509svid_response,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::agent::Agent;
use vouchsafe_types::dns_name::{check_dns_name, wildcard_overlap};
use vouchsafe_types::entry::check_workload;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::{calling_agent, downstream};
use crate::agents::Agents;
use crate::audit::{self, Audit};
use crate::issuer::{Issuer, SignError};
use crate::limits::processor::Urgency;
use crate::limits::{BATCH_NEW_X509_SVID, Turn};
use crate::model::{ReadModel, Snapshot};
use crate::status::{SOON, failed, invalid, item_status, unavailable};
use crate::when;

/// Most CSRs in one batch.
pub(crate) const MAX_BATCH: usize = 1_000;

/// SVIDs: what an entry allows an agent to ask for, and what an operator mints.
pub(crate) struct SvidService {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) clock: Clock,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) issuer: Arc<Issuer>,
}

impl SvidService {
    async fn new_x509(
        &self,
        agent: &Agent,
        snapshot: &Snapshot,
        params: &NewX509svidParams,
    ) -> Result<types::X509svid, Status> {
        if params.entry_id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let id = params.entry_id.as_str();
        let entry = snapshot.entries.authorized_entry(agent, id, self.clock.unix_now());
        let entry = entry.ok_or_else(not_authorized)?;
        let csr = parse_csr(&params.csr, VerifyProofOfPossession::Yes)
            .map_err(|e| Status::invalid_argument(e.status_text()))?;
        let issued = self
            .issuer
            .workload_x509(&entry.spiffe_id, &csr.public_key_der, &entry.dns_names, entry.x509_svid_ttl, None)
            .await
            .map_err(|e| sign_failed(X509, &e))?;
        debug!(registration_id = id, spiffe_id = %entry.spiffe_id, serial = issued.serial, "Signed X509 SVID");
        Ok(x509_to_proto(&entry.spiffe_id, issued))
    }

    fn check_jwt(&self) -> Result<(), Status> {
        if self.issuer.has_jwt {
            return Ok(());
        }
        Err(Status::unimplemented("JWT functionality is disabled"))
    }

    async fn sign_jwt(
        &self,
        id: &SpiffeId,
        audience: &[String],
        ttl_secs: u32,
        jti: Option<&str>,
    ) -> Result<types::Jwtsvid, Status> {
        if audience.is_empty() {
            return Err(Status::invalid_argument("at least one audience is required"));
        }
        let signed = self.issuer.jwt(id, audience, ttl_secs, jti).await.map_err(|e| sign_failed(JWT, &e))?;
        debug!(spiffe_id = %id, expires_at = signed.expires_at, "Server CA successfully signed JWT SVID");
        Ok(types::Jwtsvid {
            token: signed.token,
            id: Some(spiffe_id_to_proto(id)),
            expires_at: signed.expires_at,
            issued_at: signed.issued_at,
            hint: String::new(),
        })
    }

    /// The identity and DNS names that a CSR of an operator asks for.
    fn requested(&self, csr: &Csr) -> Result<SpiffeId, Status> {
        let uri = match csr.uris.as_slice() {
            [] => return Err(Status::invalid_argument("CSR URI SAN is required")),
            [uri] => uri,
            _ => return Err(Status::invalid_argument("only one URI SAN is expected")),
        };
        let id = SpiffeId::parse(uri).map_err(|e| invalid("CSR URI SAN is invalid", e))?;
        check_workload(&id, &self.trust_domain).map_err(|e| invalid("CSR URI SAN is invalid", e))?;
        for name in &csr.dns_names {
            check_dns_name(name).map_err(|e| invalid("CSR DNS name is invalid", e))?;
        }
        if wildcard_overlap(&csr.dns_names).is_some() {
            return Err(Status::invalid_argument(
                "CSR DNS name contains a wildcard that covers another non-wildcard name",
            ));
        }
        Ok(id)
    }
}

const X509: &str = "failed to sign X509-SVID";
const JWT: &str = "failed to sign JWT-SVID";

#[tonic::async_trait]
impl SvidApi for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add_csr(&request.csr);
        audit.add("ttl", request.ttl);
        if request.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let csr = parse_csr(&request.csr, VerifyProofOfPossession::Yes).map_err(|e| match e {
            CsrError::Signature { .. } => invalid("failed to verify CSR signature", e),
            _ => invalid("malformed CSR", e),
        })?;
        let id = self.requested(&csr)?;
        let subject = Subject::parse(&csr.subject_raw).map_err(|e| invalid("malformed CSR", e))?;
        let ttl = ttl_from_proto(request.ttl)?;
        let issued = self
            .issuer
            .workload_x509(&id, &csr.public_key_der, &csr.dns_names, ttl, Some(&subject))
            .await
            .map_err(|e| sign_failed(X509, &e))?;
        audit.add("spiffe_id", id.as_str());
        audit.add("dns_name", csr.dns_names.join(","));
        audit.add("expires_at", when::rfc3339(issued.not_after));
        debug!(spiffe_id = %id, serial = issued.serial, "Signed X509 SVID");
        Ok(Response::new(MintX509svidResponse { svid: Some(x509_to_proto(&id, issued)) }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        self.check_jwt()?;
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add("ttl", request.ttl);
        audit.add("audience", request.audience.join(","));
        audit.add("spiffe_id", request.id.as_ref().map(audit::spiffe_id).unwrap_or_default());
        let id = spiffe_id_from_proto(request.id.as_ref()).map_err(|e| invalid("invalid SPIFFE ID", e))?;
        check_workload(&id, &self.trust_domain).map_err(|e| invalid("invalid SPIFFE ID", e))?;
        let svid = self.sign_jwt(&id, &request.audience, ttl_from_proto(request.ttl)?, None).await?;
        Ok(Response::new(MintJwtsvidResponse { svid: Some(svid) }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let agent = calling_agent(&*self.agents, &request)?;
        let (audit, turn) = (Audit::of(&request), request.extensions().get::<Turn>().cloned());
        let urgency = Urgency::of(&request, request.get_ref().params.len());
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        if params.len() > MAX_BATCH {
            return Err(Status::invalid_argument(format!(
                "too many parameters: at most {MAX_BATCH} per call"
            )));
        }
        if let Some(turn) = turn {
            turn.take(BATCH_NEW_X509_SVID, params.len()).await?;
        }
        let _entered = self.issuer.processor.enter(urgency).await?;
        let snapshot = self.model.load();
        let mut results = Vec::with_capacity(params.len());
        for each in &params {
            let outcome = self.new_x509(&agent, &snapshot, each).await;
            let status = item_status(outcome.as_ref().map(|_| ()));
            let svid = outcome.ok();
            audit.item(Some(&status), || signed_fields(each, svid.as_ref()));
            results.push(batch_new_x509svid_response::Result { status: Some(status), svid });
        }
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        self.check_jwt()?;
        let agent = calling_agent(&*self.agents, &request)?;
        let audit = Audit::of(&request);
        let urgency = Urgency::of(&request, 1);
        let request = request.into_inner();
        audit.add("entry_id", request.entry_id.as_str());
        audit.add("audience", request.audience.join(","));
        let _entered = self.issuer.processor.enter(urgency).await?;
        let snapshot = self.model.load();
        let entry = snapshot.entries.authorized_entry(&agent, &request.entry_id, self.clock.unix_now());
        let entry = entry.ok_or_else(not_authorized)?;
        audit.add("spiffe_id", entry.spiffe_id.as_str());
        let jti = entry.jwt_svid_include_jti.then(|| Uuid::new_v4().to_string());
        let svid =
            self.sign_jwt(&entry.spiffe_id, &request.audience, entry.jwt_svid_ttl, jti.as_deref()).await?;
        Ok(Response::new(NewJwtsvidResponse { svid: Some(svid) }))
    }

    async fn mint_witsvid(
        &self,
        _: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT functionality is disabled"))
    }

    async fn new_downstream_x509ca(
        &self,
        request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        let made = downstream::new_x509_ca(&self.trust_domain, (&self.issuer, &self.model), request).await?;
        Ok(Response::new(made))
    }
}

/// What the audit log tells of one request for a certificate.
fn signed_fields(params: &NewX509svidParams, svid: Option<&types::X509svid>) -> Vec<(&'static str, Value)> {
    let id = svid.and_then(|svid| svid.id.as_ref()).map(audit::spiffe_id).unwrap_or_default();
    let mut fields = vec![
        ("csr", audit::csr_hash(&params.csr).into()),
        ("entry_id", params.entry_id.as_str().into()),
        ("spiffe_id", id.into()),
    ];
    fields.extend(svid.map(|svid| ("expires_at", svid.expires_at.into())));
    fields
}

/// An issued SVID as a message.
pub(super) fn x509_to_proto(id: &SpiffeId, issued: Issued) -> types::X509svid {
    types::X509svid {
        cert_chain: issued.chain.iter().map(|der| Bytes::copy_from_slice(der)).collect(),
        id: Some(spiffe_id_to_proto(id)),
        expires_at: issued.not_after,
        hint: String::new(),
    }
}

/// A signature that failed, with the code that its cause deserves.
pub(super) fn sign_failed(what: &'static str, cause: &SignError) -> Status {
    let class = match cause {
        SignError::NoAuthority(_) => Class::Transient,
        SignError::X509(cause) => cause.class(),
        SignError::Jwt(cause) => cause.class(),
    };
    let code = match class {
        Class::Caller => Code::InvalidArgument,
        Class::Transient => Code::Unavailable,
        Class::Peer | Class::Permanent | Class::Bug => Code::Internal,
    };
    if code == Code::Internal {
        tracing::error!(error = %cause, "{what}");
    }
    let why = crate::status::Chain(cause).to_string();
    if code == Code::Unavailable { unavailable(what, why, SOON) } else { failed(code, what, why) }
}

fn ttl_from_proto(secs: i32) -> Result<u32, Status> {
    u32::try_from(secs)
        .map_err(|_| Status::invalid_argument(format!("ttl must not be negative (got {secs})")))
}

fn not_authorized() -> Status {
    Status::not_found("entry not found or not authorized")
}
