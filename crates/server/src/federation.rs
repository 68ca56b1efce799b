//! Federation: foreign bundles are fetched, this server's is served.
//!
//! * `schedule` when a bundle is fetched again; pure
//! * `fetch`    fetches one bundle and stores it
//! * `poller`   all relationships, each in its time; `managed` is one of them, `refresher` asks for one at once
//! * `endpoint` serves this server's bundle

mod endpoint;
mod fetch;
mod managed;
mod poller;
mod refresher;
mod schedule;

pub use endpoint::EndpointError;
pub(crate) use endpoint::{Endpoint, start as start_endpoint};
pub(crate) use poller::{Poller, Setup};
pub(crate) use refresher::{RefreshError, Refresher};
