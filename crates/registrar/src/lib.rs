//! The registrar: what `ClusterSPIFFEID`, `ClusterStaticEntry` and `ClusterFederatedTrustDomain` objects declare, kept so on a
//! server. It takes the place of spire-controller-manager.
//!
//! Invariants:
//!
//! * nothing is deleted before everything that could declare it has been read to its end;
//! * a mistake in an object withdraws nothing: its last good version stays in force, and the object says what is wrong;
//! * a change costs what it touches: one Pod, not the cluster;
//! * nothing is written, to the server or to an object, that is so already;
//! * it speaks with the server's administrative API as anybody could, and never with its database.
//!
//! The flow: watches give a [`ledger::World`] → [`ledger::Ledger`] says which entries differ from what the server has →
//! [`server::Server`] is asked for that → the ledger hears the answers → [`status`] is written.
//!
//! * [`ledger`]         who declares which entry, what the server has, and what to do (pure)
//! * [`federation`]     the same for federation relationships (pure)
//! * [`rule`]           reads what an object declares (pure)
//! * [`render`]         the entry that a rule makes for a Pod (pure)
//! * [`template`]       Go's templates over Kubernetes' objects (pure)
//! * [`label_selector`] which labels a selector matches (pure)
//! * [`draft`]          an entry without its id (pure)
//! * [`duration`]       lifetimes (pure)
//! * [`settings`]       which objects and entries are whose (pure)
//! * [`status`]         what is written about an object (pure)
//! * [`objects`]        the kinds that are followed
//! * [`server`]         the server's API
//! * [`run`]            the loops

pub mod draft;
pub mod duration;
pub mod federation;
pub mod label_selector;
pub mod ledger;
pub mod objects;
pub mod render;
pub mod rule;
pub mod run;
pub mod server;
pub mod settings;
pub mod status;
pub mod template;
