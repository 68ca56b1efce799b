//! The settings of the `k8s` attestor as they stand in a configuration file. Pure.

use std::path::PathBuf;
use std::time::Duration;

use super::K8sConfig;
use super::kubelet::{Credentials, KubeletConfig, SecureConfig};

/// What is left out has SPIRE's default. A port or a number of 0 or less counts as left out, and so does a duration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct K8sSettings {
    /// `kubelet_read_only_port`.
    pub kubelet_read_only_port: u16,
    /// `kubelet_secure_port`.
    pub kubelet_secure_port: u16,
    /// `kubelet_ca_path`.
    pub kubelet_ca_path: Option<String>,
    /// `skip_kubelet_verification`.
    pub skip_kubelet_verification: bool,
    /// `token_path`.
    pub token_path: Option<String>,
    /// `certificate_path`.
    pub certificate_path: Option<String>,
    /// `private_key_path`.
    pub private_key_path: Option<String>,
    /// `use_anonymous_authentication`.
    pub use_anonymous_authentication: bool,
    /// `node_name`, or else what the environment variable `node_name_env` has.
    pub node_name: Option<String>,
    /// `max_poll_attempts`.
    pub max_poll_attempts: u32,
    /// `poll_retry_interval`.
    pub poll_retry_interval: Duration,
    /// `disable_container_selectors`.
    pub disable_container_selectors: bool,
    /// `use_new_container_locator`.
    pub use_new_container_locator: Option<bool>,
    /// `verbose_container_locator_logs`.
    pub verbose_container_locator_logs: bool,
}

/// Why the `k8s` attestor cannot be configured like this. The texts are SPIRE's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum K8sConfigError {
    /// Two ports.
    #[error("cannot use both the read-only and secure port")]
    BothPorts,
    /// A certificate without its key.
    #[error("the private key path is required with the certificate path")]
    NoKey,
    /// A key without its certificate.
    #[error("the certificate path is required with the private key path")]
    NoCertificate,
}

impl K8sConfigError {
    /// The key that the problem is about.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::BothPorts => "kubelet_read_only_port",
            Self::NoKey => "certificate_path",
            Self::NoCertificate => "private_key_path",
        }
    }
}

impl K8sSettings {
    /// What they come to.
    ///
    /// # Errors
    ///
    /// Every problem that there is.
    pub fn check(&self) -> Result<K8sConfig, Vec<K8sConfigError>> {
        let mut problems = Vec::new();
        if self.kubelet_read_only_port > 0 && self.kubelet_secure_port > 0 {
            problems.push(K8sConfigError::BothPorts);
        }
        let port = match (self.kubelet_read_only_port, self.kubelet_secure_port) {
            (0, 0) => DEFAULT_SECURE_PORT,
            (0, secure) => secure,
            (read_only, _) => read_only,
        };
        let secure = (self.kubelet_read_only_port == 0).then(|| self.secure(&mut problems));
        if !problems.is_empty() {
            return Err(problems);
        }
        let or = |value: Duration, default| if value.is_zero() { default } else { value };
        Ok(K8sConfig {
            kubelet: KubeletConfig { port, secure },
            poll_retry_interval: or(self.poll_retry_interval, DEFAULT_POLL_RETRY_INTERVAL),
            max_poll_attempts: Some(self.max_poll_attempts)
                .filter(|attempts| *attempts > 0)
                .unwrap_or(DEFAULT_MAX_POLL_ATTEMPTS),
            disable_container_selectors: self.disable_container_selectors,
            legacy_locator: self.use_new_container_locator == Some(false),
            verbose: self.verbose_container_locator_logs,
            proc_root: "/proc".into(),
        })
    }

