//! How an agent and its server come to know each other.

use std::path::{Path, PathBuf};

use vouchsafe_agent::config::{Rebootstrap, RebootstrapMode};
use vouchsafe_agent::trust::origin::BundleFormat;
use vouchsafe_types::secret::SecretText;

use super::{Overrides, set};
use crate::config::section::Section;
use crate::config::{read_text, workload_api_socket};
use crate::go;

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
    /// By the server's bundle at a URL.
    Url {
        /// `https://…`, or `http://…` with a socket.
        url: String,
        /// The Unix socket that is asked instead of the URL's host.
        unix_socket: Option<PathBuf>,
        /// Its format.
        format: BundleFormat,
    },
    /// By what a Workload API gives.
    WorkloadApi {
        /// Its Unix socket.
        socket: PathBuf,
    },
    /// Not at all: whoever answers is believed.
    Insecure,
}

/// A flag wins over both keys of the file.
pub(super) fn read_join_token(section: &Section<'_>, flags: &Overrides) -> Option<SecretText> {
    let flag = flags.join_token.clone().filter(|token| !token.is_empty());
    let (key, key_file) = (section.text("join_token"), section.text("join_token_file"));
    let flag_file = set(&flags.join_token_file);
    let (token, file) = match (flag, flag_file) {
        (None, None) => (key.map(SecretText::from), key_file),
        flags => flags,
    };
    if token.is_some() && file.is_some() {
        section.refuse(
            "join_token_file",
            "only one of join_token or join_token_file can be specified, not both",
        );
        return None;
    }
    let Some(path) = file else { return token };
    match read_text(Path::new(&path)) {
        Ok(text) if text.trim().is_empty() => {
            section.refuse("join_token_file", format!("join token file {} is empty", go::quote(&path)));
            None
        }
        Ok(text) => Some(SecretText::from(text.trim())),
        Err(error) => {
            section.refuse(
                "join_token_file",
                format!("unable to read join token file {}: {error}", go::quote(&path)),
            );
            None
        }
    }
}

pub(super) fn read_bootstrap(section: &Section<'_>, flags: &Overrides) -> Bootstrap {
    let insecure = section.flag("insecure_bootstrap").unwrap_or(false) || flags.insecure_bootstrap;
    let path = set(&flags.trust_bundle).or(section.text("trust_bundle_path"));
    let url = set(&flags.trust_bundle_url).or(section.text("trust_bundle_url"));
    let unix_socket = section.text("trust_bundle_unix_socket");
    let format = read_format(section, flags);
    let workload_api = section.text("trust_bundle_spiffe_workload_api");
    if url.is_none() && unix_socket.is_some() {
        section.refuse(
            "trust_bundle_unix_socket",
            "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
        );
    }
    if let Some(error) = url.as_deref().and_then(|url| wrong_url(url, unix_socket.is_some())) {
        section.refuse("trust_bundle_url", error);
    }
    if let Some(address) = workload_api {
        let others = [
            (insecure, "insecure_bootstrap"),
            (url.is_some(), "trust_bundle_url"),
            (path.is_some(), "trust_bundle_path"),
        ];
        for (_, key) in others.into_iter().filter(|(set, _)| *set) {
            let text =
                format!("only one of {key} or trust_bundle_spiffe_workload_api can be specified, not both");
            section.refuse(key, text);
        }
        if unix_socket.is_some() {
            let text = "trust_bundle_unix_socket can not be used with trust_bundle_spiffe_workload_api";
            section.refuse("trust_bundle_unix_socket", text);
        }
        return read_workload_api(section, &address);
    }
    let (key, text) = match (insecure, url, path) {
        (true, Some(_), Some(_)) => (
            "insecure_bootstrap",
            "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be specified, not the three options",
        ),
        (true, Some(_), None) => (
            "insecure_bootstrap",
            "only one of insecure_bootstrap or trust_bundle_url can be specified, not both",
        ),
        (true, None, Some(_)) => (
            "insecure_bootstrap",
            "only one of insecure_bootstrap or trust_bundle_path can be specified, not both",
        ),
        (false, Some(_), Some(_)) => (
            "trust_bundle_path",
            "only one of trust_bundle_url or trust_bundle_path can be specified, not both",
        ),
        (true, None, None) => {
            section.warn("insecure_bootstrap is set: the first connection believes whichever server answers");
            return Bootstrap::Insecure;
        }
        (false, None, None) => (
            "trust_bundle_path",
            "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless \
             insecure_bootstrap is set; get the bundle with `vouchsafe server bundle show`",
        ),
        (false, None, Some(path)) => return Bootstrap::File { path: path.into(), format },
        (false, Some(url), None) => {
            return Bootstrap::Url { url, unix_socket: unix_socket.map(PathBuf::from), format };
        }
    };
    section.refuse(key, text);
    Bootstrap::Insecure
}

