//! What an agent is told, and what it is built from.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::key_manager::KeyManager;
use vouchsafe_identity::config::KeyExchange;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::log_level::LogLevelControl;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_runtime::readiness::Readiness;
use vouchsafe_transport::net::Network;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::admin::AdminConfig;
use crate::attest::docker::DockerConfig;
use crate::attest::image_signatures::ImageSignaturesConfig;
use crate::attest::k8s::K8sConfig;
use crate::attest::unix::UnixAttestorConfig;
use crate::limits::LimitsConfig;
use crate::node::attestor::NodeAttestor;
use crate::trust::origin::Origin;

/// An agent's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The trust domain that the agent and its workloads belong to.
    pub trust_domain: TrustDomain,
    /// `host:port` of the server; each address that the host stands for is a server.
    pub server_address: String,
    /// Further servers, each `host:port`.
    pub server_addresses: Vec<String>,
    /// Where the agent keeps its state. Created with mode 0700 if it is missing.
    pub data_dir: PathBuf,
    /// The Workload API's Unix socket.
    pub socket_path: PathBuf,
    /// The token to attest with, once. It goes before `node_attestor`.
    pub join_token: Option<SecretText>,
    /// How the agent proves which node it is when it has no join token.
    pub node_attestor: Option<NodeAttestor>,
    /// How to know the server the first time.
    pub bootstrap: Bootstrap,
    /// Whether to believe `bootstrap` again when the server is not the one that the held bundle is of.
    pub rebootstrap: Rebootstrap,
    /// An X.509-SVID is renewed when it has this much of its life left, if that is sooner than at half of it. Only for
    /// SVIDs that live at least 12 hours longer.
    pub availability_target: Option<Duration>,
    /// How long the renewal of a JWT-SVID may take while the one that is held still works: 5 to 30 seconds.
    pub jwt_svid_cache_hit_timeout: Duration,
    /// Holds the agent's own keys.
    pub key_manager: Arc<dyn KeyManager>,
    /// Time between synchronizations while all is well.
    pub sync_interval: Duration,
    /// Settings of the `unix` workload attestor; `None` leaves it out.
    pub unix: Option<UnixAttestorConfig>,
    /// Soft limit of X.509-SVIDs held.
    pub x509_svid_cache_max_size: usize,
    /// Limit of JWT-SVIDs held.
    pub jwt_svid_cache_max_size: usize,
    /// Workloads without identity get the trust domain's own bundle.
    pub allow_unauthenticated_verifiers: bool,
    /// Claims of other trust domains' tokens that `ValidateJWTSVID` returns, besides `sub`, `aud` and `exp`.
    pub allowed_foreign_jwt_claims: HashSet<String>,
    /// Prefixes of the selectors that may be logged for a workload without identity.
    pub log_selectors: Vec<String>,
    /// Names and validation of the secret discovery service, for Envoy.
    pub sds: Sds,
    /// The secret discovery service is not served.
    pub disable_sds_api: bool,
    /// The Workload API is not served. With both turned off there is no socket.
    pub disable_workload_api: bool,
    /// The admin API.
    pub admin: AdminConfig,
    /// Settings of the `docker` workload attestor; `None` leaves it out.
    pub docker: Option<DockerConfig>,
    /// Settings of the `k8s` workload attestor; `None` leaves it out.
    pub k8s: Option<K8sConfig>,
    /// Verification of the signatures of images for it; `None` leaves it out.
    pub image_signatures: Option<ImageSignaturesConfig>,
    /// How often one caller may ask.
    pub limits: LimitsConfig,
    /// What connections to the server must agree on their keys by.
    pub key_exchange: KeyExchange,
    /// Keys of workloads.
    pub workload_key_type: KeyType,
    /// What the agent tells the server it is.
    pub version: String,
}

