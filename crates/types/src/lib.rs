//! The values that every part speaks of: parsed once, compared cheaply, valid by construction.
//!
//! No I/O, no clock, no signatures: where an answer depends on the time, the time is a parameter, and a
//! document that parses here is well-formed, not trusted. Every parser takes foreign bytes, refuses what the
//! SPIFFE standards forbid (each rule is quoted where it is enforced) and has a named bound.
//!
//! * [`trust_domain`] the name of a trust root
//! * [`spiffe_id`]    who someone is
//! * [`selector`]     what an attestor found out about a process or a node
//! * [`dns_name`]     names that an entry may add to an X.509-SVID
//! * [`entry`]        which selectors earn which SPIFFE ID
//! * [`agent`]        an attested node
//! * [`join_token`]   the one-time secret of a node that has no better proof
//! * [`bundle`]       the keys of a trust domain, and their forms: SPIFFE document, JWKS, PEM
//! * [`federation`]   where the bundle of a foreign trust domain is to be had
//! * [`jwk`]          public keys: SPKI DER to JWK and back
//! * [`pem`]          textual encoding of DER
//! * [`certificate`]  the few fields of an X.509 certificate that SPIFFE cares about
//! * [`x509_svid`]    a certificate chain that names a workload
//! * [`jwt_svid`]     a token that names a workload
//! * [`secret`]       text that never shows up in a log

pub mod agent;
pub mod bundle;
pub mod certificate;
pub mod dns_name;
pub mod entry;
pub mod federation;
pub mod join_token;
pub mod jwk;
pub mod jwt_svid;
pub mod pem;
pub mod secret;
pub mod selector;
pub mod spiffe_id;
pub mod trust_domain;
pub mod x509_svid;

pub use agent::Agent;
pub use bundle::{Bundle, JwtAuthority, X509Authority};
pub use entry::{Entry, EntryId};
pub use federation::{EndpointProfile, EndpointUrl, FederationRelationship};
pub use join_token::JoinToken;
pub use jwt_svid::JwtSvid;
pub use selector::{Selector, SelectorSet};
pub use spiffe_id::SpiffeId;
pub use trust_domain::TrustDomain;
pub use x509_svid::X509Svid;
