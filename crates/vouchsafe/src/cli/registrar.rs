//! The registrar: `registrar run` and `registrar validate`, and `spire-controller-manager`.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{FAILED, report, validate};
use crate::config::registrar::{self, Config};
use crate::config::{Invalid, Source};
use crate::console::Console;

#[derive(Debug, Subcommand)]
pub(super) enum RegistrarCommand {
    /// Runs the registrar
    #[command(after_help = "Example:\n  vouchsafe registrar run -config /etc/spire/controller-manager.yaml")]
    Run(RegistrarArgs),
    /// Validates the registrar's configuration file
    #[command(
        after_help = "Example:\n  vouchsafe registrar validate -config /etc/spire/controller-manager.yaml"
    )]
    Validate(RegistrarArgs),
}

#[derive(Args, Debug)]
pub(super) struct RegistrarArgs {
    /// Configuration file, a ControllerManagerConfig [default: spire-controller-manager-config.yaml]
    #[arg(long = "config", value_name = "path")]
    config: Option<String>,
    /// Expand environment variables in config file
    #[arg(long = "expand-env")]
    expand_env: bool,
    /// Kubeconfig of the cluster (env KUBECONFIG) [default: the cluster that this runs in]
    #[arg(long = "kubeconfig", value_name = "path")]
    kubeconfig: Option<PathBuf>,
}

const DEFAULT_CONFIG_PATH: &str = "spire-controller-manager-config.yaml";

impl RegistrarArgs {
    fn load(&self, console: &Console<'_>) -> Result<Config, Invalid> {
        let path = self.config.as_deref().unwrap_or(DEFAULT_CONFIG_PATH);
        let source = Source::load(path, self.expand_env.then_some(&*console.environment))?;
        registrar::load(&source, cluster_domain)
    }

    /// A flag, then the variable, then the cluster that this runs in, then the user's own file.
    fn kubeconfig(&self, console: &Console<'_>) -> Option<PathBuf> {
        let variable = |name: &str| console.variable(name).filter(|value| !value.is_empty());
        let listed = || variable("KUBECONFIG").and_then(|list| list.split(':').next().map(PathBuf::from));
        let own = || {
            let path = PathBuf::from(variable("HOME")?).join(".kube/config");
            (variable("KUBERNETES_SERVICE_HOST").is_none() && path.exists()).then_some(path)
        };
        self.kubeconfig.clone().or_else(listed).or_else(own)
    }
}

/// The cluster's domain, by the search list that the kubelet gives a Pod.
fn cluster_domain() -> Option<String> {
    let text = fs::read_to_string("/etc/resolv.conf").ok()?;
    let words = text.lines().filter(|line| line.starts_with("search")).flat_map(str::split_whitespace);
    words
        .filter_map(|word| word.strip_prefix("svc."))
        .map(|domain| domain.trim_end_matches('.').to_owned())
        .next()
}

/// Runs a command and returns its exit code.
pub(super) fn execute(command: RegistrarCommand, console: &mut Console<'_>) -> io::Result<u8> {
    match command {
        RegistrarCommand::Run(arguments) => match arguments.load(console) {
            Ok(config) => {
                let kubeconfig = arguments.kubeconfig(console);
                report(crate::run::registrar(config, kubeconfig), "Error: ", console)
            }
            Err(invalid) => {
                writeln!(console.stderr, "{invalid}")?;
                Ok(FAILED)
            }
        },
        RegistrarCommand::Validate(arguments) => {
            let loaded = arguments.load(console).map(|config| config.warnings);
            validate::report("Controller Manager", loaded, console)
        }
    }
}
