//! `UpstreamAuthority`: who signs this server's CA, if not itself.

use std::path::PathBuf;

use vouchsafe_identity::config::KeyExchange;

use crate::config::plugins::{self, Plugin};
use crate::config::problems::Problems;
use crate::config::section::Section;

/// Who signs this server's CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A key in a file.
    Disk {
        /// The CA's certificate, with intermediates up to the root if it is not a root.
        cert_file_path: PathBuf,
        /// Its key.
        key_file_path: PathBuf,
        /// Roots, if the CA is not one.
        bundle_file_path: Option<PathBuf>,
    },
    /// A server above this one.
    Spire(UpstreamServer),
}

/// A server above this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Name or address.
    pub server_address: String,
    /// Port.
    pub server_port: u16,
    /// The Workload API that gives this server its identity there.
    pub workload_api_socket: PathBuf,
    /// What the connection to it must agree on its keys by.
    pub key_exchange: KeyExchange,
}

const SUPPORTED: &[&str] = &["disk", "spire"];

/// Reads the upstream authority, of which there is at most one.
pub(super) fn read(section: &Section<'_>, problems: &Problems) -> Option<Upstream> {
    let found = plugins::enabled(section, "UpstreamAuthority");
    if found.len() > 1 {
        let count = found.len();
        let text =
            format!("plugins: at most one UpstreamAuthority can be configured and enabled, not {count}");
        problems.at(found[1].position(), text);
    }
    let mut chosen = None;
    for plugin in found {
        match plugin.name.as_str() {
            "disk" => chosen = read_disk(&plugin, problems),
            "spire" => chosen = read_spire(&plugin, problems),
            name => plugins::unsupported("UpstreamAuthority", name, SUPPORTED, plugin.position(), problems),
        }
        plugins::finish_if_supported(plugin, SUPPORTED);
    }
    chosen
}

fn read_disk(plugin: &Plugin<'_>, problems: &Problems) -> Option<Upstream> {
    plugin.read_data(problems, |data| {
        let (cert, key) = (data.text("cert_file_path"), data.text("key_file_path"));
        let bundle_file_path = data.text("bundle_file_path").map(PathBuf::from);
        let (Some(cert), Some(key)) = (cert, key) else {
            data.refuse("cert_file_path", "'cert_file_path' and 'key_file_path' must be set and not empty");
            return None;
        };
        Some(Upstream::Disk { cert_file_path: cert.into(), key_file_path: key.into(), bundle_file_path })
    })
}

fn read_spire(plugin: &Plugin<'_>, problems: &Problems) -> Option<Upstream> {
    plugin.read_data(problems, |data| {
        let required = |key| {
            let value = data.text(key);
            if value.is_none() {
                data.refuse(key, format!("{key} is required"));
            }
            value
        };
        let server_address = required("server_address");
        let server_port = required("server_port").and_then(|_| data.port("server_port"));
        let socket = required("workload_api_socket");
        let mut key_exchange = KeyExchange::Any;
        if let Some(experimental) = data.section("experimental") {
            key_exchange = plugins::key_exchange(&experimental);
            if experimental.text("workload_api_named_pipe_name").is_some() {
                experimental.refuse(
                    "workload_api_named_pipe_name",
                    "configuration: workload_api_named_pipe_name is not supported on this platform; please use \
                     workload_api_socket instead",
                );
            }
            experimental.finish();
        }
        Some(Upstream::Spire(UpstreamServer {
            server_address: server_address?,
            server_port: server_port?,
            workload_api_socket: socket?.trim_start_matches("unix://").into(),
            key_exchange,
        }))
    })
}
