//! `spire.api.server.trustdomain.v1.TrustDomain`: where foreign bundles are fetched.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use tracing::{debug, warn};
use vouchsafe_proto::convert::{federation_from_proto, federation_to_proto};
use vouchsafe_proto::spire::api::server::trustdomain::v1 as api;
use vouchsafe_proto::spire::api::server::trustdomain::v1::trust_domain_server::TrustDomain as TrustDomainApi;
use vouchsafe_proto::spire::api::types;
use vouchsafe_store::{Error as StoreError, Store};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::federation::{EndpointProfile, FederationRelationship};
use vouchsafe_types::trust_domain::TrustDomain;

use super::federated_bundle::untaint;
use crate::audit::{self, Audit};
use crate::federation::{RefreshError, Refresher};
use crate::model::ReadModel;
use crate::page::Page;
use crate::status::{failed, invalid, item_status, store_failed};

/// Federation relationships: reads from the model, writes to the store.
pub(crate) struct TrustDomainService {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) refresher: Refresher,
}

type Mask = types::FederationRelationshipMask;

impl TrustDomainService {
    async fn create(
        &self,
        message: &types::FederationRelationship,
    ) -> Result<FederationRelationship, Status> {
        let (relationship, bundle) = parse(message)?;
        if relationship.trust_domain == self.trust_domain {
            return Err(Status::invalid_argument(
                "unable to create federation relationship for server trust domain",
            ));
        }
        let created = self.store.create_federation(relationship.clone(), bundle).await;
        let position = created.map_err(|cause| match cause {
            // The words of SPIRE with the same engine.
            StoreError::AlreadyExists { .. } => failed(Code::Internal, CREATE_FAILED, EXISTS),
            cause => store_failed(CREATE_FAILED, &cause),
        })?;
        self.model.settled(position).await;
        self.warn_without_bundle(&relationship);
        debug!(trust_domain_id = %relationship.trust_domain, "Federation relationship created");
        Ok(relationship)
    }

    async fn update(
        &self,
        message: &types::FederationRelationship,
        mask: Option<Mask>,
    ) -> Result<FederationRelationship, Status> {
        let (given, bundle) = parse(message)?;
        let wants = move |field: fn(&Mask) -> bool| mask.as_ref().is_none_or(field);
        let bundle = bundle.filter(|_| wants(|m| m.trust_domain_bundle));
        let trust_domain = given.trust_domain.clone();
        let change = move |held: &mut FederationRelationship| {
            if wants(|m| m.bundle_endpoint_url) {
                held.bundle_endpoint_url = given.bundle_endpoint_url.clone();
            }
            if wants(|m| m.bundle_endpoint_profile) {
                held.bundle_endpoint_profile = given.bundle_endpoint_profile.clone();
            }
            Ok(())
        };
        let updated = self.store.update_federation(&trust_domain, Box::new(change), bundle).await;
        let (relationship, position) = updated.map_err(|cause| match cause {
            StoreError::NotFound { .. } => failed(Code::Internal, UPDATE_FAILED, MISSING),
            cause => store_failed(UPDATE_FAILED, &cause),
        })?;
        self.model.settled(position).await;
        self.warn_without_bundle(&relationship);
        debug!(trust_domain_id = %trust_domain, "Federation relationship updated");
        Ok(relationship)
    }

    async fn delete(&self, name: &str) -> Result<TrustDomain, Status> {
        if name.is_empty() {
            return Err(Status::invalid_argument("missing trust domain"));
        }
        let trust_domain =
            TrustDomain::parse(name).map_err(|e| invalid("failed to parse trust domain", e))?;
        match self.store.delete_federation(&trust_domain).await {
            Ok((_, position)) => {
                self.model.settled(position).await;
                debug!(trust_domain_id = %trust_domain, "Federation relationship deleted");
                Ok(trust_domain)
            }
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("federation relationship not found")),
            Err(cause) => Err(store_failed("failed to delete federation relationship", &cause)),
        }
    }

    /// An operator who federates by SPIFFE ID has to set the endpoint's bundle once.
    fn warn_without_bundle(&self, relationship: &FederationRelationship) {
        let EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } = &relationship.bundle_endpoint_profile
        else {
            return;
        };
        if !self.model.load().bundles.contains_key(&endpoint_spiffe_id.trust_domain()) {
            warn!(
                trust_domain_id = %relationship.trust_domain,
                endpoint_spiffe_id = %endpoint_spiffe_id,
                "bundle not found for the endpoint SPIFFE ID trust domain"
            );
        }
    }

    fn message(&self, held: &FederationRelationship, mask: Option<&Mask>) -> types::FederationRelationship {
        let snapshot = self.model.load();
        federation_to_proto(held, snapshot.bundles.get(&held.trust_domain).map(|bundle| &**bundle), mask)
    }
}

#[tonic::async_trait]
impl TrustDomainApi for TrustDomainService {
    async fn list_federation_relationships(
        &self,
        request: Request<api::ListFederationRelationshipsRequest>,
    ) -> Result<Response<api::ListFederationRelationshipsResponse>, Status> {
        let request = request.into_inner();
        let page = Page::new(request.page_size, &request.page_token);
        let snapshot = self.model.load();
        let held = snapshot.federation.values();
        let held = held.filter(|held| page.after.is_none_or(|after| held.trust_domain.as_str() > after));
        let (held, next_page_token) = page.cut(held, |held| held.trust_domain.to_string());
        let mask = request.output_mask.as_ref();
        let federation_relationships = held.map(|held| self.message(held, mask)).collect();
        Ok(Response::new(api::ListFederationRelationshipsResponse {
            federation_relationships,
            next_page_token,
        }))
    }

