//! `validate` of both parts.

use std::io;

use super::{DONE, FAILED};
use crate::config::Invalid;
use crate::console::Console;

/// Tells what a configuration file of `part` is. `loaded` are the warnings of a good one.
pub(super) fn report(
    part: &str,
    loaded: Result<impl IntoIterator<Item = String>, Invalid>,
    console: &mut Console<'_>,
) -> io::Result<u8> {
    match loaded {
        Ok(warnings) => {
            for warning in warnings {
                writeln!(console.stderr, "Warning: {warning}")?;
            }
            writeln!(console.stdout, "SPIRE {part} configuration file is valid.")?;
            Ok(DONE)
        }
        Err(invalid) => {
            writeln!(console.stderr, "SPIRE {part} configuration file is invalid: {invalid}")?;
            Ok(FAILED)
        }
    }
}
