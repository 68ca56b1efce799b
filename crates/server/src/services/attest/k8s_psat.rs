//! `k8s_psat`: a node proves itself with a projected service account token of the Pod that its agent runs in.
//!
//! The API server of the cluster says whether the token is good (`TokenReview`), whose it is, and where its Pod runs. What
//! is asked, decided and answered, with which code and text, is as SPIRE's built-in plugin has it, but for this: an API
//! server that does not answer is `UNAVAILABLE` with the time to come again, a token that is visibly of no use is refused
//! without a question (`token`), all attestations of a cluster share a budget in which addresses take turns (`gate`), and the Pod must still be
//! the one that the token was made for.

mod connection;
mod gate;
mod line;
mod pod;
mod review;
mod token;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::{error, info, warn};
use vouchsafe_cluster::k8s_openapi::api::core::v1::Node;
use vouchsafe_cluster::{Cluster, ClusterError, Deps, Name, PartialObjectMeta};
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::Attested;
use crate::config::admission::{self as settings, PsatCluster};
use crate::status::{Chain, retry_later};
use connection::Connection;
use gate::{Closed, Gate};
use pod::Pod;
use review::{Bearer, Facts, Unclear, has_audience};
use token::{MAX_TOKEN_BYTES, Useless, Wanted};

/// The name that agents and configurations have for it.
pub(crate) const NAME: &str = "k8s_psat";

/// Longest evidence of a node: a token, and the name of a cluster.
const MAX_PAYLOAD_BYTES: usize = MAX_TOKEN_BYTES + 4 * 1024;
/// Longest answer of an API server to one question.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// Longest text of the API server that an agent is told, in characters.
const MAX_TOLD: usize = 512;

/// Attests by the token of a Pod.
pub(crate) struct K8sPsat {
    trust_domain: TrustDomain,
    clock: Clock,
    clusters: BTreeMap<String, KnownCluster>,
}

/// One cluster whose nodes may attest.
struct KnownCluster {
    name: String,
    settings: PsatCluster,
    connection: Connection,
    gate: Gate,
}

#[derive(Deserialize)]
struct Payload {
    cluster: Option<String>,
    token: Option<SecretText>,
}

impl K8sPsat {
    pub(crate) fn new(trust_domain: TrustDomain, settings: &settings::K8sPsat, deps: &Deps) -> Self {
        let known = |(name, settings): (&String, &PsatCluster)| {
            let connection = Connection::new(settings.source.clone(), deps.clone());
            let (name, settings) = (name.clone(), settings.clone());
            (name.clone(), KnownCluster { name, settings, connection, gate: Gate::new() })
        };
        let clusters = settings.clusters.iter().map(known).collect();
        Self { trust_domain, clock: deps.clock.clone(), clusters }
    }

    pub(super) async fn attest(&self, payload: &[u8], client: Option<IpAddr>) -> Result<Attested, Status> {
        let invalid = |text: String| refused(Code::InvalidArgument, text);
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(invalid(format!(
                "failed to unmarshal data payload: it is longer than {MAX_PAYLOAD_BYTES} bytes"
            )));
        }
        let payload: Payload = serde_json::from_slice(payload)
            .map_err(|cause| invalid(format!("failed to unmarshal data payload: {cause}")))?;
        let filled = |what: &str| invalid(format!("missing {what} in attestation data"));
        let name = payload.cluster.filter(|name| !name.is_empty()).ok_or_else(|| filled("cluster"))?;
        let token = payload.token.filter(|token| !token.is_empty()).ok_or_else(|| filled("token"))?;
        let cluster = self.clusters.get(&name);
        let cluster = cluster.ok_or_else(|| invalid(format!("not configured for cluster {name:?}")))?;
        cluster.look_at(&token, self.clock.unix_now())?;
        let turn = cluster.gate.enter(client).await.map_err(|closed| cluster.closed(closed))?;
        let found = cluster.ask(&token).await;
        drop(turn);
        self.attested(cluster, &found?)
    }

    /// Who the node is, once everything is known.
    fn attested(&self, cluster: &KnownCluster, found: &Found) -> Result<Attested, Status> {
        let node_uid = found.node.metadata.uid.as_deref().unwrap_or_default();
        if node_uid.is_empty() {
            return Err(cluster.refused(Code::Internal, "node UID is empty", ""));
        }
        let Found { bearer, pod, node } = found;
        let facts = Facts { cluster: &cluster.name, bearer, pod, node, node_uid };
        let PsatCluster { node_labels, pod_labels, pod_uid_in_id, .. } = &cluster.settings;
        let suffix = match pod_uid_in_id {
            true => format!("pod/{}", bearer.pod_uid),
            false => node_uid.to_owned(),
        };
        let path = format!("/spire/agent/{NAME}/{}/{suffix}", cluster.name);
        let internal = |why: String| cluster.refused(Code::Internal, "failed to describe the agent", &why);
        let id = SpiffeId::new(&self.trust_domain, &path).map_err(|cause| internal(cause.to_string()))?;
        let selectors =
            facts.selectors(node_labels, pod_labels).map_err(|cause| internal(cause.to_string()))?;
        Ok(Attested { id, selectors, can_reattest: true, token: None })
    }
}

