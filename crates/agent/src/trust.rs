//! How the agent knows the server.
//!
//! In normal life: by the X.509 authorities of the last bundle. The first time, and when every authority that is held
//! is outside its validity (the clock jumped, or the machine slept for longer than an authority lives), by what the
//! operator configured ([`Bootstrap`]). As long as one authority is valid, the configured one is never consulted.

use std::sync::Arc;

use tonic::Status;
use tonic::transport::Channel;
use tracing::{info, warn};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::bundle::Bundle;

use crate::bundles::Bundles;
use crate::config::Bootstrap;
use crate::data_dir::DataDir;
use crate::identities::Identities;
use crate::server_client::{Anonymous, ServerClient};

/// Keeps the bundle that servers are verified by.
#[derive(Debug)]
pub struct Trust {
    /// Where to look when nothing held is valid.
    pub bootstrap: Bootstrap,
    /// Verifies servers.
    pub roots: RootsCell,
    /// Holds the bundles.
    pub identities: Arc<Identities>,
    /// Keeps the bundle across restarts.
    pub data_dir: Arc<DataDir>,
    /// Speaks with the server.
    pub client: Arc<ServerClient>,
    /// Says what is valid.
    pub clock: Clock,
}

impl Trust {
    /// Believes `bundle` from now on, and keeps it across restarts. Writes a small file, and only if it changed.
    pub fn adopt(&self, bundle: &Bundle) {
        self.roots.set(TrustRoots::of([bundle]));
        if let Err(error) = self.data_dir.store_bundle(bundle) {
            warn!(error = %error, cause = error_source(&error), "Could not store bundle");
        }
    }

    /// The bundle that is held.
    #[must_use]
    pub fn held(&self) -> Option<Arc<Bundles>> {
        self.identities.load().bundles.clone()
    }

    /// A connection on which to attest, and whether what comes over it may be believed only this once.
    ///
    /// # Errors
    ///
    /// What is missing to know the server by.
    pub fn attestation_channel(&self) -> Result<Channel, Status> {
        if self.held().is_some_and(|held| is_usable(&held.own.bundle, self.clock.unix_now())) {
            info!("Bundle loaded");
            return self.client.anonymous(Anonymous::Verified);
        }
        match self.configured()? {
            Some(bundle) => {
                self.roots.set(TrustRoots::of([&bundle]));
                self.client.anonymous(Anonymous::Verified)
            }
            None => {
                warn!("Insecure bootstrap enabled; skipping server certificate verification");
                self.client.anonymous(Anonymous::Insecure)
            }
        }
    }

    /// Looks at what the operator configured, if nothing that is held is valid at this time and that is. Returns whether
    /// it changed what servers are verified by.
    ///
    /// # Errors
    ///
    /// Why there is nothing better.
    pub fn recover(&self) -> Result<bool, Status> {
        let Some(held) = self.held() else { return Ok(false) };
        if is_usable(&held.own.bundle, self.clock.unix_now()) {
            return Ok(false);
        }
        // Believing whoever answers is for the first start alone: a clock that somebody else sets must not bring it
        // back. And what is configured is often the very first bundle, worth less than what is held: a server that
        // is ours proves its new authority by the last one.
        let bundle = self.configured()?.filter(|bundle| is_usable(bundle, self.clock.unix_now()));
        let Some(bundle) = bundle else { return Ok(false) };
        warn!("every authority of the held bundle is outside its validity; bootstrapping again");
        self.adopt(&bundle);
        self.identities.edit(|snapshot| {
            snapshot.bundles = Some(Arc::new(match &snapshot.bundles {
                Some(bundles) => {
                    bundles.replace(bundle, bundles.federated.values().map(|view| view.bundle.clone())).0
                }
                None => Bundles::of(bundle),
            }));
            true
        });
        self.client.reconnect();
        Ok(true)
    }

    fn configured(&self) -> Result<Option<Bundle>, Status> {
        match &self.bootstrap {
            Bootstrap::Bundle(bundle) => Ok(Some(bundle.clone())),
            Bootstrap::Source(source) => source().map(Some).map_err(Status::unavailable),
            Bootstrap::Insecure => Ok(None),
        }
    }
}

/// Whether at least one authority is within its validity.
#[must_use]
pub fn is_usable(bundle: &Bundle, now: i64) -> bool {
    bundle
        .x509_authorities
        .iter()
        .filter_map(|authority| authority.parsed().ok())
        .any(|authority| authority.not_before <= now && now < authority.not_after)
}

pub(crate) fn error_source(error: &dyn std::error::Error) -> Option<String> {
    error.source().map(ToString::to_string)
}
