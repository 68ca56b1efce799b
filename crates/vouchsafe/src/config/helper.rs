//! The configuration of the file writer: spiffe-helper's `helper.conf`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use vouchsafe_delivery::files::arguments;
use vouchsafe_delivery::files::settings::{
    JwtBundleFile, JwtSvidFile, ProgramSettings, Replacement, Settings, X509Files,
};

use super::observe::{LogConfig, LogFormat, parse_level};
use super::problems::Problems;
use super::section::Section;
use super::{Invalid, Lookup, Source, check_socket_path};
use crate::go;
use crate::hcl;

mod renamed;

/// Where spiffe-helper looks for the file.
pub const DEFAULT_CONFIG_PATH: &str = "helper.conf";
/// Where it looks for the agent.
pub const DEFAULT_SOCKET_PATH: &str = "/tmp/spire-agent/public/api.sock";
/// Port of the health checks.
pub const DEFAULT_HEALTH_PORT: u16 = 8081;

/// Everything that a file writer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which files, and who is told of them.
    pub settings: Settings,
    /// Whether they are kept up to date, and not only written once.
    pub daemon: bool,
    /// Health over HTTP.
    pub health: Option<Health>,
    /// Logs.
    pub log: LogConfig,
    /// What the operator should hear at start.
    pub warnings: Vec<String>,
}

/// Where the health checks answer, on all addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Port.
    pub port: u16,
    /// Path of the liveness answer.
    pub live_path: String,
    /// Path of the readiness answer.
    pub ready_path: String,
}

/// Reads a file writer's file. `daemon` is what the flag says, which wins.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load(text: &Source, daemon: Option<bool>, environment: &Lookup<'_>) -> Result<Config, Invalid> {
    let problems = Problems::default();
    let draft = read(&text.parse()?, daemon, environment, &problems);
    let warnings = problems.finish(&text.path)?;
    Ok(Config { warnings, ..draft })
}

fn read(body: &hcl::Body, daemon: Option<bool>, environment: &Lookup<'_>, problems: &Problems) -> Config {
    let renamed = renamed::with_todays_names(body, problems);
    let top = Section::top(&renamed, problems);
    let daemon_mode = top.flag("daemon_mode");
    let daemon = daemon.or(daemon_mode).unwrap_or(true);
    let x509 = read_x509(&top, problems);
    let replacement = match top.flag("replace_all_at_once") {
        Some(true) => Replacement::WholeFolder,
        _ => Replacement::EachFile,
    };
    let settings = Settings {
        socket: read_socket(&top, environment, problems),
        folder: top.text("cert_dir").map_or_else(|| PathBuf::from("."), PathBuf::from),
        replacement,
        x509,
        jwt_bundle: read_jwt_bundle(&top),
        jwt_svids: read_jwt_svids(&top, problems),
        hint: top.text("hint").unwrap_or_default(),
        program: read_program(&top, daemon),
    };
    check_names(&top, &settings, problems);
    let health = read_health(&top);
    let log = LogConfig {
        level: top.parsed("log_level", parse_level).unwrap_or_default(),
        format: top.parsed("log_format", LogFormat::parse).unwrap_or_default(),
        file: None,
        source_location: false,
    };
    top.finish();
    Config { settings, daemon, health, log, warnings: Vec::new() }
}

/// The file wins over the environment, as in spiffe-helper.
fn read_socket(top: &Section<'_>, environment: &Lookup<'_>, problems: &Problems) -> PathBuf {
    let given = top.parsed("agent_address", socket_path);
    if let Some(given) = given {
        return given;
    }
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let (name, value) = match (set(OLD_VARIABLE), set(VARIABLE)) {
        (Some(_), Some(_)) => {
            problems.add(format!("both {OLD_VARIABLE} and {VARIABLE} are set; set {VARIABLE} alone"));
            return DEFAULT_SOCKET_PATH.into();
        }
        (Some(value), None) => {
            problems.warn(format!("{OLD_VARIABLE} is an old name; set {VARIABLE} instead"));
            (OLD_VARIABLE, value)
        }
        (None, Some(value)) => (VARIABLE, value),
        (None, None) => return DEFAULT_SOCKET_PATH.into(),
    };
    socket_path(&value).unwrap_or_else(|error| {
        problems.add(format!("{name}: {error}"));
        DEFAULT_SOCKET_PATH.into()
    })
}

