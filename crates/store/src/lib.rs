//! The registry of record: entries, agents, bundles, federation relationships, join tokens, authority journals, and
//! the feed of their changes.
//!
//! * [`store`]  the trait that every engine implements; `vouchsafe-testkit` holds its conformance suite
//! * [`change`] positions, changes and records: what a reader of the feed sees
//! * [`error`]  what can go wrong, sorted by culprit
//! * [`sqlite`] the embedded engine
//! * [`postgres`] the engine for several servers
//! * [`spire`]  what a SPIRE server left behind
//!
//! Invariants:
//!
//! * A change and its event are in one transaction: no event without a change, no change without an event.
//! * A position never goes back within one epoch, and a reader that follows the feed misses nothing.
//! * A write that returned `Ok` is on stable storage. One that failed left nothing behind, except where the
//!   error says that the outcome is unknown.
//! * No call blocks the async runtime, and none waits longer than its deadline.
//! * SQL stays in this crate; secrets (join tokens) never reach an error text or a log.
//!
//! Flow: a server calls [`Store::load`] once, then waits on [`Store::watch`] and reads
//! [`Store::changes_after`]; everything that it answers comes from the memory it built so. Administrative
//! calls write; nothing else does.

pub mod change;
pub mod error;
pub mod postgres;
pub mod spire;
pub mod sqlite;
pub mod store;

pub use change::{Change, Changes, Position, Record, Snapshot};
pub use error::{Error, Kind, Outcome, Rejected};
pub use postgres::Postgres;
pub use sqlite::Sqlite;
pub use store::{
    Admission, AgentChange, AgentWrite, AgentsWritten, BundleChange, BundleUpdate, BundleWrite, Contents,
    CreateOutcome, DeleteMode, EntryChange, FederationChange, JournalRecord, Store,
};
