//! What an operator says about the database.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, TargetSessionAttrs};
use vouchsafe_types::secret::SecretText;

use super::connection_string;
use super::tls::{self, Connector, Verify};

/// How to reach a database and how much to ask of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The primary, in either of libpq's forms. `sslmode` is `require` when it says nothing, as in SPIRE.
    pub connection_string: SecretText,
    /// A standby that loads and readings of the feed may use while it is not behind.
    pub ro_connection_string: Option<SecretText>,
    /// The authorities of the database's certificate; `sslrootcert` goes before it.
    pub root_ca_path: Option<PathBuf>,
    /// The certificate to show to the database; `sslcert` goes before it.
    pub client_cert_path: Option<PathBuf>,
    /// Its key; `sslkey` goes before it.
    pub client_key_path: Option<PathBuf>,
    /// Most connections to each of the two databases, at least 2. One of them listens for changes.
    pub max_open_conns: usize,
    /// Most connections that are kept for later.
    pub max_idle_conns: usize,
    /// How old a connection becomes; `None` is any age.
    pub conn_max_lifetime: Option<Duration>,
    /// Leaves the schema as it is, and refuses one that is older than this program.
    pub disable_migration: bool,
}

impl Settings {
    /// The defaults for a database.
    #[must_use]
    pub fn new(connection_string: impl Into<SecretText>) -> Self {
        Self {
            connection_string: connection_string.into(),
            ro_connection_string: None,
            root_ca_path: None,
            client_cert_path: None,
            client_key_path: None,
            max_open_conns: DEFAULT_MAX_OPEN,
            max_idle_conns: DEFAULT_MAX_IDLE,
            conn_max_lifetime: None,
            disable_migration: false,
        }
    }

