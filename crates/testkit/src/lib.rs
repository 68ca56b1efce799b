//! Fakes and conformance suites for tests. Never part of the product.
//!
//! * [`samples`]     entries, agents, tokens and bundles with every field set
//! * [`scratch`]     a real SQLite store in a directory of its own
//! * [`fault_store`] any store, told to fail, stall, lose answers, and counted
//! * [`postgres`]    private PostgreSQL servers, with a standby
//! * [`conformance`] what every store must do, run by each engine
//!
//! Fakes behave: a faultless [`FaultStore`] passes the same suite as the engine inside it.

pub mod conformance;
pub mod fault_store;
pub mod postgres;
pub mod samples;
pub mod scratch;

pub use conformance::store_conformance;
pub use fault_store::{Fault, FaultStore, Faults, Method};
pub use scratch::Scratch;
