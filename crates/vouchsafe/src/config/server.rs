//! The configuration of a server.

mod agents;
mod data_store;
mod experimental;
mod federation;
mod lifetimes;
mod node_attestors;
mod plugin_choice;
mod publications;
mod upstream;

use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_types::{SpiffeId, TrustDomain};

use super::observe::{self, LogOverrides};
use super::problems::Problems;
use super::section::Section;
use super::telemetry;
use super::{HealthListener, Invalid, KeyType, LogConfig, Source, Telemetry, check_socket_path};
use crate::{go, hcl};

pub use self::federation::{BundleEndpoint, EndpointProfile, Federation};
pub use self::node_attestors::{K8sPsat, NodeAttestors, PsatCluster, X509Pop, X509PopMode};
pub use self::upstream::{Upstream, UpstreamServer};
pub use super::plugins::KeyManager;
pub use vouchsafe_identity::config::KeyExchange;
pub use vouchsafe_server::config::admission::{Prune, RateLimits};
pub use vouchsafe_server::config::publication::Publication;
pub use vouchsafe_transport::proxy::Network;

/// Where SPIRE looks for the file.
pub const DEFAULT_CONFIG_PATH: &str = "conf/server/server.conf";
/// Where the administrative socket is unless told otherwise.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-server/private/api.sock";
const DEFAULT_BIND_ADDRESS: &str = "0.0.0.0";
const DEFAULT_BIND_PORT: u16 = 8081;
/// Lifetime of CA certificates.
pub const DEFAULT_CA_TTL: Duration = Duration::from_secs(24 * 3600);
/// Lifetime of X.509-SVIDs.
pub const DEFAULT_X509_SVID_TTL: Duration = Duration::from_secs(3600);
/// Lifetime of JWT-SVIDs.
pub const DEFAULT_JWT_SVID_TTL: Duration = Duration::from_secs(5 * 60);

/// Everything a server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The trust domain that it speaks for.
    pub trust_domain: TrustDomain,
    /// Where it keeps its state.
    pub data_dir: PathBuf,
    /// Name or address of the TCP listener.
    pub bind_address: String,
    /// Port of the TCP listener.
    pub bind_port: u16,
    /// The administrative socket.
    pub socket_path: PathBuf,
    /// Kind of the CA's keys.
    pub ca_key_type: KeyType,
    /// Kind of the keys that sign JWT-SVIDs.
    pub jwt_key_type: KeyType,
    /// Lifetime of CA certificates.
    pub ca_ttl: Duration,
    /// Subject of CA certificates.
    pub ca_subject: CaSubject,
    /// Lifetime of X.509-SVIDs whose entry does not say.
    pub default_x509_svid_ttl: Duration,
    /// Lifetime of JWT-SVIDs whose entry does not say.
    pub default_jwt_svid_ttl: Duration,
    /// Lifetime of agents' SVIDs. `None`: as `default_x509_svid_ttl`.
    pub agent_ttl: Option<Duration>,
    /// The `iss` claim of JWT-SVIDs.
    pub jwt_issuer: Option<String>,
    /// Callers that may administrate over TCP.
    pub admin_ids: Vec<SpiffeId>,
    /// Which calls are limited per source address.
    pub rate_limits: RateLimits,
    /// The database.
    pub data_store: DataStore,
    /// Where private keys are kept.
    pub key_manager: KeyManager,
    /// How agents may attest.
    pub node_attestors: NodeAttestors,
    /// Who signs this server's CA. `None`: itself.
    pub upstream: Option<Upstream>,
    /// Kubernetes objects that get the trust bundle.
    pub publications: Vec<Publication>,
    /// Federation with other trust domains.
    pub federation: Federation,
    /// Whether each call is logged with who made it and what came of it.
    pub audit_log: bool,
    /// Whether JWT-SVIDs are not issued at all.
    pub disable_jwt_svids: bool,
    /// Which agents are forgotten without being evicted.
    pub prune: Prune,
    /// Load balancers that say whom they speak for, with the PROXY protocol.
    pub balancers: Vec<Network>,
    /// What TLS connections must agree on their keys by.
    pub key_exchange: KeyExchange,
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
    /// The defaults for everything but who and where: a database and keys in `data_dir`, and no way to attest yet.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, data_dir: PathBuf) -> Self {
        Self {
            trust_domain,
            bind_address: DEFAULT_BIND_ADDRESS.to_owned(),
            bind_port: DEFAULT_BIND_PORT,
            socket_path: DEFAULT_SOCKET_PATH.into(),
            ca_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            ca_ttl: DEFAULT_CA_TTL,
            ca_subject: CaSubject::default(),
            default_x509_svid_ttl: DEFAULT_X509_SVID_TTL,
            default_jwt_svid_ttl: DEFAULT_JWT_SVID_TTL,
            agent_ttl: None,
            jwt_issuer: None,
            admin_ids: Vec::new(),
            rate_limits: RateLimits::default(),
            data_store: DataStore::Sqlite { path: data_dir.join("datastore.sqlite3") },
            key_manager: KeyManager::Disk { keys_path: data_dir.join("keys.json") },
            node_attestors: NodeAttestors::default(),
            upstream: None,
            publications: Vec::new(),
            federation: Federation::default(),
            audit_log: false,
            disable_jwt_svids: false,
            prune: Prune::default(),
            balancers: Vec::new(),
            key_exchange: KeyExchange::Any,
            log: LogConfig::default(),
            telemetry: Telemetry::default(),
            health: None,
            warnings: Vec::new(),
            data_dir,
        }
    }
}

