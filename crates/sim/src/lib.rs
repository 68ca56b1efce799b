//! The whole system in one process, on one paused clock, with everything that goes wrong drawn from a seed.
//!
//! Real servers, real agents, a real SQLite database, and workloads that speak the Workload API. What is simulated: time,
//! the network (Unix sockets too), the way to the database, and the end of processes. `docs/simulation.md` says how to run
//! it and how to read what it says.
//!
//! | module | what it holds |
//! |---|---|
//! | [`world`] | one run: build, faults, repair |
//! | [`recovery`] | the last look |
//! | [`schedule`] | what goes wrong when (pure) |
//! | [`invariants`] | what must hold (pure); start here |
//! | [`facts`] | the truth that the invariants are judged by |
//! | [`workload`], [`operator`] | those who use the system |
//! | [`monitor`] | looks at each part once a second |
//! | [`node`], [`parts`] | machines whose process ends and starts again; servers and agents on them |
//! | [`net`], [`weather`] | the network; how troubles and accidents strike, and which troubles it and the stores have at the moment |
//! | [`randomness`] | what else is drawn from the seed: keys, hash maps, `select!` |
//! | [`trace`] | what happened, and its hash |

pub mod facts;
pub mod invariants;
pub mod monitor;
pub mod net;
pub mod node;
pub mod operator;
pub mod parts;
pub mod randomness;
pub mod recovery;
pub mod schedule;
pub mod trace;
pub mod weather;
pub mod workload;
pub mod world;

pub use world::{Options, Outcome, run};
