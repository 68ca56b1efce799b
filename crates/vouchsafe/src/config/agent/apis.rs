//! Sockets of the agent, and what is served on them.

use std::path::{Path, PathBuf};

use vouchsafe_agent::config::Sds;
use vouchsafe_types::{SpiffeId, TrustDomain};

use super::{DEFAULT_SOCKET_PATH, Overrides, set};
use crate::config::check_socket_path;
use crate::config::section::Section;
use crate::go;

/// Sockets and what is served on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apis {
    /// The socket of the Workload API and of Envoy's SDS.
    pub socket_path: PathBuf,
    /// The administrative socket.
    pub admin_socket_path: Option<PathBuf>,
    /// Who may ask for the identities of others.
    pub authorized_delegates: Vec<SpiffeId>,
    /// What Envoy may ask for by name.
    pub sds: Sds,
    /// The Workload API is not served.
    pub disable_workload_api: bool,
    /// Envoy's SDS is not served.
    pub disable_sds_api: bool,
}

impl Default for Apis {
    fn default() -> Self {
        Self {
            socket_path: DEFAULT_SOCKET_PATH.into(),
            admin_socket_path: None,
            authorized_delegates: Vec::new(),
            sds: Sds::default(),
            disable_workload_api: false,
            disable_sds_api: false,
        }
    }
}

pub(super) fn read(section: &Section<'_>, flags: &Overrides, trust_domain: Option<&TrustDomain>) -> Apis {
    let disable = |flag: bool, key| section.flag(key).unwrap_or(false) || flag;
    let disable_workload_api = disable(flags.disable_workload_api, "disable_workload_api");
    let disable_sds_api = disable(flags.disable_sds_api, "disable_sds_api");
    let socket_path = set(&flags.socket_path).or(section.text("socket_path"));
    let socket_path = socket_path.unwrap_or_else(|| DEFAULT_SOCKET_PATH.to_owned());
    if let Err(error) = check_socket_path(&socket_path) {
        section.problem("socket_path", &error);
    }
    let admin = section.text("admin_socket_path");
    if let Some(admin) = &admin {
        if let Err(error) = check_socket_path(admin) {
            section.problem("admin_socket_path", &error);
        }
        if !(disable_workload_api && disable_sds_api) && is_beside(admin, &socket_path) {
            section.refuse(
                "admin_socket_path",
                "admin socket cannot be in the same directory or a subdirectory as that containing the Workload API socket",
            );
        }
    }
    Apis {
        socket_path: socket_path.into(),
        admin_socket_path: admin.map(PathBuf::from),
        authorized_delegates: read_delegates(section, trust_domain),
        sds: read_sds(section),
        disable_workload_api,
        disable_sds_api,
    }
}

/// Whether `admin` is in or below the directory of `socket`, where every workload may look.
fn is_beside(admin: &str, socket: &str) -> bool {
    let absolute = |path: &str| std::path::absolute(path).unwrap_or_else(|_| Path::new(path).to_owned());
    absolute(socket).parent().is_some_and(|directory| absolute(admin).starts_with(directory))
}

fn read_delegates(section: &Section<'_>, trust_domain: Option<&TrustDomain>) -> Vec<SpiffeId> {
    let mut delegates = Vec::new();
    for text in section.strings("authorized_delegates") {
        let member = match SpiffeId::parse(&text) {
            Err(error) => Err(error.to_string()),
            Ok(id) => match trust_domain {
                Some(trust_domain) if id.trust_domain() != *trust_domain => Err(format!(
                    "SPIFFE ID {} is not a member of trust domain {}",
                    go::quote(id.as_str()),
                    go::quote(trust_domain.as_str())
                )),
                _ => Ok(id),
            },
        };
        match member {
            Ok(id) => delegates.push(id),
            Err(error) => section
                .refuse("authorized_delegates", format!("error validating authorized delegate: {error}")),
        }
    }
    delegates
}

fn read_sds(section: &Section<'_>) -> Sds {
    let mut sds = Sds::default();
    let Some(section) = section.section("sds") else { return sds };
    for (key, name) in [
        ("default_svid_name", &mut sds.default_svid_name),
        ("default_bundle_name", &mut sds.default_bundle_name),
        ("default_all_bundles_name", &mut sds.default_all_bundles_name),
    ] {
        if let Some(text) = section.text(key) {
            *name = text;
        }
    }
    sds.disable_spiffe_cert_validation = section.flag("disable_spiffe_cert_validation").unwrap_or(false);
    if sds.default_all_bundles_name == sds.default_bundle_name {
        section.warn(
            "The \"default_bundle_name\" and \"default_all_bundles_name\" configurables have the same value. \
             \"default_all_bundles_name\" will be ignored. Please configure distinct values or use the defaults. This will \
             be a configuration error in a future release.",
        );
    }
    section.finish();
    sds
}
