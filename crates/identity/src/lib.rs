//! This process's own SVID, and the verification of peers by theirs.
//!
//! Invariants:
//!
//! * a peer is its SPIFFE ID: host names are never looked at, and a chain is only checked against the
//!   authorities of the trust domain that its leaf names;
//! * authorities and the own SVID are snapshots that are swapped: a rotation reaches the next handshake and
//!   never disturbs a running connection;
//! * time comes from [`vouchsafe_runtime::clock::Clock`], also inside rustls;
//! * one crypto provider, aws-lc-rs, always named explicitly.
//!
//! The flow: bundles → [`roots::TrustRoots`] in a [`roots::RootsCell`]; chain and key → [`own::OwnSvid`] in a
//! [`own::SvidCell`]; both → [`config::server_config`] or [`config::client_config`]. After a handshake
//! [`peer::read`] says who the peer is.
//!
//! * [`roots`]  whom we believe, by trust domain
//! * [`verify`] chain to SPIFFE ID (also used outside TLS)
//! * [`own`]    our chain and key
//! * [`peer`]   what is known of a verified peer
//! * [`path`]   chains of a foreign PKI, which need not be SVIDs
//! * [`config`] rustls configurations
//! * [`serving`] rustls configurations for servers of pages
//! * [`web`]    a rustls configuration for a client of the ordinary web, where a peer is a host name

pub mod config;
pub mod own;
pub mod path;
pub mod peer;
pub mod roots;
pub mod serving;
mod tls_verifier;
pub mod verify;
pub mod web;

#[cfg(test)]
mod test_pki;