/// What an API server said.
struct Found {
    bearer: Bearer,
    pod: Pod,
    node: PartialObjectMeta<Node>,
}

const REVIEW: &str = "unable to validate token with TokenReview API";
const POD: &str = "fail to get pod from k8s API server";
const NODE: &str = "fail to get node from k8s API server";

impl KnownCluster {
    /// Whether the token is worth a question.
    fn look_at(&self, token: &str, now: i64) -> Result<(), Status> {
        let PsatCluster { audience: audiences, service_accounts, .. } = &self.settings;
        token::check(token, &Wanted { audiences, service_accounts, now }).map_err(|useless| match &useless {
            Useless::ServiceAccount(account) => self.not_allowed(account),
            // The codes that SPIRE has for what the API server says of such tokens; an agent tries again.
            Useless::Audience(_) => {
                let why = format!("{useless}, and must have one of {audiences:?}");
                self.refused(Code::Internal, REVIEW, &why)
            }
            Useless::Expired => self.refused(Code::Internal, REVIEW, &useless.to_string()),
            _ => refused(Code::InvalidArgument, format!("malformed token in attestation data: {useless}")),
        })
    }

    /// Asks whose token it is, and where its Pod runs.
    async fn ask(&self, token: &str) -> Result<Found, Status> {
        let cluster = self.connection.cluster().await.map_err(|cause| {
            self.tell(&cause);
            self.refused(Code::Internal, REVIEW, &format!("unable to get clientset: {}", Chain(&cause)))
        })?;
        let bearer = self.bearer(&cluster, token).await?;
        if !self.settings.service_accounts.contains(&bearer.account()) {
            return Err(self.not_allowed(&bearer.account()));
        }
        let name = Name::new(&bearer.namespace, &bearer.pod_name);
        let pod: Option<Pod> = self.question(POD, cluster.fetch(&name)).await?;
        let pod = pod.ok_or_else(|| {
            let why = format!("unable to query pods API: pods {:?} not found", bearer.pod_name);
            self.refused(Code::Internal, POD, &why)
        })?;
        if pod.metadata.uid.as_deref() != Some(bearer.pod_uid.as_str()) {
            let why = format!("{name} is not the pod that it was made for any more");
            return Err(self.refused(Code::PermissionDenied, "token is of a pod that is gone", &why));
        }
        let node_name = pod.spec.node_name.as_str();
        if node_name.is_empty() {
            return Err(self.refused(Code::Internal, NODE, "empty node name"));
        }
        let node: Option<PartialObjectMeta<Node>> =
            self.question(NODE, cluster.fetch(&Name::cluster(node_name))).await?;
        let node = node.ok_or_else(|| {
            let why = format!("unable to query nodes API: nodes {node_name:?} not found");
            self.refused(Code::Internal, NODE, &why)
        })?;
        Ok(Found { bearer, pod, node })
    }