/// Subject of CA certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSubject {
    /// `C`.
    pub country: Vec<String>,
    /// `O`.
    pub organization: Vec<String>,
    /// `CN`, if not empty.
    pub common_name: String,
}

impl Default for CaSubject {
    fn default() -> Self {
        Self {
            country: vec!["US".to_owned()],
            organization: vec!["SPIFFE".to_owned()],
            common_name: String::new(),
        }
    }
}

/// The database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataStore {
    /// SQLite in a file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// PostgreSQL, which several servers may share.
    Postgres(vouchsafe_store::postgres::Settings),
}

/// Flags of `server run`. Absent and empty ones leave the file's value.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `-bindAddress`
    pub bind_address: Option<String>,
    /// `-serverPort`
    pub bind_port: Option<u16>,
    /// `-socketPath`
    pub socket_path: Option<String>,
    /// `-trustDomain`
    pub trust_domain: Option<String>,
    /// `-dataDir`
    pub data_dir: Option<String>,
    /// `-logLevel`
    pub log_level: Option<String>,
    /// `-logFormat`
    pub log_format: Option<String>,
    /// `-logFile`
    pub log_file: Option<String>,
    /// `-logSourceLocation`
    pub log_source_location: bool,
}

/// Reads a server's file; flags win over it.
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
    let Some(section) = top.section("server") else {
        problems.add("server section must be configured");
        return None;
    };
    let config = read_server(&section, flags, problems).zip(plugins).map(|(mut config, plugins)| {
        config.data_store = plugins.data_store;
        config.key_manager = plugins.key_manager;
        config.node_attestors = plugins.node_attestors;
        config.upstream = plugins.upstream;
        config.publications = plugins.publications;
        config.telemetry = telemetry;
        config.health = health;
        config
    });
    experimental::read_others(&section);
    section.finish();
    config
}

