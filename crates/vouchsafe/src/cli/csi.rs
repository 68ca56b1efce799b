//! The CSI node driver: `csi run`, and `spiffe-csi-driver`.

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use vouchsafe_delivery::csi::{RegistrationSettings, Settings};

use super::grammar::parse_number;
use super::{FAILED, report};
use crate::config::LogConfig;
use crate::console::Console;
use crate::run::CsiConfig;

#[derive(Debug, Subcommand)]
pub(super) enum CsiCommand {
    /// Runs the driver
    Run(CsiArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    vouchsafe csi run -node-id node-1 -workload-api-socket-dir /run/spire/agent-sockets \\\n      \
    -csi-socket-path /var/lib/kubelet/plugins/csi.spiffe.io/csi.sock \\\n      \
    -kubelet-registration-dir /var/lib/kubelet/plugins_registry")]
pub(super) struct CsiArgs {
    /// Kubernetes node name [default: from the variable that -node-id-env names]
    #[arg(long = "node-id", value_name = "name")]
    node_id: Option<String>,
    /// Environment variable with the Kubernetes node name; -node-id wins
    #[arg(long = "node-id-env", value_name = "variable", default_value = "MY_NODE_NAME")]
    node_id_env: String,
    /// Path to the CSI socket
    #[arg(long = "csi-socket-path", value_name = "path", default_value = "/spiffe-csi/csi.sock")]
    csi_socket_path: PathBuf,
    /// Name of the driver
    #[arg(long = "plugin-name", value_name = "name", default_value = "csi.spiffe.io")]
    plugin_name: String,
    /// Path to the directory of the Workload API's socket
    #[arg(long = "workload-api-socket-dir", value_name = "directory")]
    workload_api_socket_dir: Option<PathBuf>,
    /// The kubelet's directory plugins_registry, to register there without a node-driver-registrar [default: no registration]
    #[arg(long = "kubelet-registration-dir", value_name = "directory")]
    kubelet_registration_dir: Option<PathBuf>,
    /// Path to the CSI socket as the kubelet sees it [default: -csi-socket-path]
    #[arg(long = "kubelet-registration-path", value_name = "path")]
    kubelet_registration_path: Option<PathBuf>,
    /// The kubelet's directory of Pods: nothing outside is mounted or unmounted [default: anywhere]
    #[arg(long = "kubelet-dir", value_name = "directory")]
    kubelet_dir: Option<PathBuf>,
    /// Port for /live and /ready on all addresses [default: no listener]
    #[arg(long = "health-port", value_name = "port", value_parser = parse_number::<u16>)]
    health_port: Option<u16>,
}

/// Runs a command and returns its exit code.
pub(super) fn execute(command: CsiCommand, console: &mut Console<'_>) -> io::Result<u8> {
    let CsiCommand::Run(arguments) = command;
    match arguments.resolve(console) {
        Ok(config) => report(crate::run::csi(config), "Error: ", console),
        Err(problems) => {
            for problem in problems {
                writeln!(console.stderr, "Error: {problem}")?;
            }
            Ok(FAILED)
        }
    }
}

impl CsiArgs {
    /// What the flags and the environment come to, or everything that is wrong with them.
    fn resolve(self, console: &Console<'_>) -> Result<CsiConfig, Vec<String>> {
        let mut problems = Vec::new();
        let variable = (console.environment)(&self.node_id_env);
        let node_id = self.node_id.or(variable).filter(|id| !id.is_empty()).unwrap_or_default();
        if node_id.is_empty() {
            problems.push(format!("node ID is required: set -node-id, or the variable {}", self.node_id_env));
        }
        let workload_api_dir = self.workload_api_socket_dir.unwrap_or_default();
        if workload_api_dir.as_os_str().is_empty() {
            problems
                .push("workload API socket directory is required: set -workload-api-socket-dir".to_owned());
        }
        if !is_driver_name(&self.plugin_name) {
            problems.push(format!(
                "-plugin-name {:?} is no name of a driver: at most 63 letters, digits, dots and dashes",
                self.plugin_name
            ));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let endpoint = self.kubelet_registration_path.unwrap_or_else(|| self.csi_socket_path.clone());
        let registration =
            self.kubelet_registration_dir.map(|folder| RegistrationSettings { folder, endpoint });
        let settings = Settings {
            node_id,
            plugin_name: self.plugin_name,
            version: env!("CARGO_PKG_VERSION"),
            workload_api_dir,
            pods_dir: self.kubelet_dir.filter(|folder| !folder.as_os_str().is_empty()),
            socket: self.csi_socket_path,
            registration,
        };
        Ok(CsiConfig { settings, health_port: self.health_port, log: LogConfig::default() })
    }
}

/// As CSI has it; the name is part of a path.
fn is_driver_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63 && name.chars().all(inner) && outer(name.chars().next()) && outer(name.chars().last())
}
