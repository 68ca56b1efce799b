//! What an operator chooses. Plain values; the binary reads them from files and arguments.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use vouchsafe_ca::key::KeyType;
use vouchsafe_ca::x509::Subject;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use crate::issuer::Policy;

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
    /// Version that the metrics tell.
    pub version: &'static str,
}
