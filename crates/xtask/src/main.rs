//! `cargo xtask <task>`: what the build needs and cargo does not do.
//!
//! * `layers`    fails when a crate depends on its own rank or on a higher one
//! * `generate`  writes the gRPC code in `crates/proto/src/gen` from the `.proto` files

use std::process::ExitCode;

mod generate;
mod layers;

fn main() -> anyhow::Result<ExitCode> {
    let task = std::env::args().nth(1);
    match task.as_deref() {
        Some("layers") => layers::check(),
        Some("generate") => generate::write().map(|()| ExitCode::SUCCESS),
        _ => {
            eprintln!("usage: cargo xtask layers | generate");
            Ok(ExitCode::FAILURE)
        }
    }
}
