//! The verifier against a recorded registry. `vectors.json` is the output of `interop/sigstore`, whose head says how it is
//! made.

#![allow(clippy::unwrap_used, reason = "tests")]

mod recorded;
mod stock;
mod worker;
