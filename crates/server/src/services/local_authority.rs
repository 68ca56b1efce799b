//! `spire.api.server.localauthority.v1.LocalAuthority`: the authorities by hand.

use tonic::{Code, Request, Response, Status};
use vouchsafe_ca::authority::AuthorityKind::{self, Jwt, X509};
use vouchsafe_ca::authority::rotation::RotateError;
use vouchsafe_ca::authority::slots::{Overview, SlotError, Summary};
use vouchsafe_proto::spire::api::server::localauthority::v1 as api;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthority;
use vouchsafe_store::Error as StoreError;

use crate::audit::Audit;
use crate::authorities::{Command, Control, Refusal};
use crate::status::{Chain, SOON, retry_later, store_failed};

/// Sends commands to the task that owns the authorities.
pub(crate) struct LocalAuthorityService {
    pub(crate) authorities: Control,
}

impl LocalAuthorityService {
    /// The authorities of a kind, of which one must be active.
    fn overview(&self, kind: AuthorityKind) -> Result<Overview, Status> {
        self.check_kind(kind)?;
        let overview = self.authorities.overview(kind);
        if overview.active.is_none() {
            return Err(status(Refusal::Initializing));
        }
        Ok(overview)
    }

    async fn carry_out(&self, kind: AuthorityKind, command: Command) -> Result<Summary, Status> {
        self.check_kind(kind)?;
        self.authorities.carry_out(command).await.map_err(status)
    }

