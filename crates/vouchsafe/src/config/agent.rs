//! The configuration of an agent.

mod apis;
mod experimental;
mod first_contact;
mod image_signatures;
mod plugin_choice;
mod servers;

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_types::TrustDomain;
use vouchsafe_types::secret::SecretText;

use super::observe::{self, LogOverrides};
use super::problems::Problems;
use super::section::Section;
use super::telemetry;
use super::{HealthListener, Invalid, KeyType, LogConfig, Source, Telemetry};
use crate::{go, hcl};

pub use self::apis::Apis;
pub use self::experimental::Experimental;
pub use self::first_contact::Bootstrap;
pub use self::plugin_choice::{K8s, NodeAttestor, Plugins, UnixAttestor};
pub use super::plugins::KeyManager;
pub use vouchsafe_agent::config::{Rebootstrap, RebootstrapMode};
pub use vouchsafe_agent::trust::origin::BundleFormat;

/// Where SPIRE looks for the file.
pub const DEFAULT_CONFIG_PATH: &str = "conf/agent/agent.conf";
/// Where the Workload API's socket is unless told otherwise.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
/// How often entries are fetched.
pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How many SVIDs of a kind are held.
pub const DEFAULT_CACHE_SIZE: usize = 1000;
/// The least that `availability_target` may be.
const MIN_AVAILABILITY_TARGET: Duration = Duration::from_secs(24 * 3600);

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
    /// Further servers, each `host:port`.
    pub server_addresses: Vec<String>,
    /// Sockets and what is served on them.
    pub apis: Apis,
    /// The token that it attests with.
    pub join_token: Option<SecretText>,
    /// How it knows the server the first time.
    pub bootstrap: Bootstrap,
    /// What it does when the server's authorities are not those that it knows.
    pub rebootstrap: Rebootstrap,
    /// For how long SVIDs should last when the server cannot be reached. `None`: half of their lifetime.
    pub availability_target: Option<Duration>,
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
    /// How nodes and workloads are attested, and where keys are kept.
    pub plugins: Plugins,
    /// The `experimental` section.
    pub experimental: Experimental,
    /// Logs.
    pub log: LogConfig,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Health over HTTP.
    pub health: Option<HealthListener>,
    /// What the operator should hear at start.
    pub warnings: Vec<String>,
}

impl Config {
    /// The defaults for everything but who and where: believes any server, and keeps its keys in memory.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, server_address: String, server_port: u16) -> Self {
        Self {
            trust_domain,
            server_address,
            server_port,
            server_addresses: Vec::new(),
            data_dir: ".".into(),
            apis: Apis::default(),
            join_token: None,
            bootstrap: Bootstrap::Insecure,
            rebootstrap: Rebootstrap::default(),
            availability_target: None,
            x509_svid_cache_max_size: DEFAULT_CACHE_SIZE,
            jwt_svid_cache_max_size: DEFAULT_CACHE_SIZE,
            allow_unauthenticated_verifiers: false,
            allowed_foreign_jwt_claims: Vec::new(),
            log_selectors: Vec::new(),
            workload_key_type: KeyType::EcP256,
            plugins: Plugins {
                key_manager: KeyManager::Memory,
                node_attestor: NodeAttestor::JoinToken,
                unix: Some(UnixAttestor::default()),
                docker: None,
                k8s: None,
            },
            experimental: Experimental::default(),
            log: LogConfig::default(),
            telemetry: Telemetry::default(),
            health: None,
            warnings: Vec::new(),
        }
    }
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
    /// `-trustBundleUrl`
    pub trust_bundle_url: Option<String>,
    /// `-trustBundleFormat`
    pub trust_bundle_format: Option<String>,
    /// `-trustDomain`
    pub trust_domain: Option<String>,
    /// `-allowUnauthenticatedVerifiers`
    pub allow_unauthenticated_verifiers: bool,
    /// `-insecureBootstrap`
    pub insecure_bootstrap: bool,
    /// `-rebootstrapMode`
    pub rebootstrap_mode: Option<String>,
    /// `-rebootstrapDelay`
    pub rebootstrap_delay: Option<String>,
    /// `-disableWorkloadAPI`
    pub disable_workload_api: bool,
    /// `-disableSDSAPI`
    pub disable_sds_api: bool,
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
    let problems = Problems::default();
    let draft = read(&source.parse()?, flags, &problems);
    let warnings = problems.finish(&source.path)?;
    // Without problems every required value is there.
    let mut config = draft.ok_or_else(|| Invalid { path: source.path.clone(), problems: Vec::new() })?;
    config.warnings = warnings;
    Ok(config)
}