impl Config {
    /// The defaults of SPIRE for everything but where and who.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        server_address: String,
        data_dir: PathBuf,
        key_manager: Arc<dyn KeyManager>,
    ) -> Self {
        Self {
            trust_domain,
            server_address,
            server_addresses: Vec::new(),
            socket_path: data_dir.join("public/api.sock"),
            data_dir,
            join_token: None,
            node_attestor: None,
            bootstrap: Bootstrap::Insecure,
            rebootstrap: Rebootstrap::default(),
            availability_target: None,
            jwt_svid_cache_hit_timeout: crate::jwt_issue::ISSUE_DEADLINE,
            key_manager,
            sync_interval: Duration::from_secs(5),
            unix: Some(UnixAttestorConfig::default()),
            x509_svid_cache_max_size: 1000,
            jwt_svid_cache_max_size: 1000,
            allow_unauthenticated_verifiers: false,
            allowed_foreign_jwt_claims: HashSet::new(),
            log_selectors: Vec::new(),
            sds: Sds::default(),
            disable_sds_api: false,
            disable_workload_api: false,
            admin: AdminConfig::default(),
            docker: None,
            k8s: None,
            image_signatures: None,
            limits: LimitsConfig::default(),
            key_exchange: KeyExchange::Any,
            workload_key_type: KeyType::EcP256,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What Envoy may ask for by name, and how it is told to validate its peers. Every SPIFFE ID and trust domain that a
/// caller may see has its own name besides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sds {
    /// The caller's first X.509-SVID.
    pub default_svid_name: String,
    /// The bundle of the agent's trust domain.
    pub default_bundle_name: String,
    /// All bundles that the caller may see, in one validation context.
    pub default_all_bundles_name: String,
    /// Bundles go out as plain `trusted_ca`, without Envoy's SPIFFE validator. A node's metadata may say otherwise.
    pub disable_spiffe_cert_validation: bool,
}

impl Default for Sds {
    fn default() -> Self {
        Self {
            default_svid_name: "default".to_owned(),
            default_bundle_name: "ROOTCA".to_owned(),
            default_all_bundles_name: "ALL".to_owned(),
            disable_spiffe_cert_validation: false,
        }
    }
}

/// How the agent knows the server before it has a bundle of its own, or when every authority that it knows has ended
/// (a clock that jumped, a machine that slept for days).
#[derive(Clone)]
pub enum Bootstrap {
    /// By this bundle.
    Bundle(Bundle),
    /// By the bundle that the function gives when it is needed: a server in the same process.
    Source(BundleSource),
    /// By what is found at a place that an operator keeps current. It is read for each attempt.
    From(Origin),
    /// Not at all: whoever answers is believed, once.
    Insecure,
}

/// See [`Bootstrap::Source`]. The error says in one sentence why there is no bundle.
pub type BundleSource = Arc<dyn Fn() -> Result<Bundle, String> + Send + Sync>;

impl fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundle(_) => "Bundle",
            Self::Source(_) => "Source",
            Self::From(origin) => return f.debug_tuple("From").field(origin).finish(),
            Self::Insecure => "Insecure",
        })
    }
}

/// Whether, and how soon, an agent whose bundle does not verify the server looks at [`Config::bootstrap`] again. Needs an
/// attestor whose attestations the server lets be repeated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rebootstrap {
    /// Whether at all.
    pub mode: RebootstrapMode,
    /// How long the server must have been somebody else without a break.
    pub delay: Duration,
}

impl Default for Rebootstrap {
    fn default() -> Self {
        Self { mode: RebootstrapMode::Never, delay: Duration::from_secs(600) }
    }
}

/// See [`Rebootstrap`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RebootstrapMode {
    /// A person must act.
    #[default]
    Never,
    /// If the agent's attestation can be repeated.
    Auto,
    /// Yes; an agent whose attestation cannot be repeated ends.
    Always,
}

/// What the process gives to the agent.
#[derive(Clone, Debug)]
pub struct Deps {
    /// Time.
    pub clock: Clock,
    /// Jitter.
    pub entropy: Entropy,
    /// Metrics, with the agent's prefix.
    pub registry: Registry,
    /// Where the agent says that it can do its job.
    pub readiness: Readiness,
    /// How much is logged, which an operator may change.
    pub log_level: LogLevelControl,
    /// Where it listens, and reaches servers.
    pub network: Network,
}
