//! What the kubelet knows about the Pod that a process is in.
//!
//! | selector | value |
//! |---|---|
//! | `k8s:ns`, `k8s:sa` | the Pod's namespace and service account |
//! | `k8s:pod-name`, `k8s:pod-uid`, `k8s:node-name` | what they say |
//! | `k8s:pod-label` | `<key>:<value>`, one for each label of the Pod |
//! | `k8s:pod-owner`, `k8s:pod-owner-uid` | `<kind>:<name>` and `<kind>:<uid>`, one of each for each owner |
//! | `k8s:pod-image`, `k8s:pod-init-image` | name and digest of each container's image |
//! | `k8s:pod-image-count`, `k8s:pod-init-image-count` | how many containers have a status |
//! | `k8s:container-name`, `k8s:container-image` | of the container that the process is in |
//! | `k8s:image-signature`, `k8s:image-signature-…`, `k8s:image-attestations` | who signed its image: [`super::image_signatures`] |
//!
//! A process that is in no container has none of these, and that is no failure. The flow: [`super::container`] says which
//! container and Pod a process is in (or [`legacy`], where that is asked for), [`known`] what is known of it and when to
//! ask for more ([`schedule`]), [`kubelet`] asks, [`scanner`] finds the Pods in the answer while it arrives, [`pod`] keeps
//! what matters of one, and [`index`] finds it by container.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_types::selector::Selector;

use super::container::{Container, LocateError, Locator, Wanted};
use super::image_signatures::ImageSignatures;
use super::looks::{Looks, not_located};
use super::{ATTESTOR_DEADLINE, AttestorError, WorkloadAttestor};
use crate::metrics::Metrics;
use index::{Answer, Sought};
use known::{FindError, Known, Patience};
use kubelet::{Kubelet, KubeletConfig};
use pod::ContainerId;

pub mod index;
pub mod known;
pub mod kubelet;
pub mod legacy;
pub mod pod;
pub mod scanner;
pub mod schedule;
pub mod settings;

pub use settings::{K8sConfigError, K8sSettings};

/// Settings of the `k8s` attestor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct K8sConfig {
    /// The kubelet.
    pub kubelet: KubeletConfig,
    /// The least time between the beginnings of two requests.
    pub poll_retry_interval: Duration,
    /// How many such intervals a container is waited for that is not listed.
    pub max_poll_attempts: u32,
    /// Only selectors of the Pod; its UID in the cgroup is enough, the container need not be listed yet unless its image's
    /// signatures are wanted.
    pub disable_container_selectors: bool,
    /// Look for container and Pod as SPIRE did before 1.12.
    pub legacy_locator: bool,
    /// Log every cgroup and mount that is looked at, at level debug.
    pub verbose: bool,
    /// Where processes are listed.
    pub proc_root: PathBuf,
}

/// The attestor.
#[derive(Clone, Debug)]
pub struct K8sAttestor {
    inner: Arc<Inner>,
    signatures: Option<ImageSignatures>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<K8sConfig>,
    known: Known,
    looks: Looks,
}

impl K8sAttestor {
    /// With these settings. Nothing is asked of the kubelet yet. With `signatures` no container is attested whose image's
    /// they do not vouch for, so a Pod alone is never enough.
    #[must_use]
    pub fn new(
        config: K8sConfig,
        signatures: Option<ImageSignatures>,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Self {
        let kubelet = Kubelet::new(config.kubelet.clone(), clock.clone());
        let patience =
            Patience { interval: config.poll_retry_interval, unlisted: config.unlisted_patience() };
        let pod_is_enough = config.disable_container_selectors && signatures.is_none();
        let known = Known::new(kubelet, patience, pod_is_enough, metrics);
        let inner = Inner { config: Arc::new(config), known, looks: Looks::default() };
        Self { inner: Arc::new(inner), signatures }
    }
}

#[async_trait]
impl WorkloadAttestor for K8sAttestor {
    fn name(&self) -> &'static str {
        KIND
    }

    fn deadline(&self) -> Duration {
        // It answers by itself before that.
        self.inner.config.unlisted_patience() + ATTESTOR_DEADLINE
    }

    fn complaint(&self) -> Option<String> {
        self.inner.known.complaint()
    }

    async fn attest(&self, peer: &PeerProcess) -> Result<Vec<Selector>, AttestorError> {
        let (config, pid) = (Arc::clone(&self.inner.config), peer.pid);
        let container =
            self.inner.looks.run(move || config.locate(pid).map_err(|error| not_located(pid, error))).await?;
        let Some(container) = container else { return Ok(Vec::new()) };
        // What is found is made of 64 hexadecimal digits.
        let Some(id) = ContainerId::parse(&container.id) else { return Ok(Vec::new()) };
        let sought = Sought { id, pod: container.pod.map(Arc::from) };
        let found = self.inner.known.find(&sought).await;
        let failed = |what| AttestorError::Lookup { what, source: None };
        let answer = match found {
            Ok(Answer::Contested) => return Err(failed(FindError::Contested.to_string())),
            Ok(answer) => answer,
            Err(error) => return Err(failed(error.to_string())),
        };
        let selectors = answer.selectors(&sought, !self.inner.config.disable_container_selectors);
        let mut selectors = selectors.unwrap_or_default();
        if let Some(signatures) = &self.signatures {
            let image_id = answer.image_id(&sought).filter(|image_id| !image_id.is_empty());
            let image_id = image_id.ok_or_else(|| failed(NO_IMAGE.to_owned()))?;
            let signed = signatures.selectors(KIND, image_id).await;
            selectors.extend(signed.map_err(|error| failed(error.to_string()))?);
        }
        Ok(selectors)
    }
}

impl K8sConfig {
    /// How long a container is waited for that is not listed.
    fn unlisted_patience(&self) -> Duration {
        self.poll_retry_interval.saturating_mul(self.max_poll_attempts).min(MAX_PATIENCE)
    }

    /// The container and Pod of process `pid`. A process that is gone is in none.
    fn locate(&self, pid: i32) -> Result<Option<Container>, LocateError> {
        let locator =
            Locator { proc_root: self.proc_root.clone(), verbose: self.verbose, wanted: Wanted::Pod };
        let groups = locator.groups(pid)?;
        if self.legacy_locator { legacy::in_paths(&groups) } else { locator.container(pid, &groups) }
    }
}

pub(crate) const KIND: &str = "k8s";

const NO_IMAGE: &str =
    "the kubelet does not say yet which image the container runs, so its signatures cannot be verified";

/// The longest time that a container is waited for, whatever is configured: a stream of a workload hangs on it.
const MAX_PATIENCE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
