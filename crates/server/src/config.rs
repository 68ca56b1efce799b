//! What an operator chooses. Plain values; the binary reads them from files and arguments.

pub mod admission;
pub mod federation;
pub mod publication;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_ca::key::KeyType;
pub use vouchsafe_ca::upstream::DiskCa;
use vouchsafe_ca::x509::Subject;
use vouchsafe_identity::config::KeyExchange;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::issuer::Policy;
pub use admission::Admission;
pub use federation::Federation;
pub use publication::Publication;

/// The server's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose identities it issues.
    pub trust_domain: TrustDomain,
    /// Where agents connect. Port 0 takes a free one, which [`crate::Running`] tells.
    pub tcp_address: SocketAddr,
    /// Where administrators of this machine connect.
    pub admin_socket: PathBuf,
    /// Where it keeps what the database does not have.
    pub data_dir: PathBuf,
    /// Who may administer over TCP, besides workloads whose entry says so.
    pub admin_ids: Vec<SpiffeId>,
    /// Whether agents may attest with join tokens.
    pub join_tokens: bool,
    /// Kind of the X.509 authorities' keys.
    pub ca_key_type: KeyType,
    /// Kind of the JWT authorities' keys.
    pub jwt_key_type: KeyType,
    /// Lifetime of signing authorities.
    pub ca_ttl: Duration,
    /// Subject of X.509 authorities.
    pub ca_subject: Subject,
    /// Lifetimes and claims of SVIDs.
    pub policy: Policy,
    /// Who certifies this server's X.509 authorities.
    pub upstream: Upstream,
    /// Whether to do without JWT authorities and JWT-SVIDs.
    pub disable_jwt_svids: bool,
    /// How nodes and clients are admitted.
    pub admission: Admission,
    /// Trust domains beside this one.
    pub federation: Federation,
    /// Kubernetes clusters that get the trust bundle.
    pub publications: Vec<Publication>,
    /// Version that the metrics tell.
    pub version: &'static str,
}

/// The authority above this server (`UpstreamAuthority`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Upstream {
    /// None: X.509 authorities certify themselves.
    #[default]
    None,
    /// A CA whose key is in a file.
    Disk(DiskCa),
    /// Another server of the same trust domain.
    Spire(UpstreamServer),
}

/// Where the upstream server is, and who we are to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamServer {
    /// Host name or address (`server_address`).
    pub host: String,
    /// Port (`server_port`).
    pub port: u16,
    /// Socket of the Workload API where this server gets the SVID of its downstream entry (`workload_api_socket`).
    pub workload_api_socket: PathBuf,
    /// What connections to it must agree on their keys by (`experimental.require_pq_kem`).
    pub key_exchange: KeyExchange,
}
