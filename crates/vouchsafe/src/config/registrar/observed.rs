//! What is seen of a registrar from outside.

use crate::config::section::Section;
use crate::config::{LogConfig, LogFormat};
use vouchsafe_runtime::log_level::LogLevel;

/// Where something is served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Address {
    /// Empty: all addresses.
    pub host: String,
    /// 0: any free one.
    pub port: u16,
}

/// Where health is served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// Where.
    pub address: Address,
    /// Path of the liveness answer.
    pub live_path: String,
    /// Path of the readiness answer.
    pub ready_path: String,
}

pub(super) fn read_metrics(top: &Section<'_>) -> Option<Address> {
    let section = top.section("metrics")?;
    let address = read_address(&section, "bindAddress");
    section.finish();
    address
}

pub(super) fn read_health(top: &Section<'_>) -> Option<Health> {
    let section = top.section("health")?;
    let address = read_address(&section, "healthProbeBindAddress");
    let path = |key, default: &str| {
        let name = section.text(key).unwrap_or_else(|| default.to_owned());
        format!("/{}", name.trim_start_matches('/'))
    };
    let (live_path, ready_path) =
        (path("livenessEndpointName", "healthz"), path("readinessEndpointName", "readyz"));
    section.finish();
    Some(Health { address: address?, live_path, ready_path })
}

/// `host:port` or `:port`; `0` and nothing are off.
fn read_address(section: &Section<'_>, key: &'static str) -> Option<Address> {
    section.parsed(key, |text| {
        if text == "0" {
            return Ok(None);
        }
        let (host, port) = text.rsplit_once(':').ok_or("must be host:port, :port or 0")?;
        let port = port.parse().map_err(|_| "the port must be a number up to 65535")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok::<_, &str>(Some(Address { host: host.to_owned(), port }))
    })?
}

pub(super) fn read_log(top: &Section<'_>) -> LogConfig {
    let level = top.parsed("logLevel", |text| match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" => Ok(LogLevel::Error),
        _ => Err(format!("invalid log level: {text:?}; use debug, info, warn or error")),
    });
    let format = top.parsed("logEncoding", |text| match text {
        "console" => Ok(LogFormat::Default),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("unrecognized log encoding: {text}; use console or json")),
    });
    LogConfig { level: level.unwrap_or_default(), format: format.unwrap_or_default(), ..LogConfig::default() }
}
