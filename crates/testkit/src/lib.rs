//! Fakes and conformance suites for tests. Never part of the product.
//!
//! * [`samples`]     entries, agents, tokens and bundles with every field set
//! * [`scratch`]     a real SQLite store in a directory of its own
//! * [`fault_store`] any store, told to fail, stall, lose answers, and counted
//! * [`folders`]     temporary directories in memory
//! * [`ports`]       TCP ports that nobody else is given
//! * [`postgres`]    private PostgreSQL servers, with a standby
//! * [`kubernetes`]  private Kubernetes API servers, with etcd and controllers
//! * [`kubelet`]     a kubelet that lists Pods, and fails as it is told
//! * [`stopwatch`]   time without what a busy machine costs
//! * [`conformance`] what every store must do, run by each engine
//!
//! Fakes behave: a faultless [`FaultStore`] passes the same suite as the engine inside it.

pub mod conformance;
pub mod fault_store;
pub mod folders;
mod kept;
pub mod kubelet;
pub mod kubernetes;
pub mod ports;
pub mod postgres;
pub mod samples;
pub mod scratch;
pub mod stopwatch;

pub use conformance::store_conformance;
pub use fault_store::{Fault, FaultStore, Faults, Method};
pub use folders::folder;
pub use ports::free_port;
pub use scratch::Scratch;
pub use stopwatch::Stopwatch;
