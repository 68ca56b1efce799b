//! Where the pages of a provider are served.

use std::path::PathBuf;
use std::time::Duration;

use super::duration_or;
use crate::config::check_socket_path;
use crate::config::problems::Problems;
use crate::config::section::Section;

/// Where the pages are served. SPIRE's fourth way, ACME, is not built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Plain HTTP at this `host:port`; the host may be empty, which means all addresses.
    Insecure(String),
    /// Plain HTTP at a Unix socket, for a proxy on this machine.
    Socket(PathBuf),
    /// HTTPS with a certificate from files.
    ServingCert(ServingCert),
}

/// HTTPS with a certificate from files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingCert {
    /// `host:port`; the host may be empty, which means all addresses.
    pub address: String,
    /// The chain, leaf first.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// How often the files are looked at.
    pub sync_interval: Duration,
}

/// How often the files are looked at.
const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(60);
/// HTTPS on all addresses.
const DEFAULT_ADDRESS: &str = ":443";

const ACME: &str = "acme is not supported: obtain the certificate with a client of its own (certbot, lego, cert-manager) and \
    name its files in serving_cert_file, or let a proxy terminate TLS and set listen_socket_path";

pub(super) fn read(top: &Section<'_>, problems: &Problems) -> Option<Listener> {
    let acme = top.section("acme").is_some();
    if acme {
        top.refuse("acme", ACME);
    }
    if let Some(windows) = top.section("experimental") {
        windows.not_built("listen_named_pipe_name", "named pipes are of Windows; use listen_socket_path");
        windows.finish();
    }
    let insecure = top.text("insecure_addr");
    let socket = top.text("listen_socket_path");
    let serving = top.section("serving_cert_file");
    let set = [
        ("acme", acme),
        ("serving_cert_file", serving.is_some()),
        ("insecure_addr", insecure.is_some()),
        ("listen_socket_path", socket.is_some()),
    ];
    let set: Vec<&'static str> = set.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect();
    match *set {
        [] => problems
            .add("either acme, serving_cert_file, insecure_addr or listen_socket_path must be configured"),
        [_] => {}
        [first, second, ..] => top.refuse(second, format!("{first} and {second} are mutually exclusive")),
    }
    if let Some(address) = insecure {
        check_address(top, "insecure_addr", &address);
        return Some(Listener::Insecure(address));
    }
    if let Some(path) = socket {
        if let Err(error) = check_socket_path(&path) {
            top.refuse("listen_socket_path", error);
        }
        return Some(Listener::Socket(path.into()));
    }
    read_serving_cert(serving?)
}

fn read_serving_cert(section: Section<'_>) -> Option<Listener> {
    let required = |key: &'static str| {
        let value = section.text(key);
        if value.is_none() {
            let text = format!("{key} must be configured in the serving_cert_file configuration section");
            section.refuse(key, text);
        }
        value
    };
    let (cert, key) = (required("cert_file_path"), required("key_file_path"));
    let address = section.text("addr").unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
    check_address(&section, "addr", &address);
    let sync_interval = duration_or(&section, "file_sync_interval", DEFAULT_SYNC_INTERVAL);
    section.finish();
    Some(Listener::ServingCert(ServingCert {
        address,
        cert_file: cert?.into(),
        key_file: key?.into(),
        sync_interval,
    }))
}

fn check_address(section: &Section<'_>, key: &'static str, address: &str) {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        section.problem(key, "must be host:port or :port");
    }
}
