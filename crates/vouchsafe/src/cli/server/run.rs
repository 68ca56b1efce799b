//! `run` and `validate`.

use std::io;

use clap::Args;

use crate::cli::FAILED;
use crate::cli::validate;
use crate::config::Source;
use crate::config::server::{self, Config, DEFAULT_CONFIG_PATH, Overrides};
use crate::console::Console;

#[derive(Args, Debug)]
pub(in crate::cli) struct RunArgs {
    /// IP address or DNS name of the SPIRE server
    #[arg(long = "bindAddress", value_name = "address")]
    bind_address: Option<String>,
    /// Path to a SPIRE config file [default: conf/server/server.conf]
    #[arg(long = "config", value_name = "path")]
    config: Option<String>,
    /// Directory to store runtime data to
    #[arg(long = "dataDir", value_name = "directory")]
    data_dir: Option<String>,
    /// Expand environment variables in SPIRE config file
    #[arg(long = "expandEnv")]
    expand_env: bool,
    /// File to write logs to
    #[arg(long = "logFile", value_name = "path")]
    log_file: Option<String>,
    /// 'text' or 'json'
    #[arg(long = "logFormat", value_name = "format")]
    log_format: Option<String>,
    /// 'debug', 'info', 'warn', or 'error'
    #[arg(long = "logLevel", value_name = "level")]
    log_level: Option<String>,
    /// Include source file, line number and function name in log lines
    #[arg(long = "logSourceLocation")]
    log_source_location: bool,
    /// Port number of the SPIRE server
    #[arg(long = "serverPort", value_name = "port")]
    server_port: Option<u16>,
    /// Path to bind the SPIRE Server API socket to
    #[arg(long = "socketPath", value_name = "path")]
    socket_path: Option<String>,
    /// The trust domain that this server belongs to
    #[arg(long = "trustDomain", value_name = "name")]
    trust_domain: Option<String>,
}

impl RunArgs {
    fn load(self, console: &Console<'_>) -> Result<Config, crate::config::Invalid> {
        let path =
            self.config.filter(|path| !path.is_empty()).unwrap_or_else(|| DEFAULT_CONFIG_PATH.to_owned());
        let source = Source::load(&path, self.expand_env.then_some(&*console.environment))?;
        let overrides = Overrides {
            bind_address: self.bind_address,
            bind_port: self.server_port,
            socket_path: self.socket_path,
            trust_domain: self.trust_domain,
            data_dir: self.data_dir,
            log_level: self.log_level,
            log_format: self.log_format,
            log_file: self.log_file,
            log_source_location: self.log_source_location,
        };
        server::load(&source, &overrides)
    }
}

pub(super) fn run(arguments: RunArgs, console: &mut Console<'_>) -> io::Result<u8> {
    let config = match arguments.load(console) {
        Ok(config) => config,
        Err(invalid) => {
            writeln!(console.stderr, "{invalid}")?;
            return Ok(FAILED);
        }
    };
    super::report(crate::run::server(config), "Error: ", console)
}

pub(super) fn validate(arguments: RunArgs, console: &mut Console<'_>) -> io::Result<u8> {
    let loaded = arguments.load(console).map(|config| config.warnings);
    validate::report("server", loaded, console)
}
