//! SVIDs for workloads.

use vouchsafe_ca::jwt::{JwtTemplate, sign_jwt_svid_now};

use super::*;

#[tonic::async_trait]
impl svid::v1::svid_server::Svid for Fake {
    async fn batch_new_x509svid(
        &self,
        request: Request<svid::v1::BatchNewX509svidRequest>,
    ) -> Result<Response<svid::v1::BatchNewX509svidResponse>, Status> {
        self.admit(&request, false).await?;
        if let Some(status) = self.x509_refusal.lock().unwrap().clone() {
            return Err(status);
        }
        let entries = self.entries.lock().unwrap().clone();
        let ttl = Duration::from_secs(self.x509_ttl.load(Ordering::SeqCst));
        let one = |param: svid::v1::NewX509svidParams| {
            let Some(entry) = entries.get(&param.entry_id) else {
                let status = types::Status { code: 5, message: "entry not found or not authorized".into() };
                return svid::v1::batch_new_x509svid_response::Result { status: Some(status), svid: None };
            };
            if self.cannot_sign.load(Ordering::SeqCst) {
                let status = types::Status { code: 13, message: "failed to sign X509-SVID".into() };
                return svid::v1::batch_new_x509svid_response::Result { status: Some(status), svid: None };
            }
            self.issued.fetch_add(1, Ordering::SeqCst);
            let csr = parse_csr(&param.csr, VerifyProofOfPossession::Yes).unwrap();
            let id = spiffe_id_from_proto(entry.spiffe_id.as_ref()).unwrap();
            let svid = self.proto(&id, &self.issue(&id, &csr.public_key_der, ttl));
            svid::v1::batch_new_x509svid_response::Result {
                status: Some(types::Status::default()),
                svid: Some(svid),
            }
        };
        let results = request.into_inner().params.into_iter().map(one).collect();
        Ok(Response::new(svid::v1::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<svid::v1::NewJwtsvidRequest>,
    ) -> Result<Response<svid::v1::NewJwtsvidResponse>, Status> {
        self.admit(&request, false).await?;
        let request = request.into_inner();
        self.jwts_asked.lock().unwrap().push(request.entry_id.clone());
        if let Some(status) = self.jwt_refusal.lock().unwrap().clone() {
            return Err(status);
        }
        let entry = self.entries.lock().unwrap().get(&request.entry_id).cloned();
        let entry = entry.ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        let id = spiffe_id_from_proto(entry.spiffe_id.as_ref()).unwrap();
        self.jwts.fetch_add(1, Ordering::SeqCst);
        let template = JwtTemplate {
            spiffe_id: &id,
            audience: &request.audience,
            ttl: Duration::from_secs(self.jwt_ttl.load(Ordering::SeqCst)),
            now: self.clock.now(),
            issuer: None,
            jti: None,
        };
        let key = self.authorities.lock().unwrap().jwt.clone();
        let signed = sign_jwt_svid_now(&key, &template).unwrap().unwrap();
        let svid = types::Jwtsvid {
            token: signed.token.clone(),
            id: entry.spiffe_id,
            expires_at: signed.expires_at,
            issued_at: signed.issued_at,
            hint: String::new(),
        };
        self.hand_out_jwts.subscribe().wait_for(|now| *now).await.unwrap();
        Ok(Response::new(svid::v1::NewJwtsvidResponse { svid: Some(svid) }))
    }

    unused! {
        mint_x509svid(svid::v1::MintX509svidRequest) -> svid::v1::MintX509svidResponse;
        mint_jwtsvid(svid::v1::MintJwtsvidRequest) -> svid::v1::MintJwtsvidResponse;
        mint_witsvid(svid::v1::MintWitsvidRequest) -> svid::v1::MintWitsvidResponse;
        batch_new_witsvid(svid::v1::BatchNewWitsvidRequest) -> svid::v1::BatchNewWitsvidResponse;
        new_downstream_x509ca(svid::v1::NewDownstreamX509caRequest) -> svid::v1::NewDownstreamX509caResponse;
    }
}
