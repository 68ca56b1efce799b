//! The block `sigstore` of a workload attestor, checked.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::identity::{Allowed, AllowedError};
use crate::image::canonical_registry;
use crate::verify::Policy;

/// The block as it stands in a configuration file, with SPIRE's keys. What is left out has SPIRE's default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// `allowed_identities`: the subjects of each issuer.
    pub allowed_identities: Vec<(String, Vec<String>)>,
    /// `skipped_images`: image IDs that are not looked at.
    pub skipped_images: Vec<String>,
    /// `rekor_url`. Nobody is asked there: the log's entry comes with the signature.
    pub rekor_url: Option<String>,
    /// `ignore_sct`.
    pub ignore_sct: bool,
    /// `ignore_tlog`.
    pub ignore_tlog: bool,
    /// `ignore_attestations`.
    pub ignore_attestations: bool,
    /// `registry_credentials`, by registry.
    pub registry_credentials: Vec<(String, RegistryLogin)>,
    /// `trusted_root`, which SPIRE does not have: sigstore's `trusted_root.json`, instead of the public one.
    pub trusted_root: Option<PathBuf>,
}

/// Credentials for a registry. `Debug` shows no password.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct RegistryLogin {
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Settings that can be used.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) policy: Policy,
    pub(crate) attestations: bool,
    pub(crate) skipped: HashSet<String>,
    pub(crate) logins: HashMap<String, RegistryLogin>,
}

impl Settings {
    /// Checks everything; no I/O.
    ///
    /// # Errors
    ///
    /// Every [`SettingsError`] there is.
    pub fn check(self) -> Result<Config, Vec<SettingsError>> {
        let mut problems = Vec::new();
        let allowed = Allowed::new(&self.allowed_identities)
            .map_err(|found| problems.extend(found.into_iter().map(SettingsError::Identity)))
            .ok();
        let mut logins = HashMap::new();
        for (registry, login) in self.registry_credentials {
            if login.username.is_empty() || login.password.is_empty() || login.username.contains(':') {
                problems.push(SettingsError::Credentials { registry });
                continue;
            }
            logins.insert(canonical_registry(&registry).to_owned(), login);
        }
        match allowed {
            Some(allowed) if problems.is_empty() => Ok(Config {
                policy: Policy { allowed, tlog: !self.ignore_tlog, sct: !self.ignore_sct },
                attestations: !self.ignore_attestations,
                skipped: self.skipped_images.into_iter().collect(),
                logins,
            }),
            _ => Err(problems),
        }
    }
}

impl Config {
    /// Whether anybody whose certificate leads to a trusted root may sign. With public roots that is everybody on the
    /// Internet: entries must then select the subject and issuer.
    #[must_use]
    pub fn allows_everybody(&self) -> bool {
        self.policy.allowed.is_everybody()
    }
}

/// What is wrong with a setting.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// An issuer or subject.
    #[error("allowed_identities: {0}")]
    Identity(#[source] AllowedError),
    /// User name or password is missing.
    #[error(
        "registry_credentials of {registry:?}: username and password must both be given, the username without a colon"
    )]
    Credentials {
        /// Whose.
        registry: String,
    },
}

impl SettingsError {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Identity(_) => "allowed_identities",
            Self::Credentials { .. } => "registry_credentials",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: &str, password: &str) -> RegistryLogin {
        RegistryLogin { username: username.to_owned(), password: password.to_owned().into() }
    }

    #[test]
    fn all_problems_are_told_and_no_password() {
        let settings = Settings {
            allowed_identities: vec![("https://a".to_owned(), vec!["(".to_owned()])],
            registry_credentials: vec![
                ("a.example".to_owned(), login("user", "")),
                ("b.example".to_owned(), login("", "hunter2")),
                ("c.example".to_owned(), login("user", "hunter2")),
            ],
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
        let problems = settings.check().unwrap_err();
        assert_eq!(
            problems.iter().map(SettingsError::key).collect::<Vec<_>>(),
            ["allowed_identities", "registry_credentials", "registry_credentials"]
        );
    }

    #[test]
    fn docker_hub_goes_by_both_names() {
        let settings = Settings {
            registry_credentials: vec![("docker.io".to_owned(), login("user", "secret"))],
            ..Settings::default()
        };
        let config = settings.check().unwrap();
        assert!(config.logins.contains_key("index.docker.io"));
        assert!(config.allows_everybody() && config.policy.sct && config.policy.tlog && config.attestations);
    }
}
