//! Where keys come from. Each source is asked once per poll and answers with everything that it has.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tonic::Status;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::types::BundleMask;
use vouchsafe_proto::workload::JwtBundlesRequest;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload_client;
use vouchsafe_transport::connect::uds_channel_lazy;
use vouchsafe_types::TrustDomain;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::bundle::format::{self, FormatError, MAX_BUNDLE_BYTES};

use super::keys::Fetched;

/// Something that has keys.
pub(crate) trait KeySource: Send {
    /// All keys that it has now. Ends when the caller stops waiting.
    fn fetch(&mut self) -> impl Future<Output = Result<Fetched, FetchError>> + Send;
}

/// The sources of SPIRE's provider.
#[derive(Debug)]
pub(crate) enum Source {
    /// A server's administrative socket.
    ServerApi(BundleClient<Channel>),
    /// A Workload API, which gives this process the bundles that its entry says.
    WorkloadApi { client: SpiffeWorkloadApiClient<Channel>, trust_domain: TrustDomain },
    /// A SPIFFE bundle document.
    File(PathBuf),
}

impl Source {
    /// Connects at the first fetch, and again after each loss.
    pub(crate) fn server_api(socket: &Path) -> Self {
        let client = BundleClient::new(uds_channel_lazy(socket));
        Self::ServerApi(client.max_decoding_message_size(MAX_BUNDLE_BYTES))
    }

    /// Connects at the first fetch, and again after each loss.
    pub(crate) fn workload_api(socket: &Path, trust_domain: TrustDomain) -> Self {
        let client = SpiffeWorkloadApiClient::new(uds_channel_lazy(socket));
        let client = client.max_decoding_message_size(MAX_BUNDLE_BYTES);
        Self::WorkloadApi { client, trust_domain }
    }
}

impl KeySource for Source {
    async fn fetch(&mut self) -> Result<Fetched, FetchError> {
        match self {
            Self::ServerApi(client) => from_server(client).await,
            Self::WorkloadApi { client, trust_domain } => from_workload_api(client, trust_domain).await,
            Self::File(path) => from_file(path).await,
        }
    }
}

async fn from_server(client: &mut BundleClient<Channel>) -> Result<Fetched, FetchError> {
    let output_mask = Some(BundleMask { jwt_authorities: true, ..BundleMask::default() });
    let answer = client.get_bundle(GetBundleRequest { output_mask }).await;
    let bundle = answer.map_err(|source| FetchError::ServerApi { source: Box::new(source) })?.into_inner();
    let mut fetched = Fetched::default();
    for key in &bundle.jwt_authorities {
        fetched.take(&key.key_id, &key.public_key);
    }
    Ok(fetched)
}

async fn from_workload_api(
    client: &mut SpiffeWorkloadApiClient<Channel>,
    trust_domain: &TrustDomain,
) -> Result<Fetched, FetchError> {
    let failed = |source| FetchError::WorkloadApi { source: Box::new(source) };
    let request = workload_client::request(JwtBundlesRequest {});
    let first = workload_client::first(client.fetch_jwt_bundles(request)).await.map_err(failed)?;
    let id = format!("spiffe://{trust_domain}");
    let jwks = first.bundles.get(&id).ok_or(FetchError::NoBundle { trust_domain_id: id })?;
    let bundle = format::from_jwks(trust_domain, jwks).map_err(|source| FetchError::Jwks { source })?;
    Ok(authorities(&bundle))
}

async fn from_file(path: &Path) -> Result<Fetched, FetchError> {
    let failed = |source| FetchError::File { path: path.to_owned(), source };
    let mut json = Vec::new();
    let file = File::open(path).await.map_err(failed)?;
    file.take(MAX_BUNDLE_BYTES as u64 + 1).read_to_end(&mut json).await.map_err(failed)?;
    // The document does not say whose it is, and nobody asks.
    let nobody = TrustDomain::parse("bundle").map_err(|error| failed(io::Error::other(error)))?;
    let bundle = format::from_spiffe_json(&nobody, &json);
    let bundle = bundle.map_err(|source| FetchError::Bundle { path: path.to_owned(), source })?;
    Ok(authorities(&bundle))
}

fn authorities(bundle: &Bundle) -> Fetched {
    let mut fetched = Fetched::default();
    for authority in &bundle.jwt_authorities {
        fetched.take(&authority.key_id, &authority.public_key_der);
    }
    fetched
}

/// Why there is no answer. A retry is always sensible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The server does not answer, or refuses.
    #[error("the server gave no bundle")]
    ServerApi {
        /// What it said.
        source: Box<Status>,
    },
    /// The Workload API does not answer, or this process has no identity.
    #[error("the Workload API gave no bundles")]
    WorkloadApi {
        /// What it said.
        source: Box<Status>,
    },
    /// The configured trust domain is not among the answer's.
    #[error("the Workload API has no bundle of {trust_domain_id}")]
    NoBundle {
        /// Whose.
        trust_domain_id: String,
    },
    /// The Workload API's answer cannot be read.
    #[error("the Workload API's bundle cannot be read")]
    Jwks {
        /// Why.
        source: FormatError,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no bundle.
    #[error("{} is no SPIFFE bundle", path.display())]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// It took too long.
    #[error("no answer in time")]
    Late,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_has_the_keys_that_are_for_jwt_svids() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.json");
        let mut source = Source::File(path.clone());
        assert!(matches!(source.fetch().await, Err(FetchError::File { .. })));
        std::fs::write(&path, "no JSON").unwrap();
        assert!(matches!(source.fetch().await, Err(FetchError::Bundle { .. })));
        let coordinate = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
        let key = |kid: &str, usage: &str| {
            format!(
                r#"{{"use":"{usage}","kty":"EC","kid":"{kid}","crv":"P-256","x":"{coordinate}","y":"{coordinate}"}}"#
            )
        };
        std::fs::write(&path, format!(r#"{{"keys":[{},{}]}}"#, key("a", "jwt-svid"), key("b", "sig")))
            .unwrap();
        let fetched = source.fetch().await.unwrap();
        assert_eq!(fetched.keys.iter().map(|key| key.id.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_an_error_and_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        for mut source in [Source::server_api(&socket), Source::workload_api(&socket, trust_domain)] {
            for _ in 0..2 {
                assert!(source.fetch().await.is_err());
            }
        }
    }
}
