//! `spire.api.server.bundle.v1.Bundle`: this trust domain's bundle and those of others.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::info;
use vouchsafe_proto::convert::{bundle_to_proto, jwt_authority_from_proto, x509_authority_from_proto};
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_server::Bundle as BundleApi;
use vouchsafe_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse, BatchSetFederatedBundleRequest,
    BatchSetFederatedBundleResponse, BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse,
    CountBundlesRequest, CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest,
    ListFederatedBundlesRequest, ListFederatedBundlesResponse, PublishJwtAuthorityRequest,
    PublishJwtAuthorityResponse, PublishWitAuthorityRequest, PublishWitAuthorityResponse,
    batch_create_federated_bundle_response, batch_delete_federated_bundle_response,
    batch_set_federated_bundle_response, batch_update_federated_bundle_response,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_store::Store;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use super::downstream;
use super::federated_bundle::{CREATE, FederatedBundles, SET, UPDATE, delete_mode, mode_name, untaint};
use crate::audit::{self, Audit};
use crate::authorities::JwtPublisher;
use crate::model::ReadModel;
use crate::status::{invalid, item_status, store_failed};

/// Bundles: reads from the model; an append goes to the store.
pub(crate) struct BundleService {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) publisher: JwtPublisher,
}

impl BundleService {
    fn federated(&self) -> FederatedBundles<'_> {
        FederatedBundles { trust_domain: &self.trust_domain, model: &self.model, store: &self.store }
    }
}

#[tonic::async_trait]
impl BundleApi for BundleService {
    async fn count_bundles(
        &self,
        _: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        let count = self.model.load().bundles.len();
        Ok(Response::new(CountBundlesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Audit::of(&request).add("trust_domain_id", self.trust_domain.as_str());
        let snapshot = self.model.load();
        let bundle = snapshot.bundles.get(&self.trust_domain);
        let bundle = bundle.ok_or_else(|| Status::not_found("bundle not found"))?;
        Ok(Response::new(bundle_to_proto(bundle, request.get_ref().output_mask.as_ref())))
    }

    async fn append_bundle(
        &self,
        request: Request<AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add_all(|| audit::authority_fields(&request.x509_authorities, &request.jwt_authorities));
        if request.x509_authorities.is_empty() && request.jwt_authorities.is_empty() {
            return Err(Status::invalid_argument("no authorities to append"));
        }
        let jwt: Result<Vec<_>, _> = request.jwt_authorities.iter().map(jwt_authority_from_proto).collect();
        let jwt = jwt.map_err(|e| invalid("failed to convert JWT authority", e))?;
        let x509: Result<Vec<_>, _> =
            request.x509_authorities.iter().map(x509_authority_from_proto).collect();
        let x509 = x509.map_err(|e| invalid("failed to convert X.509 authority", e))?;
        // Taint is said by the local authority's calls alone.
        let mut given = Bundle::new(self.trust_domain.clone());
        given.append(x509, jwt);
        untaint(&mut given);
        let change = move |bundle: &mut Bundle| {
            bundle.append(given.x509_authorities.clone(), given.jwt_authorities.clone());
            Ok(())
        };
        let updated = self.store.update_bundle(&self.trust_domain, Box::new(change)).await;
        let updated = updated.map_err(|cause| store_failed("failed to append bundle", &cause))?;
        self.model.settled(updated.position).await;
        info!(trust_domain = %self.trust_domain, sequence = updated.bundle.sequence_number, "Bundle appended");
        Ok(Response::new(bundle_to_proto(&updated.bundle, request.output_mask.as_ref())))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add("trust_domain_id", request.trust_domain.as_str());
        let wanted = TrustDomain::parse(&request.trust_domain)
            .map_err(|e| invalid("trust domain argument is not valid", e))?;
        if wanted == self.trust_domain {
            return Err(Status::invalid_argument(
                "getting a federated bundle for the server's own trust domain is not allowed",
            ));
        }
        let snapshot = self.model.load();
        let bundle = snapshot.bundles.get(&wanted).ok_or_else(|| Status::not_found("bundle not found"))?;
        Ok(Response::new(bundle_to_proto(bundle, request.output_mask.as_ref())))
    }

    async fn publish_jwt_authority(
        &self,
        request: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        downstream::publish_jwt(&self.publisher, &request).await.map(Response::new)
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("WIT-SVID functionality is not yet implemented"))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        Ok(Response::new(self.federated().list(request.get_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for message in &request.bundle {
            let outcome = self.federated().write(CREATE, message, None).await;
            results.push(batch_create_federated_bundle_response::Result {
                status: Some(item_status(outcome.as_ref().map(drop))),
                bundle: outcome.ok().map(|bundle| bundle_to_proto(&bundle, request.output_mask.as_ref())),
            });
            audit.item(results.last().and_then(|it| it.status.as_ref()), || {
                audit::bundle_fields(message, None)
            });
        }
        Ok(Response::new(BatchCreateFederatedBundleResponse { results }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for message in &request.bundle {
            let outcome = self.federated().write(UPDATE, message, request.input_mask).await;
            results.push(batch_update_federated_bundle_response::Result {
                status: Some(item_status(outcome.as_ref().map(drop))),
                bundle: outcome.ok().map(|bundle| bundle_to_proto(&bundle, request.output_mask.as_ref())),
            });
            audit.item(results.last().and_then(|it| it.status.as_ref()), || {
                audit::bundle_fields(message, request.input_mask.as_ref())
            });
        }
        Ok(Response::new(BatchUpdateFederatedBundleResponse { results }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.bundle.len());
        for message in &request.bundle {
            let outcome = self.federated().write(SET, message, None).await;
            results.push(batch_set_federated_bundle_response::Result {
                status: Some(item_status(outcome.as_ref().map(drop))),
                bundle: outcome.ok().map(|bundle| bundle_to_proto(&bundle, request.output_mask.as_ref())),
            });
            audit.item(results.last().and_then(|it| it.status.as_ref()), || {
                audit::bundle_fields(message, None)
            });
        }
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mode = delete_mode(request.mode)?;
        let mut results = Vec::with_capacity(request.trust_domains.len());
        for trust_domain in request.trust_domains {
            let outcome = self.federated().delete(&trust_domain, mode).await;
            let status = Some(item_status(outcome.as_ref().copied()));
            let about =
                || vec![("trust_domain_id", trust_domain.as_str().into()), ("mode", mode_name(mode).into())];
            audit.item(status.as_ref(), about);
            results.push(batch_delete_federated_bundle_response::Result { status, trust_domain });
        }
        Ok(Response::new(BatchDeleteFederatedBundleResponse { results }))
    }
}
