//! Node attestation: who is this agent, and what may it be called?

pub(crate) mod join_token;
pub(crate) mod k8s_psat;
pub(crate) mod stream;
pub(crate) mod x509pop;

use std::net::IpAddr;

use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_request;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::selector::SelectorSet;
use vouchsafe_types::spiffe_id::SpiffeId;

use crate::status::failed;
pub(crate) use join_token::{JoinTokens, agent_id};
pub(crate) use k8s_psat::K8sPsat;
pub(crate) use stream::Exchange;
pub(crate) use x509pop::X509Pop;

/// What an attestor found out.
#[derive(Debug)]
pub(crate) struct Attested {
    /// The agent's SPIFFE ID.
    pub(crate) id: SpiffeId,
    /// What is known of its node.
    pub(crate) selectors: SelectorSet,
    /// Whether it can prove itself again later.
    pub(crate) can_reattest: bool,
    /// The join token that is used up when the agent is stored.
    pub(crate) token: Option<SecretText>,
}

/// One way to prove what a node is.
pub(crate) enum NodeAttestor {
    JoinTokens(JoinTokens),
    X509Pop(X509Pop),
    K8sPsat(K8sPsat),
}

impl NodeAttestor {
    /// The name that agents and configurations have for it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::JoinTokens(_) => join_token::NAME,
            Self::X509Pop(_) => x509pop::NAME,
            Self::K8sPsat(_) => k8s_psat::NAME,
        }
    }

    /// Looks at the evidence of a node that connects from `client`, and asks it for more if it needs to.
    ///
    /// # Errors
    ///
    /// The status for the node. `UNAVAILABLE` alone says nothing about its evidence.
    pub(crate) async fn attest(
        &self,
        payload: &[u8],
        client: Option<IpAddr>,
        exchange: &mut Exchange,
    ) -> Result<Attested, Status> {
        match self {
            Self::JoinTokens(tokens) => tokens.attest(payload),
            Self::X509Pop(x509pop) => x509pop.attest(payload, client, exchange).await,
            Self::K8sPsat(psat) => psat.attest(payload, client).await,
        }
    }
}

/// The attestors that are configured, one of each name.
pub(crate) struct NodeAttestors(pub(crate) Vec<NodeAttestor>);

impl NodeAttestors {
    /// The one called `name`.
    ///
    /// # Errors
    ///
    /// `FAILED_PRECONDITION` when it is not configured.
    pub(crate) fn named(&self, name: &str) -> Result<&NodeAttestor, Status> {
        self.0.iter().find(|attestor| attestor.name() == name).ok_or_else(|| {
            let why = format!("could not find node attestor type {name:?}");
            failed(Code::FailedPrecondition, "error getting node attestor", why)
        })
    }
}

/// The parts of a valid first message.
pub(crate) struct Evidence<'a> {
    pub(crate) kind: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) csr: &'a [u8],
}

/// Checks that the first message is complete.
pub(crate) fn evidence(params: Option<&attest_agent_request::Params>) -> Result<Evidence<'_>, Status> {
    let missing = |what: &str| failed(Code::InvalidArgument, "malformed param", format!("missing {what}"));
    let params = params.ok_or_else(|| missing("params"))?;
    let data = params.data.as_ref().ok_or_else(|| missing("attestation data"))?;
    let svid = params.params.as_ref().ok_or_else(|| missing("X509-SVID parameters"))?;
    if svid.csr.is_empty() {
        return Err(missing("CSR"));
    }
    if data.r#type.is_empty() {
        return Err(missing("attestation data type"));
    }
    if data.payload.is_empty() {
        return Err(missing("attestation data payload"));
    }
    Ok(Evidence { kind: &data.r#type, payload: &data.payload, csr: &svid.csr })
}
