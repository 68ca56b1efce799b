//! What needs a real Kubernetes API server: run by `bash interop/run kubernetes`.
//!
//! The cluster is the real etcd, API server and controller manager as processes (`vouchsafe_testkit::kubernetes`); Pods are
//! objects, and what runs for them is what a test starts. Servers and agents are started as in the scenarios, whose modules
//! for that are used here. Every test says `#[ignore = "needs Kubernetes: run by interop/run kubernetes"]`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[allow(dead_code, reason = "the scenarios use all of it")]
#[path = "../scenarios/process.rs"]
mod process;
#[allow(dead_code, reason = "the scenarios use all of it")]
#[path = "../scenarios/programs.rs"]
mod programs;
#[allow(dead_code, reason = "the scenarios use all of it")]
#[path = "../scenarios/svids.rs"]
mod svids;
#[allow(dead_code, reason = "the scenarios use all of it")]
#[path = "../scenarios/world.rs"]
mod world;

mod bundle;
mod cluster;
mod controller_manager;
mod delivery;
mod deployment;
mod outage;
mod psat;
mod registrar;
mod workloads;
