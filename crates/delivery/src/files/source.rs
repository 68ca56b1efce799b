//! The Workload API, asked again and again.
//!
//! A stream that ends is opened anew after a random time of at most [`MAX_PAUSE`]: an agent that starts again finds its
//! workloads coming back one after the other. Nothing here ends because the agent is away or refuses.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, X509svidRequest, X509svidResponse,
};
use vouchsafe_proto::workload_client::{self, request};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::connect::uds_channel_lazy;
use vouchsafe_types::jwt_svid::JwtSvid;

/// What the Workload API said.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Identities.
    X509(Box<X509svidResponse>),
    /// JWT bundles.
    JwtBundles(JwtBundlesResponse),
    /// The tokens for the file of this number in the settings.
    JwtSvids(usize, JwtsvidResponse),
}

/// A Workload API.
#[derive(Clone, Debug)]
pub struct Source {
    client: Client,
    backoff: Backoff,
    clock: Clock,
    entropy: Entropy,
}

impl Source {
    /// The one at `socket`. Connects at the first question, and again after each loss.
    #[must_use]
    pub fn new(socket: &Path, clock: Clock, entropy: Entropy) -> Self {
        let client = workload_client::client(uds_channel_lazy(socket));
        Self { client, backoff: BACKOFF, clock, entropy }
    }

    /// Sends the identities, and again after every change. Ends when nobody listens.
    pub async fn follow_x509(self, answers: Sender<Answer>) {
        let open: Open<X509svidResponse> =
            |client| Box::pin(client.fetch_x509svid(request(X509svidRequest {})));
        self.follow("x509", &answers, open, |answer| Answer::X509(Box::new(answer))).await;
    }

    /// Sends the JWT bundles, and again after every change. Ends when nobody listens.
    pub async fn follow_jwt_bundles(self, answers: Sender<Answer>) {
        let open: Open<JwtBundlesResponse> =
            |client| Box::pin(client.fetch_jwt_bundles(request(JwtBundlesRequest {})));
        self.follow("jwt_bundles", &answers, open, Answer::JwtBundles).await;
    }

