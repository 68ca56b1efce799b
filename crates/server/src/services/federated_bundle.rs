//! Bundles of foreign trust domains, one by one, as the batch calls of the bundle service have them.

use std::sync::Arc;

use tonic::{Code, Status};
use tracing::{debug, info, warn};
use vouchsafe_proto::convert::{bundle_from_proto, bundle_to_proto};
use vouchsafe_proto::spire::api::server::bundle::v1::batch_delete_federated_bundle_request::Mode;
use vouchsafe_proto::spire::api::server::bundle::v1::{
    ListFederatedBundlesRequest, ListFederatedBundlesResponse,
};
use vouchsafe_proto::spire::api::types;
use vouchsafe_store::{BundleWrite, DeleteMode, Error as StoreError, Store};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::model::ReadModel;
use crate::page::Page;
use crate::status::{failed, invalid, store_failed};

/// Foreign bundles: reads from the model, writes to the store.
pub(super) struct FederatedBundles<'a> {
    pub(super) trust_domain: &'a TrustDomain,
    pub(super) model: &'a ReadModel,
    pub(super) store: &'a Arc<dyn Store>,
}

/// A write of one bundle, and how its failure is told.
#[derive(Clone, Copy)]
pub(super) struct Write {
    how: BundleWrite,
    /// Refusal of the server's own trust domain.
    own: &'static str,
    failed: &'static str,
}

/// Adds a bundle.
pub(super) const CREATE: Write = Write {
    how: BundleWrite::Create,
    own: "creating a federated bundle for the server's own trust domain is not allowed",
    failed: "unable to create bundle",
};
/// Changes fields of a bundle.
pub(super) const UPDATE: Write = Write {
    how: BundleWrite::Update,
    own: "updating a federated bundle for the server's own trust domain is not allowed",
    failed: "failed to update bundle",
};
/// Adds or replaces a bundle.
pub(super) const SET: Write = Write {
    how: BundleWrite::Set,
    own: "setting a federated bundle for the server's own trust domain is not allowed",
    failed: "failed to set bundle",
};

