//! Trust domains beside this one.

use std::net::SocketAddr;
use std::time::Duration;

pub use vouchsafe_identity::serving::CertificateFiles;
use vouchsafe_identity::web::WebRoots;
use vouchsafe_types::federation::FederationRelationship;

/// Federation with other trust domains (`federation`).
#[derive(Clone, Debug)]
pub struct Federation {
    /// Where this server's bundle is served, if at all (`bundle_endpoint`).
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// Where foreign bundles are fetched, in place of what operators set over the API (`federates_with`).
    pub federates_with: Vec<FederationRelationship>,
    /// Who vouches for endpoints of the profile `https_web`.
    pub web_roots: WebRoots,
    /// How long a fetch may take, from resolving the name to the last byte.
    pub fetch_deadline: Duration,
}

impl Federation {
    /// `fetch_deadline`, unless a test needs another.
    pub const FETCH_DEADLINE: Duration = Duration::from_secs(30);
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            bundle_endpoint: None,
            federates_with: Vec::new(),
            web_roots: WebRoots::System,
            fetch_deadline: Self::FETCH_DEADLINE,
        }
    }
}

/// Serves the bundle over HTTPS.
#[derive(Clone, Debug)]
pub struct BundleEndpoint {
    /// Where (`address`, `port`). Port 0 takes a free one, which [`crate::Running`] tells.
    pub address: SocketAddr,
    /// How often others should look for a newer bundle (`refresh_hint`). Whole seconds count.
    pub refresh_hint: Duration,
    /// How it proves that it is this server's (`profile`).
    pub profile: ServingProfile,
}

impl BundleEndpoint {
    /// `refresh_hint`, unless configured.
    pub const DEFAULT_REFRESH_HINT: Duration = Duration::from_secs(300);
    /// `file_sync_interval` of `serving_cert_file`, unless configured.
    pub const DEFAULT_SYNC_INTERVAL: Duration = Duration::from_secs(3600);
}

/// What the bundle endpoint presents.
#[derive(Clone, Debug)]
pub enum ServingProfile {
    /// The server's X.509-SVID (`profile "https_spiffe"`).
    HttpsSpiffe,
    /// A certificate for its host name (`profile "https_web"`, `serving_cert_file`).
    HttpsWeb(CertificateFiles),
}
