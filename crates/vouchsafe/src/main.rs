//! The `vouchsafe` program. Also serves as `spire-server` and `spire-agent` when called by those names.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// What is free goes back to the system, also after many connections at once (docs/decisions/0011-allocator.md).
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    ExitCode::from(vouchsafe::cli::main(std::env::args_os()))
}
