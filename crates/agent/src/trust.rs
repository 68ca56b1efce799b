//! How the agent knows the server.
//!
//! In normal life: by the X.509 authorities of the last bundle. The first time, and when every authority that is held
//! is outside its validity (the clock jumped, or the machine slept for longer than an authority lives), by what the
//! operator configured ([`Bootstrap`]). As long as one authority is valid the configured bundle is consulted only if the
//! operator allows it ([`Rebootstrap`]) and the server has been somebody else for the configured time without a break.
//! Believing whoever answers is for the very first contact alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic::Status;
use tracing::{debug, info, warn};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::bundles::Bundles;
use crate::config::{Bootstrap, Config, Rebootstrap, RebootstrapMode};
use crate::data_dir::DataDir;
use crate::identities::Identities;
use crate::metrics::Metrics;
use crate::server_client::{Anonymous, Line, ServerClient};
use contact::Contact;
use origin::Asking;

mod contact;
pub mod origin;
pub mod peers;

/// Keeps the bundle that servers are verified by.
#[derive(Debug)]
pub struct Trust {
    bootstrap: Bootstrap,
    rebootstrap: Rebootstrap,
    /// The agent's attestation cannot be repeated.
    rebootstrap_off: AtomicBool,
    server_address: String,
    trust_domain: TrustDomain,
    /// Verifies servers.
    roots: RootsCell,
    /// Holds the bundles.
    identities: Arc<Identities>,
    /// Keeps the bundle across restarts.
    data_dir: Arc<DataDir>,
    /// Speaks with the server.
    client: Arc<ServerClient>,
    /// Says what is valid.
    clock: Clock,
    contact: Contact,
}

/// The parts that [`Trust`] works with.
#[derive(Debug)]
pub struct Parts {
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
    /// Metrics.
    pub metrics: Metrics,
}

impl Trust {
    /// As `config` says.
    #[must_use]
    pub fn new(config: &Config, parts: Parts) -> Self {
        let Parts { roots, identities, data_dir, client, clock, metrics } = parts;
        Self {
            bootstrap: config.bootstrap.clone(),
            rebootstrap: config.rebootstrap,
            rebootstrap_off: AtomicBool::new(config.rebootstrap.mode == RebootstrapMode::Never),
            server_address: config.server_address.clone(),
            trust_domain: config.trust_domain.clone(),
            contact: Contact::restore(Arc::clone(&data_dir), clock.clone(), metrics),
            roots,
            identities,
            data_dir,
            client,
            clock,
        }
    }

    /// Believes `bundle` from now on, and keeps it across restarts.
    pub fn adopt(&self, bundle: &Bundle) {
        self.roots.set(TrustRoots::of([bundle]));
        self.data_dir.keep_bundle(bundle);
    }

    /// As [`Trust::adopt`], and serves `bundle` as the trust domain's. The bundles of other trust domains stay.
    pub fn take(&self, bundle: Bundle) {
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
    }

    /// The bundle that is held.
    #[must_use]
    pub fn held(&self) -> Option<Arc<Bundles>> {
        self.identities.load().bundles.clone()
    }

    /// Takes `bundle` if it is newer than the one that is held. Returns whether it is.
    pub fn offer(&self, bundle: Bundle) -> bool {
        let held = self.held().map(|held| held.own.bundle.sequence_number);
        let newer = held.is_some_and(|held| bundle.sequence_number > held);
        if newer {
            info!(sequence_number = bundle.sequence_number, "newer bundle taken");
            self.take(bundle);
        }
        newer
    }

    /// A connection on which to attest. What it is verified by stays what it was for everything else.
    ///
    /// # Errors
    ///
    /// What is missing to know the server by.
    pub async fn attestation_line(&self) -> Result<Line, Status> {
        match self.basis().await? {
            Basis::Held => {
                debug!("Bundle loaded");
                self.client.anonymous(Anonymous::Verified(self.roots.clone())).await
            }
            Basis::Configured(bundle) => {
                let roots = RootsCell::new(TrustRoots::of([&bundle]));
                self.client.anonymous(Anonymous::Verified(roots)).await
            }
            Basis::Nothing => {
                warn!("Insecure bootstrap enabled; skipping server certificate verification");
                self.client.anonymous(Anonymous::Insecure).await
            }
        }
    }

