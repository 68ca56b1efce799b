//! The conversation of one attestation: parameters, then challenges and answers, then the result.
//!
//! The whole of it has [`DEADLINE`], however often a node is asked; a message of it has the bound of every gRPC message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use vouchsafe_proto::spire::api::server::agent::v1::{
    AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response,
};

use crate::status::failed;

/// Longest attestation, from the first word to the last. A stock agent gives up after as long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The node's end of the conversation.
pub(crate) struct Exchange {
    requests: Streaming<AttestAgentRequest>,
    challenges: mpsc::Sender<AttestAgentResponse>,
}

impl Exchange {
    /// The first message.
    pub(crate) async fn first(&mut self) -> Result<AttestAgentRequest, Status> {
        let ended = || failed(Code::InvalidArgument, "failed to receive request from stream", "EOF");
        self.requests.next().await.ok_or_else(ended)?
    }

    /// Asks the node, and waits for its answer.
    pub(crate) async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, Status> {
        let step = Some(attest_agent_response::Step::Challenge(challenge.into()));
        let gone = |_| failed(Code::Internal, "failed to send challenge to agent", "the stream has ended");
        self.challenges.send(AttestAgentResponse { step }).await.map_err(gone)?;
        let lost =
            |why: &str| failed(Code::Internal, "failed to receive challenge from agent", why.to_owned());
        let answer = self.requests.next().await.ok_or_else(|| lost("EOF"))?;
        let answer = answer.map_err(|status| lost(status.message()))?;
        Ok(match answer.step {
            Some(attest_agent_request::Step::ChallengeResponse(response)) => response.to_vec(),
            _ => Vec::new(),
        })
    }
}

/// What the node reads: the challenges, and how `attest` ended.
///
/// Nothing runs beside it: a node that does not read gets no further, and one that leaves ends it.
pub(crate) struct Conversation {
    work: Option<Work>,
    challenges: mpsc::Receiver<AttestAgentResponse>,
    last: Option<Result<AttestAgentResponse, Status>>,
}

type Work = Pin<Box<dyn Future<Output = Result<attest_agent_response::Result, Status>> + Send>>;

impl Conversation {
    /// Begins to attest.
    pub(crate) fn begin<F, W>(requests: Streaming<AttestAgentRequest>, attest: F) -> Self
    where
        F: FnOnce(Exchange) -> W,
        W: Future<Output = Result<attest_agent_response::Result, Status>> + Send + 'static,
    {
        let (sender, challenges) = mpsc::channel(1);
        let work = attest(Exchange { requests, challenges: sender });
        let work = async move {
            let late = |_| Status::deadline_exceeded("attestation took longer than 30 s");
            tokio::time::timeout(DEADLINE, work).await.map_err(late)?
        };
        Self { work: Some(Box::pin(work)), challenges, last: None }
    }
}

impl Stream for Conversation {
    type Item = Result<AttestAgentResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(outcome) = work.as_mut().poll(cx)
        {
            let answer =
                |result| AttestAgentResponse { step: Some(attest_agent_response::Step::Result(result)) };
            self.last = Some(outcome.map(answer));
            self.work = None;
        }
        // What was asked comes before how it ended.
        match self.challenges.poll_recv(cx) {
            Poll::Ready(Some(challenge)) => Poll::Ready(Some(Ok(challenge))),
            Poll::Ready(None) => Poll::Ready(self.last.take()),
            Poll::Pending if self.work.is_none() => Poll::Ready(self.last.take()),
            Poll::Pending => Poll::Pending,
        }
    }
}
