//! SPIRE's integration suites that need no containers, as tests of plain processes.
//!
//! Every scenario starts the real programs with configuration files and talks to them through their commands and
//! sockets, as an operator would. It runs for any pair of programs: `SCENARIO_SERVER` and `SCENARIO_AGENT` name a
//! `spire-server` and a `spire-agent` (this repository's binary when unset), so that `interop/run spire` can put a stock
//! program on either end; `SCENARIO_OIDC` an `oidc-discovery-provider`. A scenario that also passes with stock programs on both ends says what SPIRE does.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod api;
mod pki;
mod process;
mod programs;
mod svids;
mod world;

mod agent_cli;
mod endpoints;
mod entries;
mod federation;
mod file_writer;
mod join_token;
mod metrics_tls;
mod nested;
mod node_attestation;
mod oidc;
mod push;
mod registrar;
mod rotation;
mod server_cli;
mod several_servers;
mod upgrade;
