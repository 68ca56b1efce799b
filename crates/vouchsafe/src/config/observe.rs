//! What is seen from outside: logs and health.

use std::path::PathBuf;

use vouchsafe_runtime::log_level::LogLevel;

use super::problems::Problems;
use super::section::Section;
use crate::go;

/// Where logs go and how they look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important messages that are kept.
    pub level: LogLevel,
    /// The look of a line.
    pub format: LogFormat,
    /// A file to append to. `None` is the standard stream.
    pub file: Option<PathBuf>,
    /// Whether each line says where in the source it comes from.
    pub source_location: bool,
}

/// The look of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time="…" level=info msg="…" key=value`, times to the second: what SPIRE does unless told otherwise.
    #[default]
    Default,
    /// The same with times to the nanosecond.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// Reads `text` or `json`, in any case.
    ///
    /// # Errors
    ///
    /// Neither of the two.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "" => Ok(Self::Default),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown logger format: {}; use \"text\" or \"json\"", go::quote(text))),
        }
    }
}

/// Flags that win over the `log_*` keys.
#[derive(Clone, Debug, Default)]
pub(super) struct LogOverrides<'a> {
    pub(super) level: Option<&'a str>,
    pub(super) format: Option<&'a str>,
    pub(super) file: Option<&'a str>,
    pub(super) source_location: bool,
}

pub(super) fn read_log(
    section: &Section<'_>,
    overrides: &LogOverrides<'_>,
    problems: &Problems,
) -> LogConfig {
    fn choose<T>(
        flag: Option<&str>,
        name: &str,
        problems: &Problems,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parsed = parse(flag?);
        parsed.map_err(|error| problems.add(format!("-{name}: {error}"))).ok()
    }
    let level = section.parsed("log_level", parse_level);
    let format = section.parsed("log_format", LogFormat::parse);
    let file = section.text("log_file").map(PathBuf::from);
    let source_location = section.flag("log_source_location").unwrap_or_default();
    LogConfig {
        level: choose(overrides.level, "logLevel", problems, parse_level).or(level).unwrap_or_default(),
        format: choose(overrides.format, "logFormat", problems, LogFormat::parse)
            .or(format)
            .unwrap_or_default(),
        file: overrides.file.map(PathBuf::from).or(file),
        source_location: overrides.source_location || source_location,
    }
}

/// Reads a level by any of its names in SPIRE.
///
/// # Errors
///
/// SPIRE's text for a level that does not exist.
pub(super) fn parse_level(text: &str) -> Result<LogLevel, String> {
    text.parse().map_err(|_| format!("not a valid logrus Level: {}", go::quote(text)))
}

/// Where `/live` and `/ready` answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthListener {
    /// Name or address to listen on.
    pub host: String,
    /// Port. 0 is any free one.
    pub port: u16,
    /// Path of the liveness answer.
    pub live_path: String,
    /// Path of the readiness answer.
    pub ready_path: String,
}

pub(super) fn read_health(top: &Section<'_>) -> Option<HealthListener> {
    let section = top.section("health_checks")?;
    let enabled = section.flag("listener_enabled").unwrap_or(false);
    let listener = HealthListener {
        host: trim_brackets(&section.text("bind_address").unwrap_or_else(|| "localhost".to_owned())),
        port: section.port("bind_port").unwrap_or(80),
        live_path: section.parsed("live_path", check_path).unwrap_or_else(|| "/live".to_owned()),
        ready_path: section.parsed("ready_path", check_path).unwrap_or_else(|| "/ready".to_owned()),
    };
    section.finish();
    enabled.then_some(listener)
}

fn check_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("{} must start with /", go::quote(text)))
    }
}

/// An IPv6 address may stand in brackets.
pub(super) fn trim_brackets(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}
