//! The configuration of an agent.

mod first_contact;
mod plugin_choice;
mod unbuilt;

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_types::TrustDomain;
use vouchsafe_types::secret::SecretText;

use super::observe::{self, LogOverrides};
use super::problems::Problems;
use super::section::Section;
use super::{HealthListener, Invalid, KeyType, LogConfig, Source, Telemetry, check_socket_path};
use crate::go;

pub use super::plugins::KeyManager;

/// Where SPIRE looks for the file.
pub const DEFAULT_CONFIG_PATH: &str = "conf/agent/agent.conf";
/// Where the Workload API's socket is unless told otherwise.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
/// How often entries are fetched.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How many SVIDs of a kind are held.
pub const DEFAULT_CACHE_SIZE: usize = 1000;

/// Everything an agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The trust domain that it belongs to.
    pub trust_domain: TrustDomain,
    /// Where it keeps its state.
    pub data_dir: PathBuf,
    /// Name or address of the server.
    pub server_address: String,
    /// Port of the server.
    pub server_port: u16,
    /// The Workload API's socket.
    pub socket_path: PathBuf,
    /// The token that it attests with.
    pub join_token: Option<SecretText>,
    /// How it knows the server the first time.
    pub bootstrap: Bootstrap,
    /// How often entries are fetched.
    pub sync_interval: Duration,
    /// How many X.509-SVIDs are held.
    pub x509_svid_cache_max_size: usize,
    /// How many JWT-SVIDs are held.
    pub jwt_svid_cache_max_size: usize,
    /// Whether callers without an identity may have bundles.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of other trust domains' tokens that validation passes on.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// Kinds of selectors that are logged when a workload gets no identity.
    pub log_selectors: Vec<String>,
    /// Kind of workloads' keys.
    pub workload_key_type: KeyType,
    /// Where the agent's own key is kept.
    pub key_manager: KeyManager,
    /// Attestation of processes by user, group and path.
    pub unix_attestor: Option<UnixAttestor>,
    /// Logs.
    pub log: LogConfig,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Health over HTTP.
    pub health: Option<HealthListener>,
    /// What the operator should hear at start.
    pub warnings: Vec<String>,
}

/// How an agent knows the server the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// By the server's bundle in a file.
    File {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: BundleFormat,
    },
    /// Not at all: whoever answers is believed.
    Insecure,
}

/// Formats of a bundle in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleFormat {
    /// Certificates.
    Pem,
    /// A SPIFFE bundle document.
    Spiffe,
}

/// The `unix` attestor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixAttestor {
    /// Whether the path and hash of the program are selectors.
    pub discover_workload_path: bool,
    /// The largest program that is hashed, in bytes. 0: any. Negative: none.
    pub workload_size_limit: i64,
}

/// Flags of `agent run`. Absent and empty ones leave the file's value.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `-dataDir`
    pub data_dir: Option<String>,
    /// `-joinToken`
    pub join_token: Option<SecretText>,
    /// `-joinTokenFile`
    pub join_token_file: Option<String>,
    /// `-serverAddress`
    pub server_address: Option<String>,
    /// `-serverPort`
    pub server_port: Option<u16>,
    /// `-socketPath`
    pub socket_path: Option<String>,
    /// `-trustBundle`
    pub trust_bundle: Option<String>,
    /// `-trustBundleFormat`
    pub trust_bundle_format: Option<String>,
    /// `-trustDomain`
    pub trust_domain: Option<String>,
    /// `-allowUnauthenticatedVerifiers`
    pub allow_unauthenticated_verifiers: bool,
    /// `-insecureBootstrap`
    pub insecure_bootstrap: bool,
    /// `-logLevel`
    pub log_level: Option<String>,
    /// `-logFormat`
    pub log_format: Option<String>,
    /// `-logFile`
    pub log_file: Option<String>,
    /// `-logSourceLocation`
    pub log_source_location: bool,
}

/// Reads an agent's file; flags win over it.
///
/// # Errors
///
/// Everything that is wrong with the file and the flags.
pub fn load(source: &Source, flags: &Overrides) -> Result<Config, Invalid> {
    let body = source.parse()?;
    let problems = Problems::default();
    let draft = {
        let top = Section::top(&body, &problems);
        let draft = read_top(&top, flags, &problems);
        top.finish();
        draft
    };
    let warnings = problems.finish(&source.path)?;
    // Without problems every required value is there.
    let mut config = draft.ok_or_else(|| Invalid { path: source.path.clone(), problems: Vec::new() })?;
    config.warnings = warnings;
    Ok(config)
}

