//! Configuration: what files, flags and defaults come to, as plain values.
//!
//! SPIRE's files are read as they are. Three rules hold for all of them: every problem is reported, not only the first;
//! each with its place; and nothing is repaired silently or ignored. A key that SPIRE knows and this version does not
//! build yet is refused by name, except where its value asks for what happens anyway (`audit_log_enabled = false`).
//!
//! * [`server`], [`agent`] SPIRE's files for the two parts
//! * [`oidc`]              the file of SPIRE's OIDC discovery provider
//! * [`helper`]            spiffe-helper's file
//! * [`registrar`]         the file of spire-controller-manager
//! * [`up`]                both parts in one process, from flags alone

pub mod agent;
pub mod helper;
mod observe;
pub mod oidc;
mod plugins;
mod problems;
pub mod registrar;
mod section;
pub mod server;
mod telemetry;
#[cfg(test)]
mod tests;
pub mod up;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use self::observe::{HealthListener, LogConfig, LogFormat};
pub use self::problems::{Invalid, Problem};
pub use self::telemetry::{MetricsCertificate, MetricsClients, MetricsListener, MetricsTls, Telemetry};
use crate::hcl;

/// Looks up an environment variable.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A configuration text and where it comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The path, as given, for messages.
    pub path: String,
    /// The text, with environment variables expanded if that was asked for.
    pub text: String,
}

impl Source {
    /// Reads a file, and expands environment variables in it when `expand` is given.
    ///
    /// # Errors
    ///
    /// The file does not exist, cannot be read, is not UTF-8 or is longer than [`hcl::MAX_BYTES`].
    pub fn load(path: &str, expand: Option<&Lookup<'_>>) -> Result<Self, Invalid> {
        let text = read_text(Path::new(path)).map_err(|error| {
            let message = match error.kind() {
                io::ErrorKind::NotFound => {
                    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
                    format!("could not find config file {}: please use the -config flag", absolute.display())
                }
                _ => format!("unable to read configuration at {}: {error}", crate::go::quote(path)),
            };
            Invalid { path: path.to_owned(), problems: vec![Problem { position: None, message }] }
        })?;
        let text = match expand {
            Some(lookup) => hcl::expand_environment(&text, lookup),
            None => text,
        };
        Ok(Self { path: path.to_owned(), text })
    }

    fn parse(&self) -> Result<hcl::Body, Invalid> {
        hcl::parse(&self.text).map_err(|error| Invalid {
            path: self.path.clone(),
            problems: vec![Problem { position: Some(error.position), message: error.message }],
        })
    }
}

/// The whole file, if it is not longer than a configuration may be.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = hcl::MAX_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Kinds of keys for authorities and workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 4096 bits.
    Rsa4096,
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
}

impl KeyType {
    /// The name in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        [Self::Rsa2048, Self::Rsa4096, Self::EcP256, Self::EcP384]
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                let text = crate::go::quote(text);
                format!("key type {text} is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")
            })
    }
}

/// Longest path of a Unix socket: `sockaddr_un` holds 108 bytes with the closing zero.
pub const MAX_SOCKET_PATH: usize = 107;

/// The socket of a Workload API that is given as go-spiffe takes it: `unix:///path`.
fn workload_api_socket(text: &str) -> Result<PathBuf, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err("workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme".to_owned());
    };
    match scheme {
        "unix" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') {
                return Err("workload endpoint unix socket URI must include a path".to_owned());
            }
            check_socket_path(path).map(|()| path.into())
        }
        "tcp" => Err("a Workload API over TCP is not supported yet: use its Unix socket".to_owned()),
        _ => Err("workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme".to_owned()),
    }
}

/// Refuses a path that no socket can have.
fn check_socket_path(path: &str) -> Result<(), String> {
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!(
            "the socket path {path} has {} bytes, and a Unix socket allows {MAX_SOCKET_PATH}; choose a shorter one",
            path.len()
        ));
    }
    Ok(())
}
