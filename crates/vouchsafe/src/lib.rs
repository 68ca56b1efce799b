//! The `vouchsafe` program: arguments, configuration files, and the wiring of the parts.
//!
//! Only this crate reads arguments, the environment and configuration files. Commands that talk to a server or an agent
//! are thin clients of the public APIs and print what SPIRE's commands print, byte for byte, because scripts read it.
//!
//! * [`cli`]     the commands, and [`argv`], which understands Go's flags
//! * [`config`]  configuration as plain values, read from [`hcl`]
//! * [`go`]      durations, times, JSON and error texts as Go writes them
//! * [`console`] what a command reads from and writes to
//! * [`logging`] log lines that SPIRE's tools can read
//! * `oidc`        the OIDC discovery provider, which is small enough to live here
//! * [`run`]     starts the parts
//! * [`yaml`]    YAML with the places of its values
//!
//! Flow: `main` → [`cli::main`] → a client command, or [`config`] → [`run`].

pub mod argv;
pub mod cli;
pub mod config;
pub mod console;
pub mod go;
pub mod hcl;
pub mod logging;
mod oidc;
pub mod run;
pub mod yaml;
