//! Seeded faults, and whether `vouchsafe explain` names each of them first, in time, and with the command that helps.
//!
//! Real servers, agents and workloads. Every fault of [`held`] is asked about twice: with the server up, and stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(dead_code, reason = "the support of the scenarios has more than is used here")]

#[path = "../scenarios/process.rs"]
mod process;
#[path = "../scenarios/programs.rs"]
mod programs;
#[path = "../scenarios/svids.rs"]
mod svids;
#[path = "../scenarios/world.rs"]
mod world;

mod agents;
mod ask;
mod clocks;
mod held;
mod privacy;