impl FederatedBundles<'_> {
    /// A page in order of trust domain.
    pub(super) fn list(&self, request: &ListFederatedBundlesRequest) -> ListFederatedBundlesResponse {
        let page = Page::new(request.page_size, &request.page_token);
        let snapshot = self.model.load();
        let mut foreign: Vec<&Arc<Bundle>> = snapshot
            .bundles
            .values()
            .filter(|bundle| bundle.trust_domain != *self.trust_domain)
            .filter(|bundle| page.after.is_none_or(|after| bundle.trust_domain.as_str() > after))
            .collect();
        foreign.sort_unstable_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
        let (bundles, next_page_token) =
            page.cut(foreign.into_iter(), |bundle| bundle.trust_domain.to_string());
        let bundles = bundles.map(|bundle| bundle_to_proto(bundle, request.output_mask.as_ref())).collect();
        ListFederatedBundlesResponse { bundles, next_page_token }
    }

    /// Writes the fields of `input_mask` (all of them without one).
    pub(super) async fn write(
        &self,
        write: Write,
        message: &types::Bundle,
        input_mask: Option<types::BundleMask>,
    ) -> Result<Bundle, Status> {
        let written = self.try_write(write, message, input_mask).await;
        match (&written, write.how) {
            (Ok(bundle), BundleWrite::Create) => {
                debug!(trust_domain_id = %bundle.trust_domain, "Federated bundle created");
            }
            (Ok(bundle), BundleWrite::Update) => {
                debug!(trust_domain_id = %bundle.trust_domain, "Federated bundle updated");
            }
            (Ok(bundle), BundleWrite::Set) => {
                info!(trust_domain_id = %bundle.trust_domain, "Bundle set successfully");
            }
            (Err(status), _) => {
                warn!(
                    trust_domain_id = message.trust_domain,
                    error = status.message(),
                    "Federated bundle refused"
                );
            }
        }
        written
    }

    async fn try_write(
        &self,
        write: Write,
        message: &types::Bundle,
        input_mask: Option<types::BundleMask>,
    ) -> Result<Bundle, Status> {
        let trust_domain = self.foreign(&message.trust_domain, write.own)?;
        let mut given = bundle_from_proto(message).map_err(|e| invalid("failed to convert bundle", e))?;
        untaint(&mut given);
        let change = move |held: &mut Bundle| {
            merge(held, &given, input_mask.as_ref());
            Ok(())
        };
        match self.store.put_bundle(&trust_domain, write.how, Box::new(change)).await {
            Ok(update) => {
                self.model.settled(update.position).await;
                Ok(update.bundle)
            }
            Err(StoreError::AlreadyExists { .. }) => Err(Status::already_exists("bundle already exists")),
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("bundle not found")),
            Err(cause) => Err(store_failed(write.failed, &cause)),
        }
    }

    /// Removes a bundle.
    pub(super) async fn delete(&self, name: &str, mode: DeleteMode) -> Result<(), Status> {
        let own = "removing the bundle for the server trust domain is not allowed";
        let trust_domain = self.foreign(name, own)?;
        match self.store.delete_bundle(&trust_domain, mode).await {
            Ok((_, position)) => {
                self.model.settled(position).await;
                info!(trust_domain_id = %trust_domain, mode = ?mode, "Federated bundle deleted");
                Ok(())
            }
            Err(StoreError::NotFound { .. }) => Err(Status::not_found("bundle not found")),
            Err(StoreError::Rejected(why)) => {
                // SPIRE's tools show the name of its store.
                let why = format!("datastore-sql: {why}");
                Err(failed(Code::FailedPrecondition, DELETE_FAILED, why))
            }
            Err(cause) => Err(store_failed(DELETE_FAILED, &cause)),
        }
    }

    fn foreign(&self, name: &str, own: &'static str) -> Result<TrustDomain, Status> {
        let trust_domain =
            TrustDomain::parse(name).map_err(|e| invalid("trust domain argument is not valid", e))?;
        if trust_domain == *self.trust_domain {
            return Err(Status::invalid_argument(own));
        }
        Ok(trust_domain)
    }
}

/// What a request's mode means.
pub(super) fn delete_mode(mode: i32) -> Result<DeleteMode, Status> {
    match Mode::try_from(mode) {
        Ok(Mode::Restrict) => Ok(DeleteMode::Restrict),
        Ok(Mode::Delete) => Ok(DeleteMode::Delete),
        Ok(Mode::Dissociate) => Ok(DeleteMode::Dissociate),
        Err(_) => Err(invalid("failed to parse deletion mode", format!("unhandled delete mode \"{mode}\""))),
    }
}

/// The name of a mode.
pub(super) fn mode_name(mode: DeleteMode) -> &'static str {
    match mode {
        DeleteMode::Restrict => Mode::Restrict,
        DeleteMode::Delete => Mode::Delete,
        DeleteMode::Dissociate => Mode::Dissociate,
    }
    .as_str_name()
}

/// Taint is said of the own trust domain's authorities, by its operators; of foreign ones nothing is known.
pub(super) fn untaint(bundle: &mut Bundle) {
    bundle.x509_authorities.iter_mut().for_each(|authority| authority.tainted = false);
    bundle.jwt_authorities.iter_mut().for_each(|authority| authority.tainted = false);
}

fn merge(held: &mut Bundle, given: &Bundle, mask: Option<&types::BundleMask>) {
    let wants = |field: fn(&types::BundleMask) -> bool| mask.is_none_or(field);
    if wants(|m| m.x509_authorities) {
        held.x509_authorities.clone_from(&given.x509_authorities);
    }
    if wants(|m| m.jwt_authorities) {
        held.jwt_authorities.clone_from(&given.jwt_authorities);
    }
    if wants(|m| m.refresh_hint) {
        held.refresh_hint = given.refresh_hint;
    }
    if wants(|m| m.sequence_number) {
        held.sequence_number = given.sequence_number;
    }
}

const DELETE_FAILED: &str = "failed to delete federated bundle";
