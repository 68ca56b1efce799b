//! Fetches one foreign bundle and stores it.
//!
//! Nothing that the endpoint does harms more than its own trust domain's bundle: a deadline and a bound hold for the
//! answer, a redirect is not followed, and a document that cannot be read wholly changes nothing.

use std::sync::Arc;
use std::time::Duration;

use vouchsafe_identity::config::{Expect, KeyExchange, ServerTrust, client_config_with};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_identity::web::{self, WebRoots, web_client_config};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_store::{BundleWrite, Error as StoreError, Rejected, Store};
use vouchsafe_transport::fetch::{self, Bounds, Target, fetch};
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::bundle::format::{FormatError, from_spiffe_json};
use vouchsafe_types::federation::{EndpointProfile, FederationRelationship};
use vouchsafe_types::trust_domain::TrustDomain;

use crate::model::ReadModel;

/// What a fetch needs.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) model: Arc<ReadModel>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    pub(super) web_roots: WebRoots,
    /// With endpoints that have an SVID; the web is taken as it is, as in SPIRE.
    pub(super) key_exchange: KeyExchange,
    pub(super) deadline: Duration,
}

/// What a fetch found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fetched {
    /// Another bundle than the one held; it is stored.
    Changed,
    /// The one held.
    Same,
}

/// Bytes of a bundle document. What it holds still fits into one gRPC message to an agent.
const MAX_DOCUMENT: usize = 4 << 20;
/// Bytes of an error page that are told.
const MAX_TOLD: usize = 200;

impl Fetcher {
    /// Fetches the bundle that `from` leads to. A bundle that its own sequence number tells to be older than the held one
    /// is taken only with `believe_older`.
    pub(super) async fn update(
        &self,
        from: &FederationRelationship,
        believe_older: bool,
    ) -> Result<Fetched, UpdateError> {
        let fetched = self.fetch(from).await?;
        let held = self.model.load().bundles.get(&from.trust_domain).cloned();
        if held.as_deref() == Some(&fetched) {
            return Ok(Fetched::Same);
        }
        let change = move |held: &mut Bundle| {
            if is_older(&fetched, held) && !believe_older {
                return Err(Rejected::new("older"));
            }
            held.clone_from(&fetched);
            Ok(())
        };
        match self.store.put_bundle(&from.trust_domain, BundleWrite::Set, Box::new(change)).await {
            Ok(update) => {
                self.model.settled(update.position).await;
                Ok(if update.changed { Fetched::Changed } else { Fetched::Same })
            }
            Err(StoreError::Rejected(_)) => Err(UpdateError::Older),
            Err(source) => Err(UpdateError::Store { source }),
        }
    }

    async fn fetch(&self, from: &FederationRelationship) -> Result<Bundle, UpdateError> {
        let target = self.target(from)?;
        let bounds = Bounds { deadline: self.deadline, body: MAX_DOCUMENT };
        let answer = fetch(&target, bounds).await.map_err(|source| UpdateError::Fetch {
            source,
            hint: match from.bundle_endpoint_profile {
                EndpointProfile::HttpsWeb => WEB_HINT,
                EndpointProfile::HttpsSpiffe { .. } => "",
            },
        })?;
        if answer.status != http::StatusCode::OK {
            let start = String::from_utf8_lossy(&answer.body[..answer.body.len().min(MAX_TOLD)]);
            let told = start.trim().escape_debug().to_string();
            return Err(UpdateError::Status { status: answer.status.as_u16(), told });
        }
        from_spiffe_json(&from.trust_domain, &answer.body).map_err(|source| UpdateError::Document { source })
    }

    fn target(&self, from: &FederationRelationship) -> Result<Target, UpdateError> {
        let config = match &from.bundle_endpoint_profile {
            EndpointProfile::HttpsWeb => web_client_config(&self.web_roots, self.clock.clone())
                .map_err(|source| UpdateError::WebRoots { source })?,
            EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
                let endpoint = endpoint_spiffe_id.trust_domain();
                let snapshot = self.model.load();
                let bundle = snapshot.bundles.get(&endpoint);
                let bundle = bundle.ok_or(UpdateError::NoBundle { trust_domain: endpoint })?;
                let roots = RootsCell::new(TrustRoots::of([&**bundle]));
                let trust = ServerTrust::Verified(roots, Expect::Id(endpoint_spiffe_id.clone()));
                client_config_with(self.key_exchange, trust, None, self.clock.clone())
                    .map_err(|source| UpdateError::Tls { source })?
            }
        };
        Target::https(from.bundle_endpoint_url.as_str(), &config)
            .map_err(|source| UpdateError::Fetch { source, hint: "" })
    }
}

/// Whether `fetched` says itself that it is older. A bundle without a number says nothing.
fn is_older(fetched: &Bundle, held: &Bundle) -> bool {
    fetched.sequence_number != 0 && fetched.sequence_number < held.sequence_number
}

const WEB_HINT: &str =
    "; if the endpoint presents an X.509-SVID, use the profile https_spiffe instead of https_web";

/// Why a bundle was not updated. The beginnings are SPIRE's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(
        "can't perform SPIFFE Authentication: local copy of bundle not found; set the bundle of {trust_domain} once, \
         with `bundle set`"
    )]
    NoBundle { trust_domain: TrustDomain },
    #[error("failed to fetch federated bundle from endpoint: failed to fetch bundle{hint}")]
    Fetch { source: fetch::Error, hint: &'static str },
    #[error(
        "failed to fetch federated bundle from endpoint: unexpected status {status} fetching bundle: {told}"
    )]
    Status { status: u16, told: String },
    #[error("failed to fetch federated bundle from endpoint: failed to decode bundle")]
    Document { source: FormatError },
    #[error(
        "the endpoint serves an older bundle than the one held (lower spiffe_sequence); it is believed if it goes on so"
    )]
    Older,
    #[error("failed to store fetched federated bundle")]
    Store { source: StoreError },
    #[error("cannot verify endpoints of the web")]
    WebRoots { source: web::Error },
    #[error("cannot configure TLS")]
    Tls { source: vouchsafe_identity::config::ConfigError },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lower_number_makes_a_bundle_older() {
        let numbered = |sequence_number| Bundle {
            sequence_number,
            ..Bundle::new(TrustDomain::parse("b.example").unwrap())
        };
        let older = |fetched, held| is_older(&numbered(fetched), &numbered(held));
        assert!(older(1, 2));
        assert!(!older(2, 2) && !older(3, 2), "the same number says nothing about another content");
        assert!(!older(0, 2) && !older(1, 0), "without a number nothing is known");
    }
}
