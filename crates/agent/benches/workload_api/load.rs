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

use crate::held::AUDIENCE;

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

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// Calls `method` for the length of `turn`, and gives the latencies, sorted.
pub(crate) async fn run(
    socket: &Path,
    method: Method,
    in_flight: usize,
    connections: usize,
    turn: Duration,
) -> Vec<Duration> {
    let mut workers = JoinSet::new();
    let end = Instant::now() + turn;
    for _ in 0..connections {
        let client = SpiffeWorkloadApiClient::new(uds_channel(socket).await.unwrap());
        for _ in 0..in_flight / connections {
            let mut client = client.clone();
            workers.spawn(async move {
                let mut latencies = Vec::new();
                loop {
                    let start = Instant::now();
                    if start >= end {
                        return latencies;
                    }
                    method.call(&mut client).await;
                    latencies.push(start.elapsed());
                }
            });
        }
    }
    let mut latencies = workers.join_all().await.concat();
    latencies.sort_unstable();
    latencies
}
