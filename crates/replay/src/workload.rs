//! The process that asks for SVIDs, as workloads do.
//!
//! It reads its [`Job`] from the first line of standard input, and writes one [`Event`] a line. Each request comes from
//! a connection of its own, and its deadline covers the connection too. It ends when its standard input does, so it
//! never outlives who started it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Request, Status};
use vouchsafe_proto::workload as api;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::connect::uds_channel;

use crate::error::Error;
use crate::process::wait_until;

mod svids;
mod watch;

/// First argument of this mode.
pub(crate) const COMMAND: &str = "workload";

/// What to ask whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Job {
    pub(crate) targets: Vec<Target>,
    pub(crate) asks: Vec<Asking>,
    /// Of each request, its connection included.
    pub(crate) deadline_ms: u64,
    /// A request that fails because nobody listens, or because its connection was lost, is repeated until its deadline.
    pub(crate) reconnect: bool,
}

/// An agent's socket, and the SPIFFE ID that is to be had there.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Target {
    pub(crate) socket: PathBuf,
    pub(crate) id: String,
}

/// Something that each target is asked, again and again.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Asking {
    pub(crate) ask: Ask,
    /// 0: once.
    pub(crate) period_ms: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Ask {
    /// X.509-SVIDs, of which the first message is enough.
    X509,
    /// A JWT-SVID for an audience that was asked for before.
    HeldJwt,
    /// A JWT-SVID for an audience that nobody has asked for.
    NewJwt,
    /// A stream of X.509-SVIDs that stays open. An event for each message.
    Watch,
}

/// What came of a request, or a message of a stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Event {
    pub(crate) ask: Ask,
    /// Place in [`Job::targets`].
    pub(crate) target: usize,
    /// Unix time in microseconds: when the request began; of a stream's message, when it came.
    pub(crate) at: u64,
    /// How long the request took, in microseconds.
    pub(crate) took: u64,
    /// Usable X.509-SVIDs in the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) count: usize,
    /// SPIFFE IDs that this stream had not brought before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) new: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Does the job of standard input.
pub(crate) async fn run() {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    if input.read_line(&mut line).await.is_err() {
        return;
    }
    let Ok(job) = serde_json::from_str::<Job>(&line) else { return };
    let (events, queue) = mpsc::channel(EVENTS);
    let mut tasks = JoinSet::new();
    for asking in job.asks.iter().copied() {
        for number in 0..job.targets.len() {
            let asker = Asker { job: job.clone_for(number), number, asking, events: events.clone() };
            tasks.spawn(asker.run(number, job.targets.len()));
        }
    }
    tasks.spawn(write(queue));
    // Nothing more is said there; it ends when the other side does.
    input.read_to_end(&mut Vec::new()).await.ok();
}

