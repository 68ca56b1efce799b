//! The OIDC discovery provider: `oidc run` and `oidc validate`, and `oidc-discovery-provider`.

use std::io;

use clap::{Args, Subcommand};

use super::{FAILED, report, validate};
use crate::config::oidc::{self, Config, DEFAULT_CONFIG_PATH};
use crate::config::{Invalid, Source};
use crate::console::Console;

#[derive(Debug, Subcommand)]
pub(super) enum OidcCommand {
    /// Runs the provider
    #[command(after_help = "Example:\n  vouchsafe oidc run -config /etc/spire/oidc-discovery-provider.conf")]
    Run(OidcArgs),
    /// Validates the provider's configuration file
    #[command(
        after_help = "Example:\n  vouchsafe oidc validate -config /etc/spire/oidc-discovery-provider.conf"
    )]
    Validate(OidcArgs),
}

#[derive(Args, Debug)]
pub(super) struct OidcArgs {
    /// Configuration file [default: oidc-discovery-provider.conf]
    #[arg(long = "config", value_name = "path")]
    config: Option<String>,
    /// Expand environment variables in config file
    #[arg(long = "expandEnv")]
    expand_env: bool,
}

impl OidcArgs {
    fn load(self, console: &Console<'_>) -> Result<Config, Invalid> {
        let path = self.config.unwrap_or_else(|| DEFAULT_CONFIG_PATH.to_owned());
        let source = Source::load(&path, self.expand_env.then_some(&*console.environment))?;
        oidc::load(&source)
    }
}

/// Runs a command and returns its exit code.
pub(super) fn execute(command: OidcCommand, console: &mut Console<'_>) -> io::Result<u8> {
    match command {
        OidcCommand::Run(arguments) => match arguments.load(console) {
            // SPIRE's provider prints the error alone.
            Ok(config) => {
                report(crate::run::oidc(config), if console.advice { "Error: " } else { "" }, console)
            }
            Err(invalid) => {
                writeln!(console.stderr, "{invalid}")?;
                Ok(FAILED)
            }
        },
        OidcCommand::Validate(arguments) => {
            let loaded = arguments.load(console).map(|config| config.warnings);
            validate::report("OIDC discovery provider", loaded, console)
        }
    }
}