    pub(crate) fn primary(&self) -> Result<Target, SettingsError> {
        let mut target = self.target(&self.connection_string)?;
        // A standby that still answers under the primary's name would refuse every write.
        for config in &mut target.configs {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok(target)
    }

    pub(super) fn replica(&self) -> Result<Option<Target>, SettingsError> {
        self.ro_connection_string.as_ref().map(|text| self.target(text)).transpose()
    }

    fn target(&self, text: &SecretText) -> Result<Target, SettingsError> {
        if self.max_open_conns < MIN_OPEN {
            return Err(SettingsError::TooFewConnections);
        }
        Draft::read(text)?.finish(self)
    }
}

/// Looks for mistakes in a connection string. Reads no files and asks no database.
///
/// # Errors
///
/// The first mistake.
pub fn check_connection_string(text: &str) -> Result<(), SettingsError> {
    Draft::read(text).map(drop)
}

/// A database to connect to.
pub(crate) struct Target {
    /// One for each host.
    pub(crate) configs: Vec<Config>,
    /// Which host answered last; it is asked first.
    pub(crate) answered: AtomicUsize,
    pub(crate) tls: Option<Connector>,
    /// For one host, from its name to a usable session.
    pub(crate) connect_timeout: Duration,
    /// For messages: host, port and database, never an account.
    pub(crate) place: String,
}

/// A connection string that is being read.
#[derive(Default)]
struct Draft {
    config: Config,
    mode: Option<Mode>,
    files: tls::Files,
    connect_timeout: Option<Duration>,
    hosts: Vec<String>,
    ports: Vec<String>,
    fallback_name: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl Draft {
    fn read(text: &str) -> Result<Self, SettingsError> {
        let mut draft = Self::default();
        for (name, value) in connection_string::parse(text)? {
            draft.apply(&name, value.as_str())?;
        }
        if draft.config.get_user().is_none() {
            return Err(SettingsError::Missing { option: "user" });
        }
        draft.place()?;
        Ok(draft)
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), SettingsError> {
        let invalid = |wanted: &'static str| SettingsError::Invalid { option: name.to_owned(), wanted };
        let seconds = || value.parse().map(Duration::from_secs).map_err(|_| invalid("a number of seconds"));
        match name {
            "host" => self.hosts = value.split(',').map(str::to_owned).collect(),
            "port" => self.ports = value.split(',').map(str::to_owned).collect(),
            "user" => drop(self.config.user(value)),
            "password" => drop(self.config.password(value)),
            "dbname" => drop(self.config.dbname(value)),
            "options" => drop(self.config.options(value)),
            "application_name" => drop(self.config.application_name(value)),
            "fallback_application_name" => self.fallback_name = Some(value.to_owned()),
            "connect_timeout" => self.connect_timeout = Some(seconds()?).filter(|time| !time.is_zero()),
            "keepalives" => drop(self.config.keepalives(value != "0")),
            "keepalives_idle" => drop(self.config.keepalives_idle(seconds()?)),
            "keepalives_interval" => drop(self.config.keepalives_interval(seconds()?)),
            "target_session_attrs" => match value {
                "any" | "read-write" | "primary" => {}
                _ => return Err(invalid("any or read-write; a standby goes into ro_connection_string")),
            },
            "channel_binding" => match value {
                "disable" | "prefer" => {}
                _ => return Err(invalid("disable or prefer; it is not supported")),
            },
            "client_encoding" if value.eq_ignore_ascii_case("utf8") => {}
            "sslmode" => {
                self.mode = Some(match value {
                    "disable" => Mode::Disable,
                    "prefer" => Mode::Prefer,
                    "require" => Mode::Require,
                    "verify-ca" => Mode::VerifyCa,
                    "verify-full" => Mode::VerifyFull,
                    _ => return Err(invalid("disable, prefer, require, verify-ca or verify-full")),
                });
            }
            "sslrootcert" => self.files.authorities = Some(value.into()),
            "sslcert" => self.files.certificate = Some(value.into()),
            "sslkey" => self.files.key = Some(value.into()),
            _ => return Err(SettingsError::Unknown { option: name.to_owned() }),
        }
        Ok(())
    }

    /// Looks at hosts and ports, of which there may be several.
    fn place(&mut self) -> Result<(), SettingsError> {
        if self.hosts.is_empty() {
            self.hosts.push("localhost".to_owned());
        }
        for port in &self.ports {
            let wanted = "a port number, or one for each host";
            let invalid = || SettingsError::Invalid { option: "port".to_owned(), wanted };
            port.parse::<u16>().map_err(|_| invalid())?;
            if self.ports.len() != 1 && self.ports.len() != self.hosts.len() {
                return Err(invalid());
            }
        }
        Ok(())
    }

    fn finish(mut self, settings: &Settings) -> Result<Target, SettingsError> {
        if self.config.get_application_name().is_none() {
            self.config.application_name(self.fallback_name.as_deref().unwrap_or("vouchsafe"));
        }
        let files = tls::Files {
            authorities: self.files.authorities.or_else(|| settings.root_ca_path.clone()),
            certificate: self.files.certificate.or_else(|| settings.client_cert_path.clone()),
            key: self.files.key.or_else(|| settings.client_key_path.clone()),
        };
        // TLS over a Unix socket does not exist.
        let local = self.hosts.iter().all(|host| host.starts_with('/'));
        let mode = if local { Mode::Disable } else { self.mode.unwrap_or(Mode::Require) };
        let verify = match mode {
            Mode::Disable => None,
            // With authorities at hand, libpq uses them.
            Mode::Prefer | Mode::Require if files.authorities.is_none() => Some(Verify::Nothing),
            Mode::Prefer | Mode::Require | Mode::VerifyCa => Some(Verify::Chain),
            Mode::VerifyFull => Some(Verify::ChainAndName),
        };
        self.config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            // Whoever names an authority does not want to go without it.
            Mode::Prefer if files.authorities.is_none() => SslMode::Prefer,
            Mode::Prefer | Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let connect_timeout = self.connect_timeout.unwrap_or(CONNECT_DEADLINE).min(MAX_CONNECT_DEADLINE);
        self.config
            .channel_binding(ChannelBinding::Disable)
            // For one address; a name may have several.
            .connect_timeout((connect_timeout / 3).max(SHORTEST_TRY).min(connect_timeout))
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        if self.config.get_keepalives_interval().is_none() {
            self.config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE).keepalives_retries(3);
        }
        let place = format!(
            "database {} at {}",
            self.config.get_dbname().or(self.config.get_user()).unwrap_or_default(),
            self.hosts.join(",")
        );
        let tls = verify.map(|verify| Connector::new(verify, files)).transpose()?;
        let configs = each_host(&self.config, &self.hosts, &self.ports);
        Ok(Target { configs, answered: AtomicUsize::new(0), tls, connect_timeout, place })
    }
}

fn each_host(config: &Config, hosts: &[String], ports: &[String]) -> Vec<Config> {
    let hosts = hosts.iter().enumerate().map(|(number, host)| {
        let port = ports.get(number).or(ports.first()).and_then(|port| port.parse().ok());
        let mut config = config.clone();
        config.host(host).port(port.unwrap_or(5432));
        config
    });
    hosts.collect()
}

/// A mistake in the settings. Shows no value of a connection string.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// Neither of the two forms.
    #[error(
        "it cannot be read after {after}; write key=value pairs, and quote values with spaces: password='a b'"
    )]
    Malformed {
        /// The last that was understood.
        after: String,
    },
    /// A percent sign that no two digits follow.
    #[error(
        "the {option} has a % that is not followed by two hexadecimal digits; write %25 for the sign itself"
    )]
    Escape {
        /// Whose value.
        option: String,
    },
    /// An option that this program does not know.
    #[error(
        "the option {option} is not supported; supported are host, port, user, password, dbname, sslmode, \
             sslrootcert, sslcert, sslkey, connect_timeout, application_name, options, target_session_attrs and keepalives"
    )]
    Unknown {
        /// Its name.
        option: String,
    },
    /// A value that the option cannot have.
    #[error("{option} must be {wanted}")]
    Invalid {
        /// Its name.
        option: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// Something that there is no default for.
    #[error("{option} is missing")]
    Missing {
        /// Its name.
        option: &'static str,
    },
    /// Fewer connections than needed.
    #[error("max_open_conns must be at least {MIN_OPEN}: one connection listens for changes")]
    TooFewConnections,
    /// A file for TLS that cannot be used.
    #[error("{}: {why}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate without its key, or the other way round.
    #[error(
        "the client certificate and its key go together: set both client_cert_path and client_key_path, or none"
    )]
    HalfIdentity,
    /// TLS cannot be set up.
    #[error("TLS for the database cannot be set up: {why}")]
    Tls {
        /// Why.
        why: String,
    },
}

/// Most connections when nothing is said. The server reads from memory, so it needs few.
pub const DEFAULT_MAX_OPEN: usize = 16;
/// Connections that are kept when nothing is said.
pub const DEFAULT_MAX_IDLE: usize = 4;
/// Fewest connections.
pub const MIN_OPEN: usize = 2;
/// Longest that connecting takes when `connect_timeout` says nothing.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest that `connect_timeout` may say.
pub const MAX_CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// Least time for one address of a host.
const SHORTEST_TRY: Duration = Duration::from_secs(1);
/// How long a silent connection is left alone, and how often it is asked then.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Longest that sent data stays unacknowledged before the connection counts as gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
