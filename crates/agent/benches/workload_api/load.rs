//! The clients.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use vouchsafe_proto::workload as api;
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_transport::connect::uds_channel;

/// Whom the tokens are for.
pub(crate) const AUDIENCE: &str = "bench";

#[derive(Clone, Copy)]
pub(crate) enum Method {
    X509,
    Jwt,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X509 => "FetchX509SVID",
            Self::Jwt => "FetchJWTSVID",
        }
    }

    async fn call(self, client: &mut SpiffeWorkloadApiClient<Channel>) {
        match self {
            Self::X509 => {
                let request = with_header(api::X509svidRequest {});
                let mut stream = client.fetch_x509svid(request).await.unwrap().into_inner();
                stream.message().await.unwrap().unwrap();
            }
            Self::Jwt => {
                let request =
                    api::JwtsvidRequest { audience: vec![AUDIENCE.into()], spiffe_id: String::new() };
                client.fetch_jwtsvid(with_header(request)).await.unwrap();
            }
        }
    }
}

pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// Calls `method` over the socket for the length of `turn`, and gives the latencies, sorted.
pub(crate) async fn run(
    socket: &Path,
    method: Method,
    in_flight: usize,
    connections: usize,
    turn: Duration,
) -> Vec<Duration> {
    let mut callers = Vec::new();
    for _ in 0..connections {
        let client = SpiffeWorkloadApiClient::new(uds_channel(socket).await.unwrap());
        for _ in 0..in_flight / connections {
            let client = client.clone();
            callers.push(move || {
                let mut client = client.clone();
                async move { method.call(&mut client).await }
            });
        }
    }
    drive(callers, turn).await
}

/// Each of `callers` calls again and again for the length of `turn`. Gives the latencies, sorted.
pub(crate) async fn drive<C, F>(callers: Vec<C>, turn: Duration) -> Vec<Duration>
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut workers = JoinSet::new();
    let end = Instant::now() + turn;
    for call in callers {
        workers.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let start = Instant::now();
                if start >= end {
                    return latencies;
                }
                call().await;
                latencies.push(start.elapsed());
            }
        });
    }
    let mut latencies = workers.join_all().await.concat();
    latencies.sort_unstable();
    latencies
}

/// Of sorted latencies, in microseconds.
pub(crate) fn quantile(latencies: &[Duration], part: f64) -> f64 {
    latencies[(latencies.len() as f64 * part) as usize].as_secs_f64() * 1e6
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
