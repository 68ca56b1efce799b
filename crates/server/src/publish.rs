//! The trust bundle in Kubernetes: ConfigMaps, `caBundle` of webhooks and API services, ClusterTrustBundles.
//!
//! Level-triggered: what the objects should hold follows from the bundle that the read model has, what they hold is watched,
//! and whatever differs is written until it does not differ any more. So it does not matter whether the bundle changed, an
//! object appeared, somebody else wrote it, or the API server was away meanwhile. Nothing here stops the server, not even at
//! start.
//!
//! * `desired`   the texts: a function of the bundle
//! * `sight`     what objects hold, as digests; `eyes` follows them
//! * `object`    how objects are called, read and written
//! * `decide`    what to do about one object now; pure
//! * `delays`    how long to wait after a failure
//! * `board`     metrics and readiness
//! * `reports`   the log, and events on the objects
//! * `publisher` one for each cluster; `round` is its loop

mod board;
mod decide;
mod delays;
mod desired;
mod eyes;
mod object;
mod publisher;
mod reports;
mod round;
mod sight;

pub(crate) use board::Standing;
pub(crate) use publisher::{Publisher, Setup};
