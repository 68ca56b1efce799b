//! How nodes and clients are admitted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vouchsafe_cluster::Source;
use vouchsafe_identity::config::KeyExchange;
use vouchsafe_identity::path::Authorities;
use vouchsafe_transport::proxy::Network;

pub use crate::services::attest::x509pop::template::{AgentPath, AgentPathError};

/// How nodes and clients are admitted, besides `Config::join_tokens` and `Config::admin_ids`.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    /// Whether, and how, nodes may attest with a certificate (`NodeAttestor "x509pop"`).
    pub x509pop: Option<X509Pop>,
    /// Whether, and from which clusters, nodes may attest with the token of a Pod (`NodeAttestor "k8s_psat"`).
    pub k8s_psat: Option<K8sPsat>,
    /// What waits for its turn (`ratelimit`).
    pub rate_limits: RateLimits,
    /// Networks whose PROXY headers are believed (`proxy_protocol_trusted_cidrs`).
    pub balancers: Vec<Network>,
    /// Whether each call is written to the log (`audit_log_enabled`).
    pub audit_log: bool,
    /// What TLS connections must agree on their keys by (`experimental.require_pq_kem`).
    pub key_exchange: KeyExchange,
    /// What becomes of agents that are gone.
    pub prune: Prune,
}

/// Which calls are limited (`ratelimit`). `PostStatus` and the keys of downstream servers always are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimits {
    /// `ratelimit.attestation`.
    pub attestation: bool,
    /// `ratelimit.signing`.
    pub signing: bool,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { attestation: true, signing: true }
    }
}

/// Removal of agents whose SVID expired long ago.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prune {
    /// How long ago (`prune_attested_nodes_expired_for`). `None`: agents stay.
    pub expired_for: Option<Duration>,
    /// Most agents removed in one go (`prune_attested_nodes_batch_size`); 0 is [`Prune::DEFAULT_BATCH`].
    pub batch: usize,
    /// Whether those go too that cannot attest again, such as agents of join tokens (`prune_tofu_nodes`).
    pub tofu: bool,
}

impl Prune {
    /// Agents removed in one go, unless configured.
    pub const DEFAULT_BATCH: usize = 1_000;
}

impl Default for Prune {
    fn default() -> Self {
        Self { expired_for: None, batch: Self::DEFAULT_BATCH, tofu: false }
    }
}

/// Attestation by a certificate and proof that its key is held.
#[derive(Clone, Debug)]
pub struct X509Pop {
    /// Whose certificates count.
    pub mode: X509PopMode,
    /// The path of an agent's SPIFFE ID (`agent_path_template`).
    pub agent_path: AgentPath,
    /// Most intermediate certificates (`max_intermediates`).
    pub max_intermediates: usize,
    /// Largest RSA key, in bits (`max_rsa_key_size`).
    pub max_rsa_key_bits: usize,
    /// Whether the node's address must be in its certificate (`verify_client_ip`).
    pub verify_client_ip: bool,
}

/// Whose certificates attest nodes (`mode`).
#[derive(Clone, Debug)]
pub enum X509PopMode {
    /// Those of another PKI (`external_pki`), whose authorities these are (`ca_bundle_path`, `ca_bundle_paths`).
    ExternalPki(Authorities),
    /// X.509-SVIDs of this trust domain whose path begins like this (`spiffe`, `spiffe_prefix`).
    Spiffe(String),
}

impl X509Pop {
    /// The defaults of SPIRE for `mode`.
    #[must_use]
    pub fn new(mode: X509PopMode) -> Self {
        let agent_path = match mode {
            X509PopMode::ExternalPki(_) => AgentPath::by_fingerprint(),
            X509PopMode::Spiffe(_) => AgentPath::by_svid_path(),
        };
        Self {
            mode,
            agent_path,
            max_intermediates: Self::DEFAULT_MAX_INTERMEDIATES,
            max_rsa_key_bits: Self::DEFAULT_MAX_RSA_KEY_BITS,
            verify_client_ip: false,
        }
    }

    /// Intermediate certificates, unless configured.
    pub const DEFAULT_MAX_INTERMEDIATES: usize = 4;
    /// Bits of an RSA key, unless configured. A larger one cannot be verified, whatever is configured.
    pub const DEFAULT_MAX_RSA_KEY_BITS: usize = 8192;
    /// Where the paths of SVIDs begin that attest nodes, unless configured.
    pub const DEFAULT_SVID_PREFIX: &'static str = "/spire-exchange/";
}

/// Attestation by the projected service account token of a Kubernetes Pod.
#[derive(Clone, Debug, Default)]
pub struct K8sPsat {
    /// By the name that agents have for it (`clusters`); it is in their SPIFFE IDs. None: nobody attests.
    pub clusters: BTreeMap<String, PsatCluster>,
}

/// One cluster whose nodes may attest.
#[derive(Clone, Debug)]
pub struct PsatCluster {
    /// Its API server (`kube_config_file`, or the cluster that the server runs in).
    pub source: Source,
    /// `namespace:name` of the service accounts whose Pods may attest (`service_account_allow_list`).
    pub service_accounts: BTreeSet<String>,
    /// One of these must be an audience of the token (`audience`). Empty: the API server's own.
    pub audience: Vec<String>,
    /// Labels of the node that become selectors (`allowed_node_label_keys`).
    pub node_labels: BTreeSet<String>,
    /// Labels of the Pod that become selectors (`allowed_pod_label_keys`).
    pub pod_labels: BTreeSet<String>,
    /// Whether an agent is known by its Pod and not by its node (`use_pod_uid_for_agent_id`).
    pub pod_uid_in_id: bool,
}

impl PsatCluster {
    /// The audience of tokens, unless configured.
    pub const DEFAULT_AUDIENCE: &'static str = "spire-server";

    /// The defaults of SPIRE, for the Pods of `service_accounts`.
    #[must_use]
    pub fn new(source: Source, service_accounts: BTreeSet<String>) -> Self {
        Self {
            source,
            service_accounts,
            audience: vec![Self::DEFAULT_AUDIENCE.to_owned()],
            node_labels: BTreeSet::new(),
            pod_labels: BTreeSet::new(),
            pod_uid_in_id: false,
        }
    }
}