async fn write(mut queue: mpsc::Receiver<Event>) {
    let mut output = tokio::io::stdout();
    while let Some(event) = queue.recv().await {
        let Ok(mut line) = serde_json::to_vec(&event) else { return };
        line.push(b'\n');
        if output.write_all(&line).await.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}

impl Job {
    fn clone_for(&self, number: usize) -> OneJob {
        OneJob {
            target: self.targets[number].clone(),
            deadline: Duration::from_millis(self.deadline_ms),
            reconnect: self.reconnect,
        }
    }
}

/// A [`Job`] on one target.
struct OneJob {
    target: Target,
    deadline: Duration,
    reconnect: bool,
}

/// Asks one target for one thing.
struct Asker {
    job: OneJob,
    number: usize,
    asking: Asking,
    events: mpsc::Sender<Event>,
}

impl Asker {
    /// Targets ask at places of their own in the period, so that the load is even.
    async fn run(self, place: usize, of: usize) {
        if self.asking.ask == Ask::Watch {
            return watch::run(&self.job.target, self.number, &self.events).await;
        }
        let period = Duration::from_millis(self.asking.period_ms);
        if period == Duration::ZERO {
            self.once(0).await;
            return;
        }
        let first = period * u32::try_from(place).unwrap_or(0) / u32::try_from(of).unwrap_or(1);
        let mut ticks = interval_at(Instant::now() + first, period);
        for turn in 0.. {
            ticks.tick().await;
            if self.once(turn).await.is_none() {
                return;
            }
        }
    }

    /// `None` when nobody listens any more.
    async fn once(&self, turn: u64) -> Option<()> {
        let (at, began) = (unix_micros(), Instant::now());
        let deadline = began + self.job.deadline;
        let answer = timeout_at(deadline, self.until_answered(turn, deadline)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(Failure::Status(Status::deadline_exceeded("no answer in time"))));
        let (count, error) = match answer {
            Ok(count) => (count, None),
            Err(failure) => (0, Some(failure.text())),
        };
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let event =
            Event { ask: self.asking.ask, target: self.number, at, took, count, new: Vec::new(), error };
        self.events.send(event).await.ok()
    }

    async fn until_answered(&self, turn: u64, deadline: Instant) -> Result<usize, Failure> {
        loop {
            let answer = self.answer(turn).await;
            match answer {
                Err(failure)
                    if self.job.reconnect && failure.is_lost() && Instant::now() + RECONNECT < deadline =>
                {
                    sleep(RECONNECT).await;
                }
                answer => return answer,
            }
        }
    }

    async fn answer(&self, turn: u64) -> Result<usize, Failure> {
        let mut client = client(&self.job.target.socket).await?;
        let audience = match self.asking.ask {
            Ask::X509 | Ask::Watch => {
                let answer = client.fetch_x509svid(with_header(api::X509svidRequest {})).await?;
                let message = answer.into_inner().message().await?;
                let message = message.ok_or_else(|| Status::internal("the stream ended"))?;
                return svids::usable(&message, &self.job.target.id, unix_secs()).map_err(Failure::Wrong);
            }
            Ask::HeldJwt => "held".to_owned(),
            Ask::NewJwt => format!("new-{}-{turn}", std::process::id()),
        };
        let request = api::JwtsvidRequest { audience: vec![audience], spiffe_id: self.job.target.id.clone() };
        let answer = client.fetch_jwtsvid(with_header(request)).await?.into_inner();
        svids::usable_token(&answer, &self.job.target.id, unix_secs()).map_err(Failure::Wrong)?;
        Ok(0)
    }
}

/// The private keys (PKCS #8) of the SVIDs that this process itself gets at `socket`, when there are `count` of them.
pub(crate) async fn private_keys(socket: &Path, count: usize) -> Result<Vec<Vec<u8>>, Error> {
    let patience = Duration::from_secs(30);
    wait_until("this program has its SVIDs", patience, async || {
        let Ok(mut client) = client(socket).await else { return Ok(None) };
        let Ok(answer) = client.fetch_x509svid(with_header(api::X509svidRequest {})).await else {
            return Ok(None);
        };
        let message = answer.into_inner().message().await.ok().flatten();
        let keys = message.map(|message| message.svids.into_iter().map(|svid| svid.x509_svid_key.to_vec()));
        Ok(keys.map(Iterator::collect).filter(|keys: &Vec<_>| keys.len() == count))
    })
    .await
}

/// Why a request has no good answer.
#[derive(Debug)]
enum Failure {
    Connect(String),
    Status(Status),
    /// An answer came, and is not what was asked for.
    Wrong(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl Failure {
    /// Nobody listened, or the connection broke: the agent is not there.
    fn is_lost(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            // Statuses that the transport made have a source; those of a server have none.
            Self::Status(status) => std::error::Error::source(status).is_some(),
            Self::Wrong(_) => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Connect(text) | Self::Wrong(text) => text.clone(),
            Self::Status(status) => format!("{:?}: {}", status.code(), status.message()),
        }
    }
}

async fn client(socket: &Path) -> Result<SpiffeWorkloadApiClient<Channel>, Failure> {
    let channel = uds_channel(socket).await.map_err(|error| Failure::Connect(error.to_string()))?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MESSAGE))
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

/// Now.
pub(crate) fn unix_micros() -> u64 {
    let since = Clock::system().now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn unix_secs() -> i64 {
    Clock::system().unix_now()
}

/// Between attempts to connect.
const RECONNECT: Duration = Duration::from_millis(50);
/// Events that wait to be read. When there are more, the process asks no more until they are.
const EVENTS: usize = 4_096;
/// 700 SVIDs, with a bundle beside each.
const MESSAGE: usize = 32 * 1024 * 1024;