    async fn get_federation_relationship(
        &self,
        request: Request<api::GetFederationRelationshipRequest>,
    ) -> Result<Response<types::FederationRelationship>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        audit.add("trust_domain_id", request.trust_domain.as_str());
        let wanted = TrustDomain::parse(&request.trust_domain)
            .map_err(|e| invalid("failed to parse trust domain", e))?;
        let snapshot = self.model.load();
        let held = snapshot.federation.get(&wanted);
        let held = held.ok_or_else(|| Status::not_found("federation relationship does not exist"))?;
        Ok(Response::new(self.message(held, request.output_mask.as_ref())))
    }

    async fn batch_create_federation_relationship(
        &self,
        request: Request<api::BatchCreateFederationRelationshipRequest>,
    ) -> Result<Response<api::BatchCreateFederationRelationshipResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.federation_relationships.len());
        for message in &request.federation_relationships {
            let outcome = self.create(message).await;
            results.push(api::batch_create_federation_relationship_response::Result {
                status: Some(item_status(outcome.as_ref().map(drop))),
                federation_relationship: outcome
                    .ok()
                    .map(|held| self.message(&held, request.output_mask.as_ref())),
            });
            audit.item(results.last().and_then(|it| it.status.as_ref()), || {
                audit::relationship_fields(message, None)
            });
        }
        Ok(Response::new(api::BatchCreateFederationRelationshipResponse { results }))
    }

    async fn batch_update_federation_relationship(
        &self,
        request: Request<api::BatchUpdateFederationRelationshipRequest>,
    ) -> Result<Response<api::BatchUpdateFederationRelationshipResponse>, Status> {
        let audit = Audit::of(&request);
        let request = request.into_inner();
        let mut results = Vec::with_capacity(request.federation_relationships.len());
        for message in &request.federation_relationships {
            let outcome = self.update(message, request.input_mask).await;
            results.push(api::batch_update_federation_relationship_response::Result {
                status: Some(item_status(outcome.as_ref().map(drop))),
                federation_relationship: outcome
                    .ok()
                    .map(|held| self.message(&held, request.output_mask.as_ref())),
            });
            audit.item(results.last().and_then(|it| it.status.as_ref()), || {
                audit::relationship_fields(message, request.input_mask.as_ref())
            });
        }
        Ok(Response::new(api::BatchUpdateFederationRelationshipResponse { results }))
    }

    async fn batch_delete_federation_relationship(
        &self,
        request: Request<api::BatchDeleteFederationRelationshipRequest>,
    ) -> Result<Response<api::BatchDeleteFederationRelationshipResponse>, Status> {
        let audit = Audit::of(&request);
        let names = request.into_inner().trust_domains;
        let mut results = Vec::with_capacity(names.len());
        for name in names {
            let outcome = self.delete(&name).await;
            results.push(api::batch_delete_federation_relationship_response::Result {
                status: Some(item_status(outcome.as_ref().map(drop))),
                // What parses comes back as the bare name.
                trust_domain: TrustDomain::parse(&name).map_or(name, |parsed| parsed.to_string()),
            });
            audit.item(results.last().and_then(|it| it.status.as_ref()), || {
                results
                    .last()
                    .map(|it| ("trust_domain_id", it.trust_domain.as_str().into()))
                    .into_iter()
                    .collect()
            });
        }
        Ok(Response::new(api::BatchDeleteFederationRelationshipResponse { results }))
    }

    async fn refresh_bundle(
        &self,
        request: Request<api::RefreshBundleRequest>,
    ) -> Result<Response<()>, Status> {
        Audit::of(&request).add("trust_domain_id", request.get_ref().trust_domain.as_str());
        let wanted = TrustDomain::parse(&request.into_inner().trust_domain)
            .map_err(|e| invalid("failed to parse trust domain", e))?;
        match self.refresher.refresh(&wanted).await {
            Ok(()) => {
                debug!(trust_domain_id = %wanted, "Bundle refreshed");
                Ok(Response::new(()))
            }
            Err(RefreshError::NotManaged) => {
                Err(Status::not_found(format!("no relationship with trust domain \"{wanted}\"")))
            }
            Err(RefreshError::Failed(why)) => Err(failed(Code::Internal, "failed to refresh bundle", why)),
            Err(RefreshError::Stopping) => Err(Status::unavailable("the server is stopping")),
        }
    }
}

fn parse(
    message: &types::FederationRelationship,
) -> Result<(FederationRelationship, Option<Bundle>), Status> {
    let parsed = federation_from_proto(message);
    let (relationship, mut bundle) =
        parsed.map_err(|e| invalid("failed to convert federation relationship", e))?;
    bundle.iter_mut().for_each(untaint);
    Ok((relationship, bundle))
}

const CREATE_FAILED: &str = "failed to create federation relationship";
const UPDATE_FAILED: &str = "failed to update federation relationship";
const EXISTS: &str = "datastore-sql: UNIQUE constraint failed: federated_trust_domains.trust_domain";
const MISSING: &str = "unable to fetch federation relationship: record not found";