    fn secure(&self, problems: &mut Vec<K8sConfigError>) -> SecureConfig {
        let path =
            |value: &Option<String>| value.clone().filter(|value| !value.is_empty()).map(PathBuf::from);
        let or = |value: &Option<String>, default: &str| path(value).unwrap_or_else(|| default.into());
        let token = || Credentials::Token(or(&self.token_path, DEFAULT_TOKEN_PATH));
        let credentials = match (path(&self.certificate_path), path(&self.private_key_path)) {
            _ if self.use_anonymous_authentication => Credentials::Anonymous,
            (Some(certificate_path), Some(private_key_path)) => {
                Credentials::Certificate { certificate_path, private_key_path }
            }
            (None, None) => token(),
            (certificate, _) => {
                let missing =
                    if certificate.is_some() { K8sConfigError::NoKey } else { K8sConfigError::NoCertificate };
                problems.push(missing);
                token()
            }
        };
        SecureConfig {
            node_name: self.node_name.clone().filter(|name| !name.is_empty()),
            ca_path: (!self.skip_kubelet_verification).then(|| or(&self.kubelet_ca_path, DEFAULT_CA_PATH)),
            credentials,
        }
    }
}

const DEFAULT_SECURE_PORT: u16 = 10250;
const DEFAULT_MAX_POLL_ATTEMPTS: u32 = 60;
const DEFAULT_POLL_RETRY_INTERVAL: Duration = Duration::from_millis(500);
const DEFAULT_CA_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
const DEFAULT_TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The environment variable with the node's name, unless `node_name_env` names another.
pub const DEFAULT_NODE_NAME_ENV: &str = "MY_NODE_NAME";

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(settings: K8sSettings) -> K8sConfig {
        settings.check().unwrap()
    }

    #[test]
    fn what_is_left_out_has_spires_default() {
        let config = checked(K8sSettings::default());
        let secure = SecureConfig {
            node_name: None,
            ca_path: Some("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt".into()),
            credentials: Credentials::Token("/var/run/secrets/kubernetes.io/serviceaccount/token".into()),
        };
        assert_eq!(config.kubelet, KubeletConfig { port: 10250, secure: Some(secure) });
        assert_eq!((config.max_poll_attempts, config.poll_retry_interval), (60, Duration::from_millis(500)));
        assert_eq!(config.unlisted_patience(), Duration::from_secs(30));
        assert!(!config.legacy_locator && !config.disable_container_selectors && !config.verbose);
    }

    #[test]
    fn the_read_only_port_needs_no_credentials() {
        let config = checked(K8sSettings {
            kubelet_read_only_port: 10255,
            certificate_path: Some("/only/this".into()),
            ..K8sSettings::default()
        });
        assert_eq!(config.kubelet, KubeletConfig { port: 10255, secure: None });
    }

    #[test]
    fn credentials_are_a_token_a_certificate_or_none() {
        let credentials = |settings| checked(settings).kubelet.secure.unwrap().credentials;
        let pair = K8sSettings {
            certificate_path: Some("/c".into()),
            private_key_path: Some("/k".into()),
            token_path: Some("/t".into()),
            ..K8sSettings::default()
        };
        let expected =
            Credentials::Certificate { certificate_path: "/c".into(), private_key_path: "/k".into() };
        assert_eq!(credentials(pair.clone()), expected);
        let anonymous = K8sSettings { use_anonymous_authentication: true, ..pair };
        assert_eq!(credentials(anonymous), Credentials::Anonymous);
        let token = K8sSettings { token_path: Some("/t".into()), ..K8sSettings::default() };
        assert_eq!(credentials(token), Credentials::Token("/t".into()));
        let skipped = K8sSettings { skip_kubelet_verification: true, ..K8sSettings::default() };
        assert_eq!(checked(skipped).kubelet.secure.unwrap().ca_path, None);
    }

    #[test]
    fn every_problem_is_told() {
        let settings = K8sSettings {
            kubelet_read_only_port: 10255,
            kubelet_secure_port: 10250,
            ..K8sSettings::default()
        };
        assert_eq!(settings.check(), Err(vec![K8sConfigError::BothPorts]));
        let no_key = K8sSettings { certificate_path: Some("/c".into()), ..K8sSettings::default() };
        assert_eq!(no_key.check(), Err(vec![K8sConfigError::NoKey]));
        let no_certificate = K8sSettings { private_key_path: Some("/k".into()), ..K8sSettings::default() };
        assert_eq!(no_certificate.check(), Err(vec![K8sConfigError::NoCertificate]));
    }
}