fn read_top(top: &Section<'_>, flags: &Overrides, problems: &Problems) -> Option<Config> {
    let telemetry = observe::read_telemetry(top);
    let health = observe::read_health(top);
    let plugins = match top.section("plugins") {
        Some(section) => Some(plugin_choice::read(section, problems)),
        None => {
            problems.add("plugins section must be configured");
            None
        }
    };
    let Some(section) = top.section("agent") else {
        problems.add("agent section must be configured");
        return None;
    };
    let config = read_agent(&section, flags, problems).zip(plugins).map(|(mut config, plugins)| {
        (config.key_manager, config.unix_attestor) = plugins;
        config.telemetry = telemetry;
        config.health = health;
        config
    });
    unbuilt::refuse(&section);
    section.finish();
    config
}

fn set(flag: &Option<String>) -> Option<String> {
    flag.clone().filter(|value| !value.is_empty())
}

fn read_agent(section: &Section<'_>, flags: &Overrides, problems: &Problems) -> Option<Config> {
    let required = |value: Option<String>, key: &str| {
        if value.is_none() {
            problems.add(format!("{key} must be configured"));
        }
        value
    };
    let trust_domain = required(set(&flags.trust_domain).or(section.text("trust_domain")), "trust_domain");
    let trust_domain = trust_domain.and_then(|text| match TrustDomain::parse(&text) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            section.problem(
                "trust_domain",
                &format!("could not parse trust_domain {}: {error}", go::quote(&text)),
            );
            None
        }
    });
    let server_address =
        required(set(&flags.server_address).or(section.text("server_address")), "server_address");
    let file_port = section.port("server_port").filter(|port| *port != 0);
    let server_port = flags.server_port.filter(|port| *port != 0).or(file_port);
    if server_port.is_none() {
        problems.add("server_port must be configured");
    }
    let socket_path = set(&flags.socket_path).or(section.text("socket_path"));
    let socket_path = socket_path.unwrap_or_else(|| DEFAULT_SOCKET_PATH.to_owned());
    if let Err(error) = check_socket_path(&socket_path) {
        section.problem("socket_path", &error);
    }
    let texts = |key| -> Vec<String> {
        section.texts(key).unwrap_or_default().into_iter().map(|(text, _)| text).collect()
    };
    let log = LogOverrides {
        level: flags.log_level.as_deref().filter(|value| !value.is_empty()),
        format: flags.log_format.as_deref().filter(|value| !value.is_empty()),
        file: flags.log_file.as_deref().filter(|value| !value.is_empty()),
        source_location: flags.log_source_location,
    };
    let verifiers = section.flag("allow_unauthenticated_verifiers").unwrap_or(false);
    let config = Config {
        data_dir: set(&flags.data_dir).or(section.text("data_dir")).unwrap_or_else(|| ".".to_owned()).into(),
        socket_path: socket_path.into(),
        join_token: first_contact::read_join_token(section, flags, problems),
        bootstrap: first_contact::read_bootstrap(section, flags, problems),
        sync_interval: unbuilt::read_experimental(section),
        x509_svid_cache_max_size: cache_size(section, "x509_svid_cache_max_size"),
        jwt_svid_cache_max_size: cache_size(section, "jwt_svid_cache_max_size"),
        allow_unauthenticated_verifiers: flags.allow_unauthenticated_verifiers || verifiers,
        allowed_foreign_jwt_claims: texts("allowed_foreign_jwt_claims"),
        log_selectors: texts("log_selectors"),
        workload_key_type: read_workload_key_type(section),
        log: observe::read_log(section, &log, problems),
        trust_domain: trust_domain?,
        server_address: observe::trim_brackets(&server_address?),
        server_port: server_port?,
        key_manager: KeyManager::Memory,
        unix_attestor: None,
        telemetry: Telemetry::default(),
        health: None,
        warnings: Vec::new(),
    };
    Some(config)
}

fn read_workload_key_type(section: &Section<'_>) -> KeyType {
    let kind = section.parsed("workload_x509_svid_key_type", KeyType::parse);
    if kind == Some(KeyType::Rsa4096) {
        section.problem("workload_x509_svid_key_type", "must be one of [rsa-2048, ec-p256, ec-p384]");
    }
    kind.unwrap_or(KeyType::EcP256)
}

fn cache_size(section: &Section<'_>, key: &'static str) -> usize {
    let size = section.integer(key, 0, i64::from(i32::MAX)).and_then(|size| usize::try_from(size).ok());
    size.filter(|size| *size != 0).unwrap_or(DEFAULT_CACHE_SIZE)
}