    async fn follow<T: Send + 'static>(
        mut self,
        kind: &'static str,
        answers: &Sender<Answer>,
        open: Open<T>,
        answer: fn(T) -> Answer,
    ) {
        let mut failures = 0;
        loop {
            match self.relay(answers, open, answer, &mut failures).await {
                Ok(()) => return,
                Err(status) => self.pause(kind, &status, &mut failures).await,
            }
        }
    }

    /// Sends what one stream says until nobody listens. The stream's end is an error.
    async fn relay<T: Send + 'static>(
        &mut self,
        answers: &Sender<Answer>,
        open: Open<T>,
        answer: fn(T) -> Answer,
        failures: &mut u32,
    ) -> Result<(), Status> {
        let mut stream = open(&mut self.client).await?.into_inner();
        while let Some(message) = stream.message().await? {
            *failures = 0;
            if answers.send(answer(message)).await.is_err() {
                return Ok(());
            }
        }
        Err(Status::unavailable("the Workload API ended the stream"))
    }

    /// Sends tokens for `audience` as those of file `number`, and new ones at half of what is left of their lives. Ends when
    /// nobody listens.
    pub async fn follow_jwt_svids(mut self, number: usize, audience: Vec<String>, answers: Sender<Answer>) {
        let mut failures = 0;
        loop {
            match self.fetch_jwt_svids(&audience).await {
                Ok(answer) => {
                    failures = 0;
                    let pause = renewal_pause(&answer, self.clock.unix_now());
                    if answers.send(Answer::JwtSvids(number, answer)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(status) => self.pause("jwt_svid", &status, &mut failures).await,
            }
        }
    }

    /// Tokens for `audience`, once.
    ///
    /// # Errors
    ///
    /// What the Workload API said, or nothing for [`DEADLINE`].
    pub async fn fetch_jwt_svids(&mut self, audience: &[String]) -> Result<JwtsvidResponse, Status> {
        let message = JwtsvidRequest { audience: audience.to_vec(), ..JwtsvidRequest::default() };
        let asked = timeout(DEADLINE, self.client.fetch_jwtsvid(request(message))).await;
        Ok(asked.map_err(|_| late())??.into_inner())
    }

    /// The identities, once.
    ///
    /// # Errors
    ///
    /// As [`Source::fetch_jwt_svids`].
    pub async fn fetch_x509(&mut self) -> Result<X509svidResponse, Status> {
        let first = workload_client::first(self.client.fetch_x509svid(request(X509svidRequest {})));
        timeout(DEADLINE, first).await.map_err(|_| late())?
    }

    /// The JWT bundles, once.
    ///
    /// # Errors
    ///
    /// As [`Source::fetch_jwt_svids`].
    pub async fn fetch_jwt_bundles(&mut self) -> Result<JwtBundlesResponse, Status> {
        let first = workload_client::first(self.client.fetch_jwt_bundles(request(JwtBundlesRequest {})));
        timeout(DEADLINE, first).await.map_err(|_| late())?
    }

    /// Waits before the next attempt, after saying why.
    pub(super) async fn pause(&mut self, kind: &'static str, status: &Status, failures: &mut u32) {
        let pause = self.backoff.delay(*failures, self.entropy.fraction());
        *failures = failures.saturating_add(1);
        let (code, error) = (status.code(), status.message());
        match code {
            Code::PermissionDenied => {
                tracing::warn!(kind, error, ?pause, "The agent has no identity for this process yet");
            }
            code => tracing::warn!(
                kind,
                ?code,
                error,
                ?pause,
                "The Workload API does not answer; the files stay as they are"
            ),
        }
        tokio::time::sleep(pause).await;
    }
}

type Client = SpiffeWorkloadApiClient<Channel>;

/// Opens a stream of answers.
type Open<T> =
    for<'c> fn(
        &'c mut Client,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Streaming<T>>, Status>> + Send + 'c>>;

/// Half of what is left of the first token to end, and a second more: at half of its life the agent has a new one.
fn renewal_pause(answer: &JwtsvidResponse, now: i64) -> Duration {
    let ends = answer.svids.iter().filter_map(|svid| JwtSvid::parse_unverified(&svid.svid).ok());
    let left = ends.map(|token| token.expires_at.saturating_sub(now)).min().unwrap_or(0);
    (Duration::from_secs(u64::try_from(left).unwrap_or(0)) / 2 + Duration::from_secs(1))
        .min(MAX_RENEWAL_PAUSE)
}

fn late() -> Status {
    Status::deadline_exceeded(format!("the Workload API did not answer within {DEADLINE:?}"))
}

/// How long one question may take; the agent itself waits for up to 30 s.
const DEADLINE: Duration = Duration::from_secs(40);
/// Longest time before the next attempt.
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// Longest time between two questions for a token: a clock that jumps is noticed.
const MAX_RENEWAL_PAUSE: Duration = Duration::from_secs(3600);
const BACKOFF: Backoff = match Backoff::new(Duration::from_millis(500), MAX_PAUSE) {
    Ok(backoff) => backoff,
    Err(_) => panic!("half a second is less than the longest pause"),
};

#[cfg(test)]
mod tests {
    use vouchsafe_proto::workload::Jwtsvid;

    use super::*;

    #[test]
    fn tokens_are_renewed_at_half_of_what_is_left_and_never_in_a_spin() {
        let of = |svids| JwtsvidResponse { svids };
        assert_eq!(renewal_pause(&of(vec![]), 0), Duration::from_secs(1));
        let garbage = Jwtsvid { svid: "garbage".to_owned(), ..Jwtsvid::default() };
        assert_eq!(renewal_pause(&of(vec![garbage]), 0), Duration::from_secs(1));
        // {"alg":"RS256","kid":"k"} . {"sub":"spiffe://d.test/w","aud":["a"],"exp":1000} . signature
        let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJzdWIiOiJzcGlmZmU6Ly9kLnRlc3QvdyIsImF1ZCI6WyJhIl0sImV4cCI6MTAwMH0.AAAA";
        let given = || of(vec![Jwtsvid { svid: token.to_owned(), ..Jwtsvid::default() }]);
        assert_eq!(renewal_pause(&given(), 700), Duration::from_secs(151));
        assert_eq!(renewal_pause(&given(), 2000), Duration::from_secs(1));
    }
}
