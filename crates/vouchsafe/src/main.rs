//! The `vouchsafe` program. Also serves as `spire-server` and `spire-agent` when called by those names.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(vouchsafe::cli::main(std::env::args_os()))
}