/// A path, or the same as an address of go-spiffe.
fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").map_or(text, |rest| rest.strip_prefix("//").unwrap_or(rest));
    if path.contains("://") {
        return Err(format!("{} is no Unix socket", go::quote(text)));
    }
    check_socket_path(path).map(|()| path.into())
}

fn read_x509(top: &Section<'_>, problems: &Problems) -> Option<X509Files> {
    let files = X509Files {
        certificates: top.text("svid_file_name").unwrap_or_default(),
        key: top.text("svid_key_file_name").unwrap_or_default(),
        bundle: top.text("svid_bundle_file_name").unwrap_or_default(),
        certificate_mode: mode(top, "cert_file_mode", 0o644),
        key_mode: mode(top, "key_file_mode", 0o600),
        intermediates_in_bundle: top.flag("add_intermediates_to_bundle").unwrap_or(false),
        federated: top.flag("include_federated_domains").unwrap_or(false),
        omit_expired: top.flag("omit_expired").unwrap_or(false),
    };
    match [&files.certificates, &files.key, &files.bundle].iter().filter(|name| name.is_empty()).count() {
        0 => Some(files),
        3 => None,
        _ => {
            problems.add(
                "all or none of 'svid_file_name', 'svid_key_file_name', 'svid_bundle_file_name' must be specified",
            );
            // So that nobody is told in addition that there is nothing to write.
            Some(files)
        }
    }
}

fn read_jwt_bundle(top: &Section<'_>) -> Option<JwtBundleFile> {
    let mode = mode(top, "jwt_bundle_file_mode", 0o600);
    top.text("jwt_bundle_file_name").map(|name| JwtBundleFile { name, mode })
}

fn read_jwt_svids(top: &Section<'_>, problems: &Problems) -> Vec<JwtSvidFile> {
    let mode = mode(top, "jwt_svid_file_mode", 0o600);
    let mut files = Vec::new();
    for section in top.sections("jwt_svids") {
        let name = section.text("jwt_svid_file_name");
        let audience = section.text("jwt_audience");
        if name.is_none() {
            problems.at(section.position(), "'jwt_svid_file_name' is required in 'jwt_svids'");
        }
        if audience.is_none() {
            problems.at(section.position(), "'jwt_audience' is required in 'jwt_svids'");
        }
        let audience = audience.into_iter().chain(section.strings("jwt_extra_audiences")).collect();
        files.push(JwtSvidFile { name: name.unwrap_or_default(), mode, audience });
        section.finish();
    }
    files
}

fn read_program(top: &Section<'_>, daemon: bool) -> ProgramSettings {
    let command = top.text("cmd");
    let arguments = top.parsed("cmd_args", arguments::split).unwrap_or_default();
    let pid_file = top.text("pid_file_name").map(PathBuf::from);
    let signal = top.parsed("renew_signal", |text| {
        text.parse::<Signal>()
            .map_err(|_| format!("{} is no signal; use a name such as SIGHUP", go::quote(text)))
    });
    if pid_file.is_some() && signal.is_none() && !top.has("renew_signal") {
        top.refuse("pid_file_name", "must specify renew_signal when using pid_file_name");
    }
    if !daemon {
        for (key, set) in [("cmd", command.is_some()), ("renew_signal", signal.is_some())] {
            if set {
                top.warn(format!("{key} is ignored, because daemon_mode is false"));
            }
        }
        if pid_file.is_some() {
            top.refuse(
                "pid_file_name",
                "pid_file_name is set but daemon_mode is false; pid_file_name is only supported in daemon_mode",
            );
        }
    }
    ProgramSettings { command: command.map(|command| (command.into(), arguments)), pid_file, signal }
}

