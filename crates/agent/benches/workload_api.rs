//! Requests per second of the Workload API for what is held, next to an empty tonic handler behind the same listener,
//! the same metrics layer and the same client. `cargo bench -p vouchsafe-agent`.

#![allow(clippy::unwrap_used, reason = "a benchmark")]

use std::collections::HashSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tower::ServiceBuilder;
use vouchsafe_agent::attest::Attestors;
use vouchsafe_agent::attest::unix::{UnixAttestor, UnixAttestorConfig};
use vouchsafe_agent::bundles::Bundles;
use vouchsafe_agent::callers::CallerListener;
use vouchsafe_agent::entries::{EntryIndex, WorkloadEntry};
use vouchsafe_agent::identities::{HeldSvid, Identities, secret_bytes};
use vouchsafe_agent::identity_set::IdentitySets;
use vouchsafe_agent::jwt_cache::{CachedToken, JwtCache, Token};
use vouchsafe_agent::jwt_issue::JwtIssuer;
use vouchsafe_agent::metrics::Metrics;
use vouchsafe_agent::rotation::Lifetime;
use vouchsafe_agent::server_client::ServerClient;
use vouchsafe_agent::status::{Phase, StatusBoard};
use vouchsafe_agent::workload_api::WorkloadApi;
use vouchsafe_agent::workload_api::request::{Api, Connections};
use vouchsafe_identity::own::SvidCell;
use vouchsafe_identity::roots::{RootsCell, TrustRoots};
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use vouchsafe_proto::workload::{self as api};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_transport::connect::uds_channel;
use vouchsafe_transport::grpc;
use vouchsafe_transport::rpc_metrics::RpcMetrics;
use vouchsafe_transport::unix::UnixListener;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::selector::Selector;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;
use zeroize::Zeroizing;

const CONNECTIONS: usize = 4;
const IN_FLIGHT_PER_CONNECTION: usize = 8;
const RUN: Duration = Duration::from_secs(4);

