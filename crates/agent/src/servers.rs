//! The servers that an agent may use, and which of them it uses.
//!
//! Each address is a server: the ones of the configuration, and all that a name in it stands for (A and AAAA records),
//! asked for again and again ([`resolve`]). Of each one it is known how fast and how reliably it answers ([`score`]); the best
//! is used, without flapping, and equal ones are spread over the agents ([`choice`]). The others are asked seldom
//! ([`watcher`]), so that what is known of them is current when it is needed. All must prove to be the trust domain's
//! server by its SPIFFE ID, whatever their address.
//!
//! Bounds: [`MAX_SERVERS`](resolve::MAX_SERVERS) servers; of more, those are kept that are first for this agent, so that a
//! large fleet uses all of them. One connection to the server in use; another one lives for as long as calls use it.

pub mod choice;
pub mod member;
mod pool;
pub mod resolve;
pub mod score;
mod silence;
pub mod watcher;

pub use member::{Ended, Server, Stats, is_broken, is_unreachable};
pub use pool::{Pool, Settings};
pub use score::Kind;