    async fn basis(&self) -> Result<Basis, Status> {
        let held = self.held();
        let usable = held.as_ref().is_some_and(|held| is_usable(&held.own.bundle, self.clock.unix_now()));
        if usable && !self.rebootstrap_is_due() {
            return Ok(Basis::Held);
        }
        Ok(match self.configured().await? {
            Some(bundle) => Basis::Configured(bundle),
            // Believing whoever answers is for the first start alone: a clock that somebody else sets must not bring
            // it back, and with it the next join token.
            None if held.is_some() => Basis::Held,
            None => Basis::Nothing,
        })
    }

    /// After a failure. Looks at what the operator configured, if nothing that is held is valid at this time and that is,
    /// and notes whether the server is somebody else. Returns whether it changed what servers are verified by.
    ///
    /// # Errors
    ///
    /// Why there is nothing better.
    pub async fn recover(&self) -> Result<bool, Status> {
        // At the first contact every attempt looks at what is configured, and nothing is kept of it that did not help.
        let Some(held) = self.held() else { return Ok(false) };
        if is_usable(&held.own.bundle, self.clock.unix_now()) {
            self.note_doubt();
            return Ok(false);
        }
        if matches!(self.bootstrap, Bootstrap::Insecure) {
            return Ok(false);
        }
        // What is configured is often the very first bundle, worth less than what is held: a server that is ours
        // proves its new authority by the last one.
        let bundle = self.configured().await?.filter(|bundle| is_usable(bundle, self.clock.unix_now()));
        let Some(bundle) = bundle else { return Ok(false) };
        warn!("every authority of the held bundle is outside its validity; bootstrapping again");
        self.take(bundle);
        self.client.reconnect();
        Ok(true)
    }

    fn note_doubt(&self) {
        if !self.client.server_is_unknown() {
            return;
        }
        if self.rebootstrap_off.load(Ordering::Relaxed) {
            warn!(
                "Trust Bundle and Server don't agree; rebootstrap_mode is never, so a person must replace the bundle"
            );
            return;
        }
        let left = self.rebootstrap.delay.saturating_sub(self.contact.doubt());
        if !left.is_zero() {
            info!(time_left = ?left, "Trust Bundle and Server don't agree, ignoring for now");
        }
    }

    /// Whether it is time to attest by the configured bundle, because the server is not the one that the held bundle is of,
    /// now and for the whole delay.
    #[must_use]
    pub fn rebootstrap_is_due(&self) -> bool {
        !self.rebootstrap_off.load(Ordering::Relaxed)
            && self.client.server_is_unknown()
            && !matches!(self.bootstrap, Bootstrap::Insecure)
            && self.contact.doubted_for().is_some_and(|doubted| doubted >= self.rebootstrap.delay)
    }

    /// What the operator wants when trust is lost.
    #[must_use]
    pub fn rebootstrap_mode(&self) -> RebootstrapMode {
        self.rebootstrap.mode
    }

    /// From now on nothing but the held bundle counts: the agent could not attest again.
    pub fn never_rebootstrap(&self) {
        self.rebootstrap_off.store(true, Ordering::Relaxed);
    }

    /// The server proved that it is the one that the held bundle is of.
    pub fn confirmed(&self) {
        self.contact.done();
    }

    async fn configured(&self) -> Result<Option<Bundle>, Status> {
        let attempt = self.contact.attempt();
        match &self.bootstrap {
            Bootstrap::Bundle(bundle) => Ok(Some(bundle.clone())),
            Bootstrap::Source(source) => source().map(Some).map_err(Status::unavailable),
            Bootstrap::From(origin) => {
                let asking = Asking {
                    mode: attempt.mode,
                    attempts: attempt.number,
                    since: &attempt.since,
                    server_address: &self.server_address,
                    trust_domain: &self.trust_domain,
                };
                origin.fetch(&asking, &self.clock).await.map(Some).map_err(Status::unavailable)
            }
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
mod tests;
