//! What servers below this one ask for: a certificate for their X.509 authority, and that their JWT keys are known.

use bytes::Bytes;
use tonic::{Request, Status};
use tracing::debug;
use vouchsafe_ca::x509::csr::{VerifyProofOfPossession, parse_csr};
use vouchsafe_proto::convert::{jwt_authority_from_proto, jwt_authority_to_proto};
use vouchsafe_proto::spire::api::server::bundle::v1::{
    PublishJwtAuthorityRequest, PublishJwtAuthorityResponse,
};
use vouchsafe_proto::spire::api::server::svid::v1::{
    NewDownstreamX509caRequest, NewDownstreamX509caResponse,
};
use vouchsafe_types::trust_domain::TrustDomain;

use super::svid::sign_failed;
use crate::audit::{Audit, csr_hash};
use crate::authorities::JwtPublisher;
use crate::authorize::Caller;
use crate::issuer::Issuer;
use crate::model::ReadModel;
use crate::status::{failed, invalid};

/// Certifies the X.509 authority of a downstream server.
pub(super) async fn new_x509_ca(
    trust_domain: &TrustDomain,
    (issuer, model): (&Issuer, &ReadModel),
    request: Request<NewDownstreamX509caRequest>,
) -> Result<NewDownstreamX509caResponse, Status> {
    const WHAT: &str = "failed to sign downstream X.509 CA";
    let Some(Caller::Downstream(id)) = request.extensions().get::<Caller>().cloned() else {
        return Err(Status::internal("caller is not a downstream workload"));
    };
    let audit = Audit::of(&request);
    let request = request.into_inner();
    audit.add_csr(&request.csr);
    audit.add("trust_domain_id", trust_domain.id_string());
    let csr = parse_csr(&request.csr, VerifyProofOfPossession::Yes)
        .map_err(|e| Status::invalid_argument(e.status_text()))?;
    // The real server takes a negative one for none given.
    let ttl = u32::try_from(request.preferred_ttl).unwrap_or(0);
    let issued = issuer.downstream_x509_ca(&csr.public_key_der, ttl).await;
    let issued = issued.map_err(|cause| sign_failed(WHAT, &cause))?;
    audit.add("expires_at", issued.not_after);
    debug!(spiffe_id = trust_domain.id_string(), downstream = %id, expiration = issued.not_after, "Signed X509 CA SVID");
    let snapshot = model.load();
    let bundle = snapshot.bundles.get(trust_domain).ok_or_else(|| Status::not_found("bundle not found"))?;
    let bytes = |der: &[u8]| Bytes::copy_from_slice(der);
    Ok(NewDownstreamX509caResponse {
        ca_cert_chain: issued.chain.iter().map(|der| bytes(der)).collect(),
        x509_authorities: bundle.x509_authorities.iter().map(|authority| bytes(&authority.der)).collect(),
    })
}

/// Makes a downstream server's JWT authority known; gives all that are.
pub(super) async fn publish_jwt(
    publisher: &JwtPublisher,
    request: &Request<PublishJwtAuthorityRequest>,
) -> Result<PublishJwtAuthorityResponse, Status> {
    let message = request.get_ref().jwt_authority.as_ref();
    let message = message.ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
    let audit = Audit::of(request);
    audit.add("jwt_authority_expires_at", message.expires_at);
    audit.add("jwt_authority_key_id", message.key_id.as_str());
    audit.add("jwt_authority_public_key_sha256", csr_hash(&message.public_key));
    let mut authority = jwt_authority_from_proto(message).map_err(|e| invalid("invalid JWT authority", e))?;
    // Taint is this trust domain's operators' to say.
    authority.tainted = false;
    let known = publisher.publish(authority).await;
    let known = known.map_err(|cause| failed(tonic::Code::Internal, "failed to publish JWT key", cause))?;
    Ok(PublishJwtAuthorityResponse { jwt_authorities: known.iter().map(jwt_authority_to_proto).collect() })
}
