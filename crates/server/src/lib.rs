//! The identity server: who may have which SPIFFE ID, and the signatures that say so.
//!
//! It never answers an agent from the database, never signs for a foreign trust domain, and never hands out what a
//! crash would make it forget.
//!
//! * [`config`]     what an operator chooses
//! * [`server`]     starts everything, in one narrative
//! * [`model`]      everything that it answers from, in memory
//! * [`federation`] foreign bundles are fetched, this server's is served
//! * `circuit`      a database that is away is found out once, not by every caller
//! * `history`      whether a database that does not go on from what is held may replace it
//! * [`acceptance`] an operator's word that it may
//! * `first_state`  what to start from: the database, or the last good state
//! * `saved`        the last good state in a sealed file
//! * `feed`         keeps the model current from the store's change feed
//! * `agents`       agents as they are now, with what the database does not have yet
//! * `journal`      the file behind that
//! * `contacts`     which agents are in contact with this server
//! * [`authorize`]  who may call what: one table
//! * `limits`       how often one address may ask, and who has to wait
//! * [`audit`]      who did what, in the log
//! * `authorities`  the life of the signing keys
//! * `upstream`     who certifies those keys, if another authority does
//! * `publish`    the trust bundle in Kubernetes objects
//! * `revisions` tells agents what changed for them, at once
//! * `issuer`       signs with what is active
//! * `services`     the gRPC services
//!
//! Flow of a call: transport → [`authorize`] → a service → model, agents and issuer. Flow of a change: a service writes
//! to the store → the feed reads it → the model shows it → the service answers.

pub mod acceptance;
mod agents;
mod api;
pub mod audit;
mod authorities;
pub mod authorize;
mod circuit;
pub mod config;
mod confirmed;
mod contacts;
pub mod federation;
mod feed;
mod filter;
mod first_state;
mod guard;
mod health;
mod history;
mod housekeeping;
mod ids;
mod issuer;
mod journal;
mod limits;
pub mod model;
mod page;
mod publish;
mod revisions;
mod saved;
pub mod server;
mod services;
mod status;
mod upstream;
mod when;

pub use config::Config;
pub use issuer::Policy;
pub use server::{Deps, Running, Server, StartError};
