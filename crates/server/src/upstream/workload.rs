//! This server as a workload of an agent beside it: its SVID, and the roots of the trust domain, as the Workload API tells
//! them.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};
use vouchsafe_identity::own::{OwnSvid, SvidCell};
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_types::certificate::split;
use vouchsafe_types::trust_domain::TrustDomain;

use super::Trouble;

/// Holds the newest SVID. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct WorkloadSvid {
    socket: PathBuf,
    trust_domain: TrustDomain,
    pub(super) own: SvidCell,
    pub(super) roots: RootsCell,
}

/// After this long the stream is opened again, so that an agent that stopped talking is noticed before the SVID ends.
const STREAM_AGE: Duration = Duration::from_secs(600);

/// Steps between attempts to open the stream.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Largest answer of the Workload API.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

impl WorkloadSvid {
    pub(super) fn new(socket: PathBuf, trust_domain: TrustDomain) -> Self {
        Self { socket, trust_domain, own: SvidCell::empty(), roots: RootsCell::default() }
    }

    /// The trust domain that it is to be a member of.
    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Waits until there is an SVID.
    pub(super) async fn ready(&self) {
        // The cell outlives this wait, so its channel cannot close.
        drop(self.own.watch().wait_for(|updates| *updates > 0).await);
    }

    /// Takes each update, until `cancel`.
    pub(super) async fn run(self, mut entropy: Entropy, cancel: CancellationToken) {
        let mut trouble =
            Trouble::new("Cannot get an X.509-SVID from the Workload API for the upstream server");
        let mut attempt = 0_u32;
        #[expect(clippy::expect_used, reason = "the two constants are a range")]
        let backoff = Backoff::new(RETRY.0, RETRY.1).expect("a range");
        let follow = async {
            loop {
                match self.follow(&mut trouble, &mut attempt).await {
                    Ok(()) => continue,
                    Err(error) => trouble.failed(&*error),
                }
                sleep(backoff.delay(attempt, entropy.fraction())).await;
                attempt = attempt.saturating_add(1);
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = follow => {}
        }
    }

    /// Follows one stream for [`STREAM_AGE`].
    async fn follow(&self, trouble: &mut Trouble, attempt: &mut u32) -> Result<(), crate::status::BoxError> {
        let channel = uds_channel(&self.socket).await?;
        let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let updates = async {
            let mut updates = client.fetch_x509svid(request).await?.into_inner();
            while let Some(update) = updates.message().await? {
                self.take(update)?;
                trouble.ended();
                *attempt = 0;
            }
            Err(Status::unavailable("the Workload API ended the stream").into())
        };
        timeout(STREAM_AGE, updates).await.unwrap_or(Ok(()))
    }

    /// Takes the first SVID, which is the default one.
    fn take(&self, update: X509svidResponse) -> Result<(), crate::status::BoxError> {
        let svid = update.svids.into_iter().next().ok_or("the Workload API sent no SVID")?;
        let X509svid { x509_svid, x509_svid_key, bundle, .. } = svid;
        let mut roots = TrustRoots::new();
        let authorities = split(&bundle)?;
        roots.insert(&self.trust_domain, authorities.iter().map(|der| &**der));
        self.roots.set(roots);
        let key = zeroize::Zeroizing::new(Vec::from(x509_svid_key));
        self.own.set(OwnSvid::from_pkcs8(&split(&x509_svid)?, &key))?;
        Ok(())
    }
}
