//! Another agent on this machine, asked over its Workload API: for the server's bundle, or for the SVID to attest with.
//! So that agents can be nested without a daemon in between.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use tonic::{Status, Streaming};
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{X509BundlesRequest, X509svidRequest};
use vouchsafe_proto::workload_client::{self, request};
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_types::bundle::{Bundle, X509Authority};
use vouchsafe_types::certificate;
use vouchsafe_types::trust_domain::TrustDomain;
use zeroize::Zeroizing;

/// The X.509-SVID that we are given there.
pub(crate) struct Svid {
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// PKCS #8.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

/// The first X.509-SVID that the Workload API at `socket` gives us.
///
/// # Errors
///
/// One sentence for a person; a retry is sensible.
pub(crate) async fn fetch_svid(socket: &Path) -> Result<Svid, String> {
    let ask = async |mut client: Client| client.fetch_x509svid(request(X509svidRequest {})).await;
    let response = first(socket, ask).await?;
    let svid = response.svids.into_iter().next().ok_or("it has no identity for us")?;
    let chain = certificate::split(&svid.x509_svid).map_err(|error| error.to_string())?;
    let chain = chain.iter().map(|der| der.to_vec()).collect();
    Ok(Svid { chain, key: Zeroizing::new(svid.x509_svid_key.to_vec()) })
}

/// The X.509 authorities of `trust_domain` that the Workload API at `socket` gives us.
///
/// # Errors
///
/// One sentence for a person; a retry is sensible.
pub(crate) async fn fetch_bundle(socket: &Path, trust_domain: &TrustDomain) -> Result<Bundle, String> {
    let ask = async |mut client: Client| client.fetch_x509_bundles(request(X509BundlesRequest {})).await;
    let response = first(socket, ask).await?;
    let bundle = response.bundles.get(&trust_domain.id_string()).ok_or_else(|| {
        format!(
            "SPIFFE Workload API {} did not provide a trust bundle for trust domain {:?}",
            socket.display(),
            trust_domain.as_str()
        )
    })?;
    let mut authorities = Bundle::new(trust_domain.clone());
    for der in certificate::split(bundle).map_err(|error| error.to_string())? {
        authorities.append([X509Authority::parse(der).map_err(|error| error.to_string())?], []);
    }
    Ok(authorities)
}

type Client = SpiffeWorkloadApiClient<tonic::transport::Channel>;

/// The first message of a stream.
async fn first<T>(
    socket: &Path,
    ask: impl AsyncFnOnce(Client) -> Result<tonic::Response<Streaming<T>>, Status>,
) -> Result<T, String> {
    let fetch = async {
        let channel = uds_channel(socket).await.map_err(|error| error.to_string())?;
        let asked = ask(workload_client::client(channel));
        workload_client::first(asked).await.map_err(|status| status.message().to_owned())
    };
    timeout(DEADLINE, fetch).await.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")))
}

/// As long as SPIRE's agent waits.
const DEADLINE: Duration = Duration::from_secs(60);
