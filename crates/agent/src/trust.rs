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

    /// A connection on which to attest.
    ///
    /// # Errors
    ///
    /// What is missing to know the server by.
    pub fn attestation_channel(&self) -> Result<Channel, Status> {
        match self.basis()? {
            Basis::Held => {
                info!("Bundle loaded");
                self.client.anonymous(Anonymous::Verified)
            }
            Basis::Configured(bundle) => {
                self.roots.set(TrustRoots::of([&bundle]));
                self.client.anonymous(Anonymous::Verified)
            }
            Basis::Nothing => {
                warn!("Insecure bootstrap enabled; skipping server certificate verification");
                self.client.anonymous(Anonymous::Insecure)
            }
        }
    }

    fn basis(&self) -> Result<Basis, Status> {
        let held = self.held();
        if held.as_ref().is_some_and(|held| is_usable(&held.own.bundle, self.clock.unix_now())) {
            return Ok(Basis::Held);
        }
        Ok(match self.configured()? {
            Some(bundle) => Basis::Configured(bundle),
            // Believing whoever answers is for the first start alone: a clock that somebody else sets must not bring
            // it back, and with it the next join token.
            None if held.is_some() => Basis::Held,
            None => Basis::Nothing,
        })
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
        // What is configured is often the very first bundle, worth less than what is held: a server that is ours
        // proves its new authority by the last one.
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

/// What the server is known by when the agent attests.
#[derive(Debug, Eq, PartialEq)]
enum Basis {
    Held,
    Configured(Bundle),
    Nothing,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};
    use vouchsafe_identity::own::SvidCell;
    use vouchsafe_runtime::entropy::Entropy;
    use vouchsafe_types::trust_domain::TrustDomain;

    fn trust(bootstrap: Bootstrap, directory: &std::path::Path) -> Trust {
        let clock = Clock::derived(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000));
        let roots = RootsCell::new(TrustRoots::new());
        let address = ("localhost:1".to_owned(), TrustDomain::parse("example.org").unwrap());
        let cells = (SvidCell::empty(), roots.clone());
        Trust {
            bootstrap,
            roots,
            identities: Arc::default(),
            data_dir: Arc::new(DataDir::open(directory).unwrap()),
            client: Arc::new(ServerClient::new(address, cells, clock.clone(), Entropy::from_seed(1))),
            clock,
        }
    }

    #[test]
    fn whoever_answers_is_believed_only_as_long_as_no_bundle_was_ever_held() {
        let directory = tempfile::tempdir().unwrap();
        let trust = trust(Bootstrap::Insecure, directory.path());
        assert_eq!(trust.basis().unwrap(), Basis::Nothing);
        // One without an authority that is valid now.
        let ended = Bundle::new(TrustDomain::parse("example.org").unwrap());
        trust.identities.edit(|snapshot| {
            snapshot.bundles = Some(Arc::new(Bundles::of(ended)));
            true
        });
        assert_eq!(trust.basis().unwrap(), Basis::Held);
    }
}
