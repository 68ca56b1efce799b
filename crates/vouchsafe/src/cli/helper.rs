//! The file writer: `helper`, and `spiffe-helper`.

use std::io;

use clap::Args;

use super::grammar::parse_bool;
use super::{DONE, FAILED};
use crate::config::Source;
use crate::config::helper::{self, DEFAULT_CONFIG_PATH};
use crate::console::Console;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    vouchsafe helper -config /etc/spiffe-helper/helper.conf\n  \
    vouchsafe helper -config helper.conf -daemon-mode=false      write the files once and end")]
pub(super) struct HelperArgs {
    /// Configuration file path [default: helper.conf]
    #[arg(long = "config", value_name = "path")]
    config: Option<String>,
    /// Keep the files up to date, or write them once and end [default: daemon_mode of the file, or true]
    #[arg(
        long = "daemon-mode",
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = parse_bool
    )]
    daemon_mode: Option<bool>,
    /// Expand environment variables in config file
    #[arg(long = "expandEnv")]
    expand_env: bool,
}

/// Runs the file writer and returns its exit code.
pub(super) fn execute(arguments: HelperArgs, console: &mut Console<'_>) -> io::Result<u8> {
    let path = arguments.config.unwrap_or_else(|| DEFAULT_CONFIG_PATH.to_owned());
    let source = Source::load(&path, arguments.expand_env.then_some(&*console.environment));
    let loaded = source.and_then(|text| helper::load(&text, arguments.daemon_mode, &*console.environment));
    match loaded {
        Ok(config) => match crate::run::helper(config) {
            Ok(()) => Ok(DONE),
            Err(error) => {
                writeln!(console.stderr, "Error: {error:#}")?;
                Ok(FAILED)
            }
        },
        Err(invalid) => {
            writeln!(console.stderr, "{invalid}")?;
            Ok(FAILED)
        }
    }
}
