//! Last-good state: a part answers from what it holds, also right after its own restart.
//!
//! Invariants: held state never goes backwards; a file is loaded only if every bit of it is what this part sealed; a
//! disk that is full or slow delays nobody.
//!
//! * [`version`]   the rule by which one state replaces another (pure)
//! * [`store`]     the held value: readers take a snapshot without a lock
//! * [`sealed`]    the file: encrypted, bounded, replaced atomically
//! * [`persister`] writes the newest value in the background
//!
//! Flow: a source offers state to the [`Store`]; what it accepts goes to the [`Persister`]; at start the
//! [`SealedFile`] gives back what was written last, with its age.

pub mod persister;
pub mod sealed;
pub mod store;
pub mod version;

pub use persister::{Outcome, Persister, Saver};
pub use sealed::{RestoreError, Restored, SaveError, SealKey, SealedFile};
pub use store::{Held, Store};
pub use version::{Offered, Stale, Version};
