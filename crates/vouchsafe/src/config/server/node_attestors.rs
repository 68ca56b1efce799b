//! `NodeAttestor`: how agents prove which node they are on.

use std::path::PathBuf;

use vouchsafe_server::config::admission::{self as settings, AgentPath};

use crate::config::plugins::{self, Plugin};
use crate::config::problems::Problems;
use crate::config::section::Section;
use crate::go;

/// How agents may attest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAttestors {
    /// With tokens that an operator hands out.
    pub join_token: bool,
    /// With X.509 certificates that they hold already.
    pub x509pop: Option<X509Pop>,
}

/// Attestation with X.509 certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Pop {
    /// Whose certificates are accepted.
    pub mode: X509PopMode,
    /// The path of an agent's SPIFFE ID. `None`: the default of the mode.
    pub agent_path: Option<AgentPath>,
    /// Certificates that may stand between an agent's and a root.
    pub max_intermediates: usize,
    /// Bits of the largest RSA key.
    pub max_rsa_key_size: usize,
    /// Whether the agent's address must be in its certificate.
    pub verify_client_ip: bool,
}

/// Whose certificates are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509PopMode {
    /// Those of other authorities, whose roots are in these files.
    ExternalPki {
        /// PEM files.
        ca_bundle_paths: Vec<PathBuf>,
    },
    /// X.509-SVIDs of this trust domain whose path begins with the prefix.
    Spiffe {
        /// `/…/`
        prefix: String,
    },
}

const SUPPORTED: &[&str] = &["join_token", "x509pop"];

/// Reads the node attestors, of which there may be none.
pub(super) fn read(section: &Section<'_>, problems: &Problems) -> NodeAttestors {
    let mut chosen = NodeAttestors::default();
    for attestor in plugins::enabled(section, "NodeAttestor") {
        match attestor.name.as_str() {
            "join_token" => {
                chosen.join_token = true;
                attestor.read_data(problems, |_| ());
            }
            "x509pop" => chosen.x509pop = read_x509pop(&attestor, problems),
            name => plugins::unsupported("NodeAttestor", name, SUPPORTED, attestor.position(), problems),
        }
        plugins::finish_if_supported(attestor, SUPPORTED);
    }
    chosen
}

fn read_x509pop(plugin: &Plugin<'_>, problems: &Problems) -> Option<X509Pop> {
    plugin.read_data(problems, |data| {
        let count = |key, default| {
            let number = data.integer(key, i64::from(i32::MIN), i64::from(i32::MAX));
            if number.is_some_and(|number| number <= 0) {
                data.refuse(key, format!("{key} must be greater than 0"));
            }
            number.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
        };
        let agent_path = data.text("agent_path_template").and_then(|template| {
            let parsed = AgentPath::parse(&template);
            let wrong = |error| {
                let template = go::quote(&template);
                let text = format!("failed to parse agent svid template: {template}: {error}");
                data.refuse("agent_path_template", text);
            };
            parsed.map_err(wrong).ok()
        });
        let max_intermediates = count("max_intermediates", settings::X509Pop::DEFAULT_MAX_INTERMEDIATES);
        let max_rsa_key_size = count("max_rsa_key_size", settings::X509Pop::DEFAULT_MAX_RSA_KEY_BITS);
        let verify_client_ip = data.flag("verify_client_ip").unwrap_or(false);
        Some(X509Pop {
            mode: read_mode(data)?,
            agent_path,
            max_intermediates,
            max_rsa_key_size,
            verify_client_ip,
        })
    })
}

fn read_mode(data: &Section<'_>) -> Option<X509PopMode> {
    let one = data.text("ca_bundle_path");
    let many = data.strings("ca_bundle_paths");
    let prefix = data.text("spiffe_prefix");
    match data.text("mode").as_deref() {
        None | Some("external_pki") => {
            if one.is_some() && !many.is_empty() {
                let text = "only one of ca_bundle_path or ca_bundle_paths can be configured, not both";
                data.refuse("ca_bundle_paths", text);
            }
            if one.is_none() && many.is_empty() {
                data.refuse("ca_bundle_path", "one of ca_bundle_path or ca_bundle_paths must be configured");
            }
            let ca_bundle_paths = one.map_or(many, |one| vec![one]).into_iter().map(PathBuf::from).collect();
            Some(X509PopMode::ExternalPki { ca_bundle_paths })
        }
        Some("spiffe") => {
            if one.is_some() || !many.is_empty() {
                let text = "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode";
                data.refuse("mode", text);
            }
            let mut prefix = prefix.unwrap_or_else(|| settings::X509Pop::DEFAULT_SVID_PREFIX.to_owned());
            if !prefix.ends_with('/') {
                prefix.push('/');
            }
            Some(X509PopMode::Spiffe { prefix })
        }
        Some(other) => {
            let other = go::quote(other);
            data.refuse("mode", format!("mode can only be either spiffe or external_pki, not {other}"));
            None
        }
    }
}