/// A mode as spiffe-helper reads it: octal with a leading zero, otherwise decimal, which is rarely what was meant.
fn mode(top: &Section<'_>, key: &'static str, default: u32) -> u32 {
    let parsed = top.parsed(key, |text| {
        let (digits, base) = match text.strip_prefix("0o").or_else(|| text.strip_prefix('0')) {
            Some("") => ("0", 8),
            Some(digits) => (digits, 8),
            None => (text, 10),
        };
        let mode = u32::from_str_radix(digits, base).ok().filter(|mode| *mode <= 0o777);
        let mode =
            mode.ok_or_else(|| format!("must be a file mode from 0 to 0777, not {}", go::quote(text)))?;
        if base == 10 && mode != 0 {
            top.warn(format!(
                "{key} = {text} has no leading zero, so it is read as decimal and means 0{mode:o}"
            ));
        }
        Ok::<_, String>(mode)
    });
    // Zero means the default, as in spiffe-helper.
    parsed.filter(|mode| *mode != 0).unwrap_or(default)
}

/// There is something to write, no two things have one file, and no file is outside of the folder by accident.
fn check_names(top: &Section<'_>, settings: &Settings, problems: &Problems) {
    if settings.x509.is_none() && settings.jwt_bundle.is_none() && settings.jwt_svids.is_empty() {
        problems.add(
            "at least one of the sets ('svid_file_name', 'svid_key_file_name', 'svid_bundle_file_name'), 'jwt_svids', \
             or 'jwt_bundle_file_name' must be fully specified",
        );
    }
    let x509 = settings.x509.iter().flat_map(|files| {
        [
            ("svid_key_file_name", &files.key),
            ("svid_file_name", &files.certificates),
            ("svid_bundle_file_name", &files.bundle),
        ]
    });
    let bundle = settings.jwt_bundle.iter().map(|file| ("jwt_bundle_file_name", &file.name));
    let tokens = settings.jwt_svids.iter().map(|file| ("jwt_svids", &file.name));
    let mut seen = BTreeMap::new();
    for (key, name) in x509.chain(bundle).chain(tokens).filter(|(_, name)| !name.is_empty()) {
        let path = std::path::Path::new(name);
        if path.file_name().is_none() {
            top.refuse(key, format!("{key}: {} is no name of a file", go::quote(name)));
        }
        let plain = path.file_name() == Some(name.as_ref());
        if settings.replacement == Replacement::WholeFolder && (!plain || name.starts_with("..")) {
            let advice = "with replace_all_at_once a name may not have / in it or begin with ..";
            top.refuse(key, format!("{key}: {}: {advice}", go::quote(name)));
        }
        if let Some(other) = seen.insert(name, key) {
            top.refuse(key, format!("{key} and {other} are the same file, {}", go::quote(name)));
        }
    }
}

fn read_health(top: &Section<'_>) -> Option<Health> {
    let section = top.section("health_checks")?;
    let enabled = section.flag("listener_enabled").unwrap_or(false);
    let path = |text: &str| match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("must start with /"),
    };
    let health = Health {
        port: section.port("bind_port").filter(|port| *port != 0).unwrap_or(DEFAULT_HEALTH_PORT),
        live_path: section.parsed("liveness_path", path).unwrap_or_else(|| "/live".to_owned()),
        ready_path: section.parsed("readiness_path", path).unwrap_or_else(|| "/ready".to_owned()),
    };
    section.finish();
    enabled.then_some(health)
}

/// Names the agent's socket where the file does not.
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// What it was called before.
const OLD_VARIABLE: &str = "SPIRE_AGENT_ADDRESS";

#[cfg(test)]
mod tests;
