//! Where a provider's keys come from.

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_types::TrustDomain;

use super::{DEFAULT_POLL_INTERVAL, duration_or};
use crate::config::check_socket_path;
use crate::config::problems::Problems;
use crate::config::section::Section;

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A server's administrative socket.
    ServerApi {
        /// The socket.
        socket: PathBuf,
    },
    /// A Workload API, as a workload that has an entry.
    WorkloadApi {
        /// The socket.
        socket: PathBuf,
        /// Whose keys.
        trust_domain: TrustDomain,
    },
    /// A SPIFFE bundle document that somebody else keeps current.
    File {
        /// The document.
        path: PathBuf,
    },
}

const PIPES: &str = "named pipes are of Windows; use the Unix socket";

/// The source, and how often it is asked.
pub(super) fn read(top: &Section<'_>, problems: &Problems) -> Option<(Source, Duration)> {
    let sections = [
        ("server_api", top.section("server_api")),
        ("workload_api", top.section("workload_api")),
        ("file", top.section("file")),
    ];
    let mut found = Vec::new();
    for (key, section) in sections {
        let Some(section) = section else { continue };
        let interval = duration_or(&section, "poll_interval", DEFAULT_POLL_INTERVAL);
        let source = match key {
            "server_api" => read_server_api(&section),
            "workload_api" => read_workload_api(&section),
            _ => required(&section, "path", "file").map(|path| Source::File { path: path.into() }),
        };
        section.finish();
        found.push((key, source.map(|source| (source, interval))));
    }
    match found.as_slice() {
        [] => {
            problems.add("exactly one of the server_api, workload_api, or file sections must be configured")
        }
        [_] => {}
        [_, (second, _), ..] => {
            top.refuse(second, "the server_api, workload_api, and file sections are mutually exclusive");
        }
    }
    found.into_iter().next().and_then(|(_, source)| source)
}

fn read_server_api(section: &Section<'_>) -> Option<Source> {
    refuse_pipe(section);
    let address = required(section, "address", "server_api")?;
    match server_socket(&address) {
        Ok(socket) => Some(Source::ServerApi { socket }),
        Err(error) => {
            section.refuse("address", error);
            None
        }
    }
}

/// The socket of a gRPC target of the unix name system: `unix:path` or `unix:///path`.
fn server_socket(address: &str) -> Result<PathBuf, String> {
    let rest = address.strip_prefix("unix:").ok_or(
        "address must use the unix name system in the server_api configuration section, for example \
         unix:///tmp/spire-server/private/api.sock",
    )?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || (rest.starts_with("//") && !path.starts_with('/')) {
        return Err("address must name an absolute path: unix:///path".to_owned());
    }
    check_socket_path(path).map(|()| path.into())
}

fn read_workload_api(section: &Section<'_>) -> Option<Source> {
    refuse_pipe(section);
    let socket = required(section, "socket_path", "workload_api");
    if let Some(Err(error)) = socket.as_deref().map(check_socket_path) {
        section.refuse("socket_path", error);
    }
    let trust_domain = required(section, "trust_domain", "workload_api")?;
    match TrustDomain::parse(trust_domain.strip_prefix("spiffe://").unwrap_or(&trust_domain)) {
        Ok(trust_domain) => Some(Source::WorkloadApi { socket: socket?.into(), trust_domain }),
        Err(error) => {
            section.problem("trust_domain", &error.to_string());
            None
        }
    }
}

fn required(section: &Section<'_>, key: &'static str, name: &str) -> Option<String> {
    let value = section.text(key);
    if value.is_none() {
        section.refuse(key, format!("{key} must be configured in the {name} configuration section"));
    }
    value
}

fn refuse_pipe(section: &Section<'_>) {
    if let Some(windows) = section.section("experimental") {
        windows.not_built("named_pipe_name", PIPES);
        windows.finish();
    }
}
