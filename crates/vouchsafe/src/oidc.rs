//! The OIDC discovery provider: the keys that sign JWT-SVIDs, for verifiers that know OpenID Connect and not SPIFFE.
//!
//! It stands in for SPIRE's `oidc-discovery-provider`: same configuration, same documents. It holds no secret and no
//! state. Keys come from a server's administrative socket, a Workload API or a bundle file, and are asked for again at an
//! interval. What it never does: stop serving keys because their source is away. The keys of the last good answer stay,
//! and readiness says how old they are.
//!
//! * [`hosts`]     which hosts it answers for
//! * [`discovery`] the discovery document
//! * [`keys`]      the JWK set
//! * [`site`]      which request gets which page
//! * [`source`]    where keys come from
//! * [`poll`]      asks the source, and publishes what changed
//!
//! Flow: [`poll::Poller`] → [`keys::Held`] → [`site::ProviderSite`] → `transport::pages`.

pub(crate) mod discovery;
pub(crate) mod hosts;
pub(crate) mod keys;
pub(crate) mod poll;
pub(crate) mod site;
pub(crate) mod source;