fn main() {
    let dir = std::env::temp_dir().join(format!("vouchsafe-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (held, empty) = (dir.join("held.sock"), dir.join("empty.sock"));
    let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cancel = CancellationToken::new();
    {
        let _inside = server.enter();
        serve(&held, Routes::new(WorkloadApi::new(held_api())), &cancel);
        serve(&empty, Routes::new(SpiffeWorkloadApiServer::new(Empty)), &cancel);
    }
    println!("{:<28} {:>10} {:>9} {:>9} {:>8}", "method", "req/s", "p50 µs", "p99 µs", "of empty");
    for (name, method) in [("FetchX509SVID (held)", Method::X509), ("FetchJWTSVID (cached)", Method::Jwt)] {
        let baseline = client.block_on(measure(&empty, method));
        let measured = client.block_on(measure(&held, method));
        print("empty handler", &baseline, &baseline);
        print(name, &measured, &baseline);
    }
    cancel.cancel();
    std::fs::remove_dir_all(&dir).unwrap();
}

fn serve(path: &Path, routes: Routes, cancel: &CancellationToken) {
    let listener = CallerListener(UnixListener::bind(path, 0o600, 0o700).unwrap());
    let layer = RpcMetrics::new(Registry::new("bench", &[]));
    let service = ServiceBuilder::new().layer(layer).service(routes.prepare());
    let served = grpc::serve(listener, service, cancel.clone(), grpc::Options::unix(), Entropy::from_seed(1));
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(served);
}

#[derive(Clone, Copy)]
enum Method {
    X509,
    Jwt,
}

struct Measured {
    per_second: f64,
    latencies: Vec<Duration>,
}

fn print(name: &str, measured: &Measured, baseline: &Measured) {
    let at = |part: f64| measured.latencies[(measured.latencies.len() as f64 * part) as usize].as_micros();
    let share = measured.per_second / baseline.per_second * 100.0;
    println!("{name:<28} {:>10.0} {:>9} {:>9} {share:>7.0}%", measured.per_second, at(0.5), at(0.99));
}

async fn measure(path: &Path, method: Method) -> Measured {
    let mut workers = JoinSet::new();
    let end = Instant::now() + RUN;
    for _ in 0..CONNECTIONS {
        let client = SpiffeWorkloadApiClient::new(uds_channel(path).await.unwrap());
        for _ in 0..IN_FLIGHT_PER_CONNECTION {
            let mut client = client.clone();
            workers.spawn(async move {
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    match method {
                        Method::X509 => {
                            let request = with_header(api::X509svidRequest {});
                            let mut stream = client.fetch_x509svid(request).await.unwrap().into_inner();
                            stream.message().await.unwrap().unwrap();
                        }
                        Method::Jwt => {
                            let request = api::JwtsvidRequest {
                                audience: vec!["bench".into()],
                                spiffe_id: String::new(),
                            };
                            client.fetch_jwtsvid(with_header(request)).await.unwrap();
                        }
                    }
                    latencies.push(start.elapsed());
                }
                latencies
            });
        }
    }
    let mut latencies = Vec::new();
    while let Some(worker) = workers.join_next().await {
        latencies.extend(worker.unwrap());
    }
    latencies.sort_unstable();
    Measured { per_second: latencies.len() as f64 / RUN.as_secs_f64(), latencies }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// One entry for this user, with an SVID and a token of the usual size.
fn held_api() -> Arc<Api> {
    let trust_domain = TrustDomain::parse("example.org").unwrap();
    let (clock, metrics) = (Clock::system(), Metrics::new(Registry::new("bench", &[])));
    let identities = Arc::new(Identities::default());
    let now = clock.unix_now();
    let lifetime = Lifetime::new(now, now + 3600, now, b"bench");
    let entry = entry();
    let svid = HeldSvid {
        spiffe_id: entry.spiffe_id.clone(),
        issued_for: (0, 0),
        chain: Bytes::from(vec![7; 650]),
        key: secret_bytes(Zeroizing::new(vec![7; 138])),
        lifetime,
        authority_key_id: None,
    };
    identities.edit(|snapshot| {
        snapshot.index = Arc::new(EntryIndex::build([entry.clone()], &EntryIndex::default()));
        snapshot.svids = Arc::new([(entry.id.clone(), Arc::new(svid))].into());
        snapshot.bundles = Some(Arc::new(Bundles::of(Bundle::new(trust_domain.clone()))));
        true
    });
    let client = ServerClient::new(
        ("localhost:1".to_owned(), trust_domain.clone()),
        (SvidCell::empty(), RootsCell::new(TrustRoots::new())),
        clock.clone(),
        Entropy::from_seed(1),
    );
    let cache = JwtCache::new(1000);
    let token = Token {
        text: "t".repeat(500).into(),
        spiffe_id: entry.spiffe_id.clone(),
        lifetime,
        key_id: "bench".to_owned(),
    };
    cache.slot(&entry.id, &["bench".to_owned()], now).set(Arc::new(CachedToken::new(token, &entry)));
    let board = StatusBoard::default();
    board.set(|status| status.phase = Phase::Serving);
    Arc::new(Api {
        sets: IdentitySets::default(),
        attestors: Attestors::new(vec![Arc::new(UnixAttestor::new(UnixAttestorConfig::default()))], &metrics),
        jwt: JwtIssuer::new(cache, Arc::new(client), Arc::clone(&identities), clock.clone()),
        identities,
        clock,
        serving: board.serving(),
        trust_domain,
        allow_unauthenticated_verifiers: false,
        allowed_foreign_jwt_claims: HashSet::new(),
        log_selectors: Vec::new(),
        connections: Connections::new(&metrics),
    })
}

fn entry() -> WorkloadEntry {
    WorkloadEntry {
        id: EntryId::parse("bench").unwrap(),
        spiffe_id: SpiffeId::parse("spiffe://example.org/bench").unwrap(),
        selectors: [Selector::parse(&format!("unix:uid:{}", nix::unistd::geteuid())).unwrap()]
            .into_iter()
            .collect(),
        federates_with: Box::default(),
        hint: Box::default(),
        revision_number: 0,
        created_at: 0,
        admin: false,
        downstream: false,
        store_svid: false,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    }
}

/// Answers with nothing, as tonic's generated code does it.
struct Empty;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One message, then silence, as a watch has it.
fn one<T: Default + Send + 'static>() -> Result<Response<Answers<T>>, Status> {
    Ok(Response::new(stream::iter([Ok(T::default())]).chain(stream::pending()).boxed()))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Empty {
    type FetchX509SVIDStream = Answers<api::X509svidResponse>;
    type FetchX509BundlesStream = Answers<api::X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<api::JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<api::WitsvidResponse>;
    type FetchWITBundlesStream = Answers<api::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<api::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        one()
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<api::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        one()
    }

    async fn fetch_jwtsvid(
        &self,
        _: Request<api::JwtsvidRequest>,
    ) -> Result<Response<api::JwtsvidResponse>, Status> {
        Ok(Response::new(api::JwtsvidResponse::default()))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<api::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        one()
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<api::ValidateJwtsvidRequest>,
    ) -> Result<Response<api::ValidateJwtsvidResponse>, Status> {
        Ok(Response::new(api::ValidateJwtsvidResponse::default()))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<api::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        one()
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<api::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        one()
    }
}
