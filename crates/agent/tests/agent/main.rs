//! A whole agent against a fake server, over real sockets: this process is the workload.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod admin;
mod attestation;
mod bootstrap;
mod caches;
mod distrust;
mod fake_server;
mod hostile;
mod node;
mod outages;
mod push;
mod sds;
mod servers;
mod support;
mod tokens;
mod workloads;
