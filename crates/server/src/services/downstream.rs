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
    let request = request.into_inner();
    let csr = parse_csr(&request.csr, VerifyProofOfPossession::Yes)
        .map_err(|e| Status::invalid_argument(e.status_text()))?;
    // The real server takes a negative one for none given.
    let ttl = u32::try_from(request.preferred_ttl).unwrap_or(0);
    let issued = issuer.downstream_x509_ca(&csr.public_key_der, ttl).await;
    let issued = issued.map_err(|cause| sign_failed(WHAT, &cause))?;
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
    request: &PublishJwtAuthorityRequest,
) -> Result<PublishJwtAuthorityResponse, Status> {
    let message = request.jwt_authority.as_ref();
    let message = message.ok_or_else(|| Status::invalid_argument("missing JWT authority"))?;
    let mut authority = jwt_authority_from_proto(message).map_err(|e| invalid("invalid JWT authority", e))?;
    // Taint is this trust domain's operators' to say.
    authority.tainted = false;
    let known = publisher.publish(authority).await;
    let known = known.map_err(|cause| failed(tonic::Code::Internal, "failed to publish JWT key", cause))?;
    Ok(PublishJwtAuthorityResponse { jwt_authorities: known.iter().map(jwt_authority_to_proto).collect() })
}
