//! A whole agent against a fake server, over real sockets: this process is the workload.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod attestation;
mod bootstrap;
mod distrust;
mod fake_server;
mod node;
mod outages;
mod support;
mod tokens;
mod workloads;