/// What a file comes to, if nothing that is required is missing; and what is wrong with it.
pub(super) fn read(body: &hcl::Body, flags: &Overrides, problems: &Problems) -> Option<Config> {
    let top = Section::top(body, problems);
    let draft = read_top(&top, flags, problems);
    top.finish();
    draft
}

fn read_top(top: &Section<'_>, flags: &Overrides, problems: &Problems) -> Option<Config> {
    let telemetry = telemetry::read(top);
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
        config.plugins = plugins;
        config.telemetry = telemetry;
        config.health = health;
        config
    });
    experimental::read_others(&section);
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
    let servers = servers::read(section, flags, problems);
    let log = LogOverrides {
        level: flags.log_level.as_deref().filter(|value| !value.is_empty()),
        format: flags.log_format.as_deref().filter(|value| !value.is_empty()),
        file: flags.log_file.as_deref().filter(|value| !value.is_empty()),
        source_location: flags.log_source_location,
    };
    let verifiers = section.flag("allow_unauthenticated_verifiers").unwrap_or(false);
    let bootstrap = first_contact::read_bootstrap(section, flags);
    let insecure = section.flag("insecure_bootstrap").unwrap_or(false) || flags.insecure_bootstrap;
    let config = Config {
        apis: apis::read(section, flags, trust_domain.as_ref()),
        data_dir: set(&flags.data_dir).or(section.text("data_dir")).unwrap_or_else(|| ".".to_owned()).into(),
        join_token: first_contact::read_join_token(section, flags),
        bootstrap,
        rebootstrap: first_contact::read_rebootstrap(section, flags, insecure),
        availability_target: read_availability_target(section),
        x509_svid_cache_max_size: cache_size(section, "x509_svid_cache_max_size"),
        jwt_svid_cache_max_size: cache_size(section, "jwt_svid_cache_max_size"),
        allow_unauthenticated_verifiers: flags.allow_unauthenticated_verifiers || verifiers,
        allowed_foreign_jwt_claims: section.strings("allowed_foreign_jwt_claims"),
        log_selectors: section.strings("log_selectors"),
        workload_key_type: read_workload_key_type(section),
        experimental: experimental::read(section),
        log: observe::read_log(section, &log, problems),
        ..servers?.into_config(trust_domain?)
    };
    Some(config)
}

fn read_availability_target(section: &Section<'_>) -> Option<Duration> {
    let text = section.text("availability_target")?;
    match go::parse_duration(&text) {
        Err(error) => {
            section.refuse("availability_target", format!("unable to parse availability_target: {error}"));
            None
        }
        Ok(target) if target < MIN_AVAILABILITY_TARGET => {
            let least = go::format_duration(MIN_AVAILABILITY_TARGET);
            section.refuse("availability_target", format!("availability_target must be at least {least}"));
            None
        }
        Ok(target) => Some(target),
    }
}

fn read_workload_key_type(section: &Section<'_>) -> KeyType {
    let kind = section.parsed("workload_x509_svid_key_type", KeyType::parse);
    if kind == Some(KeyType::Rsa4096) {
        section.problem("workload_x509_svid_key_type", "must be one of [rsa-2048, ec-p256, ec-p384]");
    }
    kind.unwrap_or(KeyType::EcP256)
}

fn cache_size(section: &Section<'_>, key: &'static str) -> usize {
    let size = section.integer(key, i64::from(i32::MIN), i64::from(i32::MAX));
    if size.is_some_and(|size| size < 0) {
        section.refuse(key, format!("{key} should not be negative"));
    }
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.filter(|size| *size != 0).unwrap_or(DEFAULT_CACHE_SIZE)
}
