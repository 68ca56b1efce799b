//! `vouchsafe.agent.v1.Explain`: why a process, a Pod or a SPIFFE ID has or lacks an identity.
//!
//! Facts are gathered ([`service`]): what the attestors say now, the entries and SVIDs that are held, what went wrong lately
//! ([`notes`]), how the agent is. What follows from them is pure ([`diagnosis`], [`near`], [`causes`]): a list of findings, the
//! cause first, each with what to do next. Nothing is asked of the server, so the answer is the same when it is away.
//!
//! **Who may ask.** A caller is what the kernel said when it connected. One that runs as root or as the agent's own user,
//! in the agent's PID namespace, may ask about anything. Everybody else may ask about itself alone, and sees its own
//! selectors and identities; of an entry that nearly fits it learns that there is one, never what it wants, how much it lacks nor
//! whose it is. Root of a container is somebody else: its PID namespace is another one.
//!
//! | bound | what happens there |
//! |---|---|
//! | one answer at a time per connection and per user who may not see everything, [`sight::MAX_AT_ONCE`] of those who may, and as many of the others | `ResourceExhausted` |
//! | [`sight::ASKS_PER_SEC`] per user; those who may see everything apart | `ResourceExhausted` |
//! | [`crate::attest::EXAMINE_DEADLINE`] | an attestor that takes longer counts as failed in the answer |
//! | [`subject::MAX_OF_A_POD`] processes of one Pod, [`diagnosis::MAX_SHOWN`] entries or identities | the rest is counted |
//!
//! * [`service`]   gathers the facts and answers
//! * [`sight`]     who may ask, and what about
//! * [`message`]   what is told
//! * [`subject`]   which processes are meant
//! * [`diagnosis`] findings from facts
//! * [`causes`]    what keeps the agent from its server
//! * [`codes`]     the names of findings
//! * [`near`]      which entry fits best, and what it lacks
//! * [`notes`]     what went wrong lately

pub mod causes;
pub mod codes;
pub mod diagnosis;
mod message;
pub mod near;
pub mod notes;
pub mod service;
pub mod sight;
pub mod subject;

pub use notes::Notes;
