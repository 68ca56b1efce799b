//! The conversation of `AttestAgent`; what is said in it is up to [`crate::node::attestor`].

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vouchsafe_proto::spire::api::server::agent::v1 as agent_api;
use vouchsafe_proto::spire::api::types;

use super::errand::Errand;
use super::{Line, ServerClient};
use crate::node::attestor::Evidence;

impl ServerClient {
    /// Attests this node over `line`: sends `evidence` and the request for a certificate, answers the server's challenges, and returns
    /// what the server issued.
    ///
    /// # Errors
    ///
    /// The server's status; `Internal` for a challenge that has no answer, and for more than [`MAX_CHALLENGES`] of them.
    pub async fn attest(
        &self,
        line: &Line,
        (kind, evidence): (&str, &Evidence),
        csr: Vec<u8>,
    ) -> Result<agent_api::attest_agent_response::Result, Status> {
        use agent_api::attest_agent_request::Step;
        use agent_api::attest_agent_response::Step as Answer;
        let (send, requests) = mpsc::channel(1);
        let gone = |_| Status::unavailable("the server ended the attestation");
        let message = |step| agent_api::AttestAgentRequest { step: Some(step) };
        let data =
            types::AttestationData { r#type: kind.to_owned(), payload: evidence.payload.to_vec().into() };
        let params = agent_api::attest_agent_request::Params {
            data: Some(data),
            params: Some(agent_api::AgentX509svidParams { csr: csr.into() }),
        };
        let call = |line: Line| async move {
            let mut client = agent_api::agent_client::AgentClient::new(line.channel);
            send.send(message(Step::Params(params))).await.map_err(gone)?;
            let mut answers = client.attest_agent(ReceiverStream::new(requests)).await?.into_inner();
            for _ in 0..=MAX_CHALLENGES {
                match answers.message().await?.and_then(|answer| answer.step) {
                    Some(Answer::Result(result)) => return Ok(result),
                    Some(Answer::Challenge(challenge)) => {
                        let answer = evidence
                            .answer(&challenge)
                            .map_err(|error| Status::internal(error.to_string()))?;
                        send.send(message(Step::ChallengeResponse(answer.into()))).await.map_err(gone)?;
                    }
                    None => return Err(Status::internal("attest response is missing SVID")),
                }
            }
            Err(Status::internal(format!("the server sent more than {MAX_CHALLENGES} challenges")))
        };
        self.call_over(line, Errand::CONVERSATION, call).await
    }
}

/// Challenges that are answered in one attestation; SPIRE's attestors have one.
pub const MAX_CHALLENGES: usize = 8;
