//! Who has signed a container's image, as SPIRE's sigstore selectors.
//!
//! cosign stores signatures beside the image, under the tag `sha256-<digest>.sig`, and attestations under `.att`. Each
//! is a layer of that manifest: the payload is the blob; signature, certificate, chain and the transparency log's
//! promise ("bundle") are annotations. This crate fetches them, verifies them and says what SPIRE would say.
//!
//! Invariants:
//!
//! * nothing that a registry sends is believed: what counts is what the trusted roots lead to;
//! * a signature counts only if its payload names the digest of the image in question. SPIRE 1.15 does not look at it, so
//!   that there a signature copied from another image counts;
//! * every answer of a registry, every list in it, the cache and the number of verifications at once have a bound;
//! * a registry that is away withdraws nothing: a verified image stays verified while it is in the cache;
//! * credentials go to the registry that they are for, or to the token service that it names, over TLS (or loopback).
//!
//! What it does not do: fetch roots by TUF (the public ones are built in, others come as files), ask Rekor (SPIRE has no
//! selectors for a signature without a bundle either), read sigstore's newer bundles in OCI referrers (nor does SPIRE).
//!
//! * [`settings`]   the configuration block, checked
//! * [`image`]      an image ID, taken apart
//! * [`trust`]      roots of certificates, keys of transparency logs
//! * [`identity`]   which signers are allowed
//! * `verify`       one signature or attestation: verified, or why not (pure)
//! * [`registry`]   what there is beside an image
//! * [`verifier`]   the cache, and the task that verifies
//!
//! The flow: [`Verifier::selectors`] looks into the cache, else queues the image → [`Worker`] fetches with [`registry`],
//! decides with `verify`, puts the result into the cache and wakes who waits.

mod cache;
mod certificate;
mod der;
mod digest;
mod excerpt;
pub mod identity;
pub mod image;
mod manifest;
mod payload;
pub mod registry;
mod rekor;
mod sct;
pub mod settings;
pub mod trust;
pub mod verifier;
mod verify;

pub use registry::{Web, WebAnswer, WebError, WebRequest};
pub use settings::{Config, RegistryLogin, Settings, SettingsError};
pub use trust::{Trust, TrustError, TrustFiles};
pub use verifier::{Deps, SigstoreError, Verifier, Worker};