fn read_workload_api(section: &Section<'_>, address: &str) -> Bootstrap {
    match workload_api_socket(address) {
        Ok(socket) => Bootstrap::WorkloadApi { socket },
        Err(error) => {
            let text = "trust_bundle_spiffe_workload_api is not a valid SPIFFE Workload API endpoint address";
            section.refuse("trust_bundle_spiffe_workload_api", format!("{text}: {error}"));
            Bootstrap::Insecure
        }
    }
}

fn read_format(section: &Section<'_>, flags: &Overrides) -> BundleFormat {
    let format = set(&flags.trust_bundle_format).or(section.text("trust_bundle_format"));
    match format.as_deref() {
        None | Some("pem") => BundleFormat::Pem,
        Some("spiffe") => BundleFormat::Spiffe,
        Some(_) => {
            let text = "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\"";
            section.problem("trust_bundle_format", text);
            BundleFormat::Pem
        }
    }
}

/// What is wrong with the URL of a bundle, in SPIRE's words.
fn wrong_url(url: &str, over_socket: bool) -> Option<&'static str> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if !over_socket {
        return (scheme != "https").then_some("trust bundle URL must start with https://");
    }
    if scheme != "http" {
        return Some("trust bundle URL must start with http:// when used with trust bundle unix socket");
    }
    // SPIRE adds parameters of these names.
    let query = url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
    query.split('&').find_map(|parameter| {
        if parameter.starts_with("spiffe-") {
            Some("trust_bundle_url query params can not start with spiffe-")
        } else if parameter.starts_with("spire-") {
            Some("trust_bundle_url query params can not start with spire-")
        } else {
            None
        }
    })
}

/// Reads `rebootstrap_mode` and `rebootstrap_delay`.
pub(super) fn read_rebootstrap(section: &Section<'_>, flags: &Overrides, insecure: bool) -> Rebootstrap {
    let mode = set(&flags.rebootstrap_mode).or(section.text("rebootstrap_mode"));
    let mode = match mode.as_deref() {
        None | Some("never") => RebootstrapMode::Never,
        Some("auto") => RebootstrapMode::Auto,
        Some("always") => RebootstrapMode::Always,
        Some(other) => {
            let text =
                format!("unknown rebootstrap mode specified: {other}; use 'never', 'auto', or 'always'");
            section.refuse("rebootstrap_mode", text);
            RebootstrapMode::Never
        }
    };
    if mode != RebootstrapMode::Never && insecure {
        section.refuse("rebootstrap_mode", "insecure_bootstrap option can not be used with rebootstrapping");
    }
    let delay = set(&flags.rebootstrap_delay).or(section.text("rebootstrap_delay"));
    let default = Rebootstrap::default().delay;
    let delay = delay.map_or(Ok(default), |delay| go::parse_duration(&delay)).unwrap_or_else(|error| {
        section.refuse("rebootstrap_delay", format!("error parsing rebootstrap delay duration: {error}"));
        default
    });
    Rebootstrap { mode, delay }
}