    fn check_kind(&self, kind: AuthorityKind) -> Result<(), Status> {
        if kind == Jwt && !self.authorities.has_jwt {
            return Err(Status::unimplemented("JWT functionality is disabled"));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl LocalAuthority for LocalAuthorityService {
    async fn get_jwt_authority_state(
        &self,
        _: Request<api::GetJwtAuthorityStateRequest>,
    ) -> Result<Response<api::GetJwtAuthorityStateResponse>, Status> {
        let Overview { active, prepared, old } = self.overview(Jwt)?;
        let (active, prepared, old) = (active.map(state), prepared.map(state), old.map(state));
        Ok(Response::new(api::GetJwtAuthorityStateResponse { active, prepared, old }))
    }

    async fn prepare_jwt_authority(
        &self,
        _: Request<api::PrepareJwtAuthorityRequest>,
    ) -> Result<Response<api::PrepareJwtAuthorityResponse>, Status> {
        let prepared = self.carry_out(Jwt, Command::Prepare(Jwt)).await?;
        let prepared_authority = Some(state(prepared));
        Ok(Response::new(api::PrepareJwtAuthorityResponse { prepared_authority }))
    }

    async fn activate_jwt_authority(
        &self,
        request: Request<api::ActivateJwtAuthorityRequest>,
    ) -> Result<Response<api::ActivateJwtAuthorityResponse>, Status> {
        let id = about(request, LOCAL, |request| request.authority_id);
        let activated_authority = Some(state(self.carry_out(Jwt, Command::Activate(Jwt, id)).await?));
        Ok(Response::new(api::ActivateJwtAuthorityResponse { activated_authority }))
    }

    async fn taint_jwt_authority(
        &self,
        request: Request<api::TaintJwtAuthorityRequest>,
    ) -> Result<Response<api::TaintJwtAuthorityResponse>, Status> {
        let id = about(request, LOCAL, |request| request.authority_id);
        let tainted = self.carry_out(Jwt, Command::Taint(Jwt, id)).await?;
        // As the real server, which tells the id alone.
        let tainted_authority =
            Some(api::AuthorityState { authority_id: tainted.id, ..api::AuthorityState::default() });
        Ok(Response::new(api::TaintJwtAuthorityResponse { tainted_authority }))
    }

    async fn revoke_jwt_authority(
        &self,
        request: Request<api::RevokeJwtAuthorityRequest>,
    ) -> Result<Response<api::RevokeJwtAuthorityResponse>, Status> {
        let id = about(request, LOCAL, |request| request.authority_id);
        let revoked_authority = Some(state(self.carry_out(Jwt, Command::Revoke(Jwt, id)).await?));
        Ok(Response::new(api::RevokeJwtAuthorityResponse { revoked_authority }))
    }

    async fn get_x509_authority_state(
        &self,
        _: Request<api::GetX509AuthorityStateRequest>,
    ) -> Result<Response<api::GetX509AuthorityStateResponse>, Status> {
        let Overview { active, prepared, old } = self.overview(X509)?;
        let (active, prepared, old) = (active.map(state), prepared.map(state), old.map(state));
        Ok(Response::new(api::GetX509AuthorityStateResponse { active, prepared, old }))
    }

    async fn prepare_x509_authority(
        &self,
        _: Request<api::PrepareX509AuthorityRequest>,
    ) -> Result<Response<api::PrepareX509AuthorityResponse>, Status> {
        let prepared_authority = Some(state(self.carry_out(X509, Command::Prepare(X509)).await?));
        Ok(Response::new(api::PrepareX509AuthorityResponse { prepared_authority }))
    }

    async fn activate_x509_authority(
        &self,
        request: Request<api::ActivateX509AuthorityRequest>,
    ) -> Result<Response<api::ActivateX509AuthorityResponse>, Status> {
        let id = about(request, LOCAL, |request| request.authority_id);
        let activated_authority = Some(state(self.carry_out(X509, Command::Activate(X509, id)).await?));
        Ok(Response::new(api::ActivateX509AuthorityResponse { activated_authority }))
    }

    async fn taint_x509_authority(
        &self,
        request: Request<api::TaintX509AuthorityRequest>,
    ) -> Result<Response<api::TaintX509AuthorityResponse>, Status> {
        let id = about(request, LOCAL, |request| request.authority_id);
        let tainted_authority = Some(state(self.carry_out(X509, Command::Taint(X509, id)).await?));
        Ok(Response::new(api::TaintX509AuthorityResponse { tainted_authority }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        request: Request<api::TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<api::TaintX509UpstreamAuthorityResponse>, Status> {
        let id = about(request, UPSTREAM, |request| request.subject_key_id).to_lowercase();
        self.carry_out(X509, Command::TaintUpstream(id.clone())).await?;
        let upstream_authority_subject_key_id = id;
        Ok(Response::new(api::TaintX509UpstreamAuthorityResponse { upstream_authority_subject_key_id }))
    }

    async fn revoke_x509_authority(
        &self,
        request: Request<api::RevokeX509AuthorityRequest>,
    ) -> Result<Response<api::RevokeX509AuthorityResponse>, Status> {
        let id = about(request, LOCAL, |request| request.authority_id);
        let revoked_authority = Some(state(self.carry_out(X509, Command::Revoke(X509, id)).await?));
        Ok(Response::new(api::RevokeX509AuthorityResponse { revoked_authority }))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        request: Request<api::RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<api::RevokeX509UpstreamAuthorityResponse>, Status> {
        let id = about(request, UPSTREAM, |request| request.subject_key_id).to_lowercase();
        self.carry_out(X509, Command::RevokeUpstream(id.clone())).await?;
        let upstream_authority_subject_key_id = id;
        Ok(Response::new(api::RevokeX509UpstreamAuthorityResponse { upstream_authority_subject_key_id }))
    }

    async fn get_wit_authority_state(
        &self,
        _: Request<api::GetWitAuthorityStateRequest>,
    ) -> Result<Response<api::GetWitAuthorityStateResponse>, Status> {
        Err(no_wit())
    }

    async fn prepare_wit_authority(
        &self,
        _: Request<api::PrepareWitAuthorityRequest>,
    ) -> Result<Response<api::PrepareWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn activate_wit_authority(
        &self,
        _: Request<api::ActivateWitAuthorityRequest>,
    ) -> Result<Response<api::ActivateWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn taint_wit_authority(
        &self,
        _: Request<api::TaintWitAuthorityRequest>,
    ) -> Result<Response<api::TaintWitAuthorityResponse>, Status> {
        Err(no_wit())
    }

    async fn revoke_wit_authority(
        &self,
        _: Request<api::RevokeWitAuthorityRequest>,
    ) -> Result<Response<api::RevokeWitAuthorityResponse>, Status> {
        Err(no_wit())
    }
}

/// The authority that a request is about, which the audit log tells.
fn about<T>(request: Request<T>, field: &'static str, id: impl FnOnce(T) -> String) -> String {
    let audit = Audit::of(&request);
    let id = id(request.into_inner());
    if !id.is_empty() {
        audit.add(field, id.as_str());
    }
    id
}

const LOCAL: &str = "local_authority_id";
const UPSTREAM: &str = "subject_key_id";

fn no_wit() -> Status {
    Status::unimplemented("WIT-SVID functionality is not yet implemented")
}

fn state(summary: Summary) -> api::AuthorityState {
    api::AuthorityState {
        authority_id: summary.id,
        expires_at: summary.not_after,
        upstream_authority_subject_key_id: summary.upstream_id,
    }
}

/// A refused command, with the code of the real server.
fn status(refusal: Refusal) -> Status {
    let code = match &refusal {
        Refusal::Store(_, StoreError::Rejected(_)) => Code::Internal,
        Refusal::Store(what, cause) => return store_failed(what, cause),
        Refusal::Slot(SlotError::NotPrepared(_) | SlotError::InUse) => Code::Internal,
        Refusal::Slot(_) | Refusal::Invalid(..) => Code::InvalidArgument,
        Refusal::HasUpstream(_) | Refusal::NoUpstream => Code::FailedPrecondition,
        Refusal::Initializing | Refusal::Away(_) => Code::Unavailable,
        Refusal::Rotate(_, RotateError::Create(_) | RotateError::Publish(_) | RotateError::Slot(_)) => {
            Code::Internal
        }
    };
    let text = Chain(&refusal).to_string();
    tracing::error!(error = text, "Command to the authorities refused");
    match retry_after(&refusal) {
        Some(after) => retry_later(text, after),
        None => Status::new(code, text),
    }
}

/// When to come back, if waiting helps.
fn retry_after(refusal: &Refusal) -> Option<std::time::Duration> {
    match refusal {
        Refusal::Initializing | Refusal::Away(_) => Some(SOON),
        Refusal::Rotate(_, RotateError::Publish(cause)) => {
            cause.downcast_ref::<StoreError>().and_then(StoreError::retry_after)
        }
        _ => None,
    }
}