    async fn bearer(&self, cluster: &Cluster, token: &str) -> Result<Bearer, Status> {
        let audience = &self.settings.audience;
        let review = self.question(REVIEW, cluster.review_token(token, audience)).await?;
        if let Some(error) = review.error.as_deref().filter(|error| !error.is_empty()) {
            let why = format!("token review API response contains an error: {error}");
            return Err(self.refused(Code::Internal, REVIEW, &why));
        }
        if review.authenticated != Some(true) {
            let what = "token not authenticated according to TokenReview API";
            return Err(self.refused(Code::PermissionDenied, what, ""));
        }
        if !has_audience(&review, audience) {
            let found = review.audiences.unwrap_or_default();
            let why = format!(
                "token review API did not validate audience: wanted one of {audience:?} but got {found:?}"
            );
            return Err(self.refused(Code::Internal, REVIEW, &why));
        }
        Bearer::of(review.user.as_ref())
            .map_err(|Unclear(what, why)| self.refused(Code::Internal, what, &why))
    }

    /// One question, and what its failure is to the agent: an API server that is away says nothing about a token.
    async fn question<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, Status> {
        let Ok(answer) = timeout(QUESTION_DEADLINE, answer).await else {
            return Err(self.silent(what, None, &Late));
        };
        match answer {
            Err(error) if error.class() == Class::Transient => {
                Err(self.silent(what, error.retry_after(), &error))
            }
            answer => {
                if self.gate.answered() {
                    info!(cluster = self.name, "The Kubernetes API server answers again; nodes attest");
                }
                answer.map_err(|error| {
                    if error.class() == Class::Permanent {
                        self.tell(&error);
                    }
                    self.refused(Code::Internal, what, &Chain(&error).to_string())
                })
            }
        }
    }

    fn silent(&self, what: &str, hint: Option<Duration>, cause: &dyn std::error::Error) -> Status {
        let (wait, news) = self.gate.silent(hint);
        let cause = Chain(cause).to_string();
        if news {
            warn!(
                cluster = self.name,
                error = cause,
                "The Kubernetes API server does not answer; nodes attest when it does"
            );
        }
        retry_later(self.text(what, &cause), wait.max(Duration::from_secs(1)))
    }

    fn closed(&self, closed: Closed) -> Status {
        match closed {
            Closed::Away { wait } => {
                let why = format!("the API server did not answer a moment ago; try again in {wait:.0?}");
                retry_later(self.text(REVIEW, &why), wait.max(Duration::from_secs(1)))
            }
            Closed::Crowded { wait } => {
                let wait = wait.max(Duration::from_secs(1));
                let why = format!("too many agents of this cluster attest; try again in {wait:.0?}");
                let details = ErrorDetails::with_retry_info(Some(wait));
                Status::with_error_details(Code::ResourceExhausted, self.text(REVIEW, &why), details)
            }
        }
    }

    /// Says what only a person can put right, not more often than that person reads.
    fn tell(&self, cause: &dyn std::error::Error) {
        if self.gate.tells() {
            error!(cluster = self.name, error = %Chain(cause), "Nodes of a cluster cannot attest: this server may not ask its API server");
        }
    }

    fn not_allowed(&self, account: &str) -> Status {
        let text = format!("{account:?} is not an allowed service account for cluster {:?}", self.name);
        refused(Code::PermissionDenied, text)
    }

    fn refused(&self, code: Code, what: &str, why: &str) -> Status {
        Status::new(code, self.text(what, why))
    }

    fn text(&self, what: &str, why: &str) -> String {
        let text = format!("nodeattestor({NAME}): {what} for cluster {:?}", self.name);
        let why = why.char_indices().nth(MAX_TOLD).map_or(why, |(end, _)| &why[..end]);
        if why.is_empty() { text } else { format!("{text}: {why}") }
    }
}

/// An API server took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {QUESTION_DEADLINE:?}")]
struct Late;

/// A refusal, in the words of SPIRE's plugin.
fn refused(code: Code, text: String) -> Status {
    Status::new(code, format!("nodeattestor({NAME}): {text}"))
}