fn read_server(section: &Section<'_>, flags: &Overrides, problems: &Problems) -> Option<Config> {
    let set = |flag: &Option<String>| flag.clone().filter(|value| !value.is_empty());
    let trust_domain = set(&flags.trust_domain).or(section.text("trust_domain"));
    let trust_domain = match trust_domain {
        Some(text) => match TrustDomain::parse(&text) {
            Ok(trust_domain) => Some(trust_domain),
            Err(error) => {
                section.problem(
                    "trust_domain",
                    &format!("could not parse trust_domain {}: {error}", go::quote(&text)),
                );
                None
            }
        },
        None => {
            problems.add("trust_domain must be configured");
            None
        }
    };
    let data_dir = set(&flags.data_dir).or(section.text("data_dir"));
    if data_dir.is_none() {
        problems.add("data_dir must be configured");
    }
    let file_port = section.port("bind_port");
    let bind_port = flags
        .bind_port
        .filter(|port| *port != 0)
        .or(file_port.filter(|port| *port != 0))
        .unwrap_or(DEFAULT_BIND_PORT);
    let bind_address = set(&flags.bind_address).or(section.text("bind_address"));
    let socket_path = set(&flags.socket_path).or(section.text("socket_path"));
    let socket_path = socket_path.unwrap_or_else(|| DEFAULT_SOCKET_PATH.to_owned());
    if let Err(error) = check_socket_path(&socket_path) {
        section.problem("socket_path", &error);
    }
    let ca_key_type = section.parsed("ca_key_type", KeyType::parse).unwrap_or(KeyType::EcP256);
    let log = LogOverrides {
        level: flags.log_level.as_deref().filter(|value| !value.is_empty()),
        format: flags.log_format.as_deref().filter(|value| !value.is_empty()),
        file: flags.log_file.as_deref().filter(|value| !value.is_empty()),
        source_location: flags.log_source_location,
    };
    let config = Config {
        bind_address: observe::trim_brackets(
            &bind_address.unwrap_or_else(|| DEFAULT_BIND_ADDRESS.to_owned()),
        ),
        bind_port,
        socket_path: socket_path.into(),
        ca_key_type,
        jwt_key_type: section.parsed("jwt_key_type", KeyType::parse).unwrap_or(ca_key_type),
        ca_ttl: lifetimes::positive(section, "ca_ttl").unwrap_or(DEFAULT_CA_TTL),
        ca_subject: read_subject(section, problems),
        default_x509_svid_ttl: lifetimes::positive(section, "default_x509_svid_ttl")
            .unwrap_or(DEFAULT_X509_SVID_TTL),
        default_jwt_svid_ttl: lifetimes::positive(section, "default_jwt_svid_ttl")
            .unwrap_or(DEFAULT_JWT_SVID_TTL),
        agent_ttl: lifetimes::positive(section, "agent_ttl"),
        jwt_issuer: section.text("jwt_issuer"),
        admin_ids: read_admin_ids(section, problems),
        rate_limits: agents::read_rate_limits(section),
        federation: federation::read(section),
        audit_log: section.flag("audit_log_enabled").unwrap_or(false),
        disable_jwt_svids: section.flag("disable_jwt_svids").unwrap_or(false),
        prune: agents::read_prune(section),
        balancers: agents::read_balancers(section),
        key_exchange: experimental::read(section),
        log: observe::read_log(section, &log, problems),
        ..Config::new(trust_domain?, data_dir?.into())
    };
    lifetimes::warn(&config, problems);
    Some(config)
}

fn read_subject(section: &Section<'_>, problems: &Problems) -> CaSubject {
    let Some(subject) = section.section("ca_subject") else { return CaSubject::default() };
    let read = CaSubject {
        country: subject.strings("country"),
        organization: subject.strings("organization"),
        common_name: subject.text("common_name").unwrap_or_default(),
    };
    subject.finish();
    if read.country.is_empty() && read.organization.is_empty() && read.common_name.is_empty() {
        problems.warn("ca_subject configurable is set but empty; the default will be used");
        return CaSubject::default();
    }
    read
}

fn read_admin_ids(section: &Section<'_>, problems: &Problems) -> Vec<SpiffeId> {
    let mut ids = Vec::new();
    for (text, position) in section.texts("admin_ids").unwrap_or_default() {
        match SpiffeId::parse(&text) {
            Ok(id) => ids.push(id),
            Err(error) => {
                problems.at(position, format!("could not parse admin ID {}: {error}", go::quote(&text)))
            }
        }
    }
    ids
}
