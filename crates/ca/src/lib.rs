//! Authorities: who may sign, with which key, and what exactly is signed.
//!
//! The crate never does I/O except in the key managers (the file of [`key_manager::Disk`]), never reads a
//! clock (`now` is a parameter), and never signs for a foreign trust domain. Keys of every kind are reached
//! through [`signer::Signer`], so an HSM or a cloud KMS is one more implementation; keys in memory sign at
//! once, without a boxed future.
//!
//! | module | what it holds |
//! |---|---|
//! | [`signer`] | the one trait that makes signatures |
//! | [`key`] | private keys in memory and the key types |
//! | [`public_key`] | SubjectPublicKeyInfo: parse, identify, verify |
//! | [`key_manager`] | keys by name: in memory, or in a file |
//! | [`x509`] | certificates: CA, SVID, CSR, in the profile of the reference |
//! | [`jwt`] | JWT-SVIDs: sign and verify |
//! | [`authority`] | two slots per kind: prepare, activate, taint, revoke, and when |
//! | [`upstream`] | who certifies an authority instead of itself: a CA in files, or another server |
//! | [`journal`] | what survives a restart, in the reference's format |
//!
//! Flow: [`authority::plan()`] says what is due, [`authority::rotation::rotate`] does it through the
//! owner's [`authority::rotation::Effects`] (publish in the bundle, journal, swap the signing authority), and
//! [`x509::svid::issue_svid`] and [`jwt::sign_jwt_svid`] sign with what is active.

pub mod authority;
pub(crate) mod der;
pub mod journal;
pub mod jwt;
pub mod key;
pub mod key_manager;
pub mod public_key;
pub mod random;
pub mod signer;
pub mod upstream;
pub mod x509;

pub use der::reader::DerError;
