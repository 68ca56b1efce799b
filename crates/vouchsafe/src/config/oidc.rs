//! The configuration of the OIDC discovery provider: SPIRE's `oidc-discovery-provider.conf`.

mod listener;
mod source;

use std::time::Duration;

use super::observe::{LogConfig, LogFormat, parse_level};
use super::problems::Problems;
use super::section::Section;
use super::{Invalid, Source as Text};
use crate::hcl;
use crate::oidc::discovery::{Discovery, Prefix, Url, UrlError};
use crate::oidc::hosts::{Hosts, check_domain};

pub use self::listener::{Listener, ServingCert};
pub use self::source::Source;

/// Where SPIRE looks for the file.
pub const DEFAULT_CONFIG_PATH: &str = "oidc-discovery-provider.conf";
/// How often keys are asked for.
pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Port of the health checks.
pub const DEFAULT_HEALTH_PORT: u16 = 8008;

/// Everything a provider is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the pages are served.
    pub listener: Listener,
    /// Where keys come from.
    pub source: Source,
    /// How often they are asked for.
    pub poll_interval: Duration,
    /// Which hosts it answers for.
    pub(crate) hosts: Hosts,
    /// What the discovery document says.
    pub(crate) discovery: Discovery,
    /// Whether URLs of a client without TLS are `http`.
    pub allow_insecure_scheme: bool,
    /// Whether each key says that it is for signatures.
    pub set_key_use: bool,
    /// Whether each request is logged, at the level debug.
    pub log_requests: bool,
    /// Health over HTTP.
    pub health: Option<Health>,
    /// Logs.
    pub log: LogConfig,
    /// What the operator should hear at start.
    pub warnings: Vec<String>,
}

/// Where `/live` and `/ready` answer, on all addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Port.
    pub port: u16,
    /// Path of the liveness answer.
    pub live_path: String,
    /// Path of the readiness answer.
    pub ready_path: String,
}

/// Reads a provider's file.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load(text: &Text) -> Result<Config, Invalid> {
    let problems = Problems::default();
    let draft = read(&text.parse()?, &problems);
    let warnings = problems.finish(&text.path)?;
    // Without problems every required value is there.
    let mut config = draft.ok_or_else(|| Invalid { path: text.path.clone(), problems: Vec::new() })?;
    config.warnings = warnings;
    Ok(config)
}

/// What a file comes to, if nothing that is required is missing; and what is wrong with it.
fn read(body: &hcl::Body, problems: &Problems) -> Option<Config> {
    let top = Section::top(body, problems);
    let listener = listener::read(&top, problems);
    let source = source::read(&top, problems);
    let allow_insecure_scheme = top.flag("allow_insecure_scheme").unwrap_or(false);
    if allow_insecure_scheme {
        top.warn(
            "allow_insecure_scheme is enabled. JWKS keys will be served over HTTP. Only enable this when the network \
             path to the provider is trusted end-to-end (for example, when TLS is terminated at a trusted reverse \
             proxy or load balancer on a private network)",
        );
    }
    let hosts = read_domains(&top, problems);
    let discovery = read_discovery(&top);
    let set_key_use = top.flag("set_key_use").unwrap_or(false);
    let log_requests = top.flag("log_requests").unwrap_or(false);
    let health = read_health(&top);
    let log = LogConfig {
        level: top.parsed("log_level", parse_level).unwrap_or_default(),
        format: top.parsed("log_format", LogFormat::parse).unwrap_or_default(),
        file: top.text("log_path").map(Into::into),
        source_location: false,
    };
    top.finish();
    let (source, poll_interval) = source?;
    Some(Config {
        listener: listener?,
        source,
        poll_interval,
        hosts,
        discovery,
        allow_insecure_scheme,
        set_key_use,
        log_requests,
        health,
        log,
        warnings: Vec::new(),
    })
}

fn read_domains(top: &Section<'_>, problems: &Problems) -> Hosts {
    let domains = top.texts("domains").unwrap_or_default();
    if domains.is_empty() {
        problems.add("at least one domain must be configured");
    }
    for (domain, position) in &domains {
        if let Err(error) = check_domain(domain) {
            problems.at(*position, error.to_string());
        }
    }
    Hosts::new(domains.into_iter().map(|(domain, _)| domain))
}

fn read_discovery(top: &Section<'_>) -> Discovery {
    let issuer = top.text("jwt_issuer").and_then(|text| match Url::parse(&text) {
        Ok(url) => Some(url),
        Err(error @ UrlError::Character) => {
            top.refuse("jwt_issuer", format!("the jwt_issuer url could not be parsed: {error}"));
            None
        }
        Err(error) => {
            top.refuse("jwt_issuer", format!("the jwt_issuer url {error}"));
            None
        }
    });
    let jwks_uri = top.text("jwks_uri").and_then(|text| match Url::parse(&text) {
        Ok(url) => Some(url),
        Err(error) => {
            top.refuse("jwks_uri", format!("the jwks_uri setting could not be parsed: {error}"));
            None
        }
    });
    if issuer.is_some() && jwks_uri.is_none() {
        top.warn("jwt_issuer also says where the keys are, because jwks_uri is not set; set both");
    }
    let prefix = top.parsed("server_path_prefix", Prefix::parse).unwrap_or_default();
    Discovery { issuer, jwks_uri, prefix }
}

fn read_health(top: &Section<'_>) -> Option<Health> {
    let section = top.section("health_checks")?;
    let path = |text: &str| match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("must start with /"),
    };
    let health = Health {
        port: section.port("bind_port").filter(|port| *port != 0).unwrap_or(DEFAULT_HEALTH_PORT),
        live_path: section.parsed("live_path", path).unwrap_or_else(|| "/live".to_owned()),
        ready_path: section.parsed("ready_path", path).unwrap_or_else(|| "/ready".to_owned()),
    };
    section.finish();
    Some(health)
}

/// A duration; none and zero mean the default, as in SPIRE.
fn duration_or(section: &Section<'_>, key: &'static str, default: Duration) -> Duration {
    section.duration(key).filter(|duration| !duration.is_zero()).unwrap_or(default)
}

#[cfg(test)]
mod tests;
