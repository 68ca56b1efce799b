use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{ServiceExt, service_fn};

use super::*;

type BoxBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

const PATH: &str = "/spire.api.server.agent.v1.Agent/AttestAgent";

fn trailers(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static(code));
    trailers
}

fn with_trailers(code: &'static str) -> Response<BoxBody> {
    let data = Full::new(Bytes::from_static(b"data"));
    Response::new(data.with_trailers(async move { Some(Ok(trailers(code))) }).boxed_unsync())
}

fn trailers_only(code: &'static str) -> Response<BoxBody> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.headers_mut() = trailers(code);
    response
}

struct Fixture {
    registry: Registry,
    metrics: RpcMetrics,
}

impl Fixture {
    fn new() -> Self {
        let registry = Registry::new("spire_server", &[]);
        Self { metrics: RpcMetrics::new(registry.clone()), registry }
    }

    async fn call(&self, path: &str, respond: fn() -> Response<BoxBody>) -> Response<CountedBody<BoxBody>> {
        let service = service_fn(move |_| async move { Ok::<_, Infallible>(respond()) });
        self.metrics.layer(service).oneshot(Request::post(path).body(()).unwrap()).await.unwrap()
    }

    /// The counters, without the summaries.
    fn counted(&self) -> Vec<String> {
        let rendered = self.registry.render();
        let counters = rendered.lines().filter(|line| line.contains("_rpc_") && !line.starts_with('#'));
        counters.filter(|line| !line.contains("elapsed_time")).map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn an_rpc_is_counted_by_its_trailers_when_its_stream_ends() {
    let fixture = Fixture::new();
    for code in [(|| with_trailers("0")) as fn() -> _, || with_trailers("7"), || with_trailers("0")] {
        let mut response = fixture.call(PATH, code).await;
        let before = fixture.counted().len();
        while let Some(frame) = response.body_mut().frame().await {
            drop(frame);
        }
        drop(response);
        assert!(fixture.counted().len() >= before);
    }
    assert_eq!(
        fixture.counted(),
        [
            "spire_server_rpc_agent_v1_agent_attest_agent{status=\"OK\"} 2",
            "spire_server_rpc_agent_v1_agent_attest_agent{status=\"PermissionDenied\"} 1",
        ]
    );
    assert!(
        fixture
            .registry
            .render()
            .contains("spire_server_rpc_agent_v1_agent_attest_agent_elapsed_time_count{")
    );
}

#[tokio::test]
async fn a_stream_is_not_counted_before_it_ends() {
    let fixture = Fixture::new();
    let endless = || {
        let frames = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        Response::new(StreamBody::new(frames).boxed_unsync())
    };
    fixture.metrics.announce([PATH]);
    let response = fixture.call(PATH, endless).await;
    assert_eq!(fixture.counted(), [""; 0]);
    drop(response);
    assert_eq!(fixture.counted(), ["spire_server_rpc_agent_v1_agent_attest_agent{status=\"Canceled\"} 1"]);
}

#[tokio::test]
async fn an_answer_without_a_body_is_counted_by_its_headers_and_once() {
    let fixture = Fixture::new();
    drop(fixture.call(PATH, || trailers_only("14")).await.into_body().collect().await);
    drop(fixture.call(PATH, || trailers_only("99")).await);
    assert_eq!(
        fixture.counted(),
        [
            "spire_server_rpc_agent_v1_agent_attest_agent{status=\"Unavailable\"} 1",
            "spire_server_rpc_agent_v1_agent_attest_agent{status=\"Unknown\"} 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_before_its_answer_is_cancelled() {
    let fixture = Fixture::new();
    fixture.metrics.announce([PATH]);
    let never = service_fn(|_| std::future::pending::<Result<Response<BoxBody>, Infallible>>());
    let call = fixture.metrics.layer(never).oneshot(Request::post(PATH).body(()).unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(250), call).await.is_err());
    assert_eq!(fixture.counted(), ["spire_server_rpc_agent_v1_agent_attest_agent{status=\"Canceled\"} 1"]);
    let sum = "spire_server_rpc_agent_v1_agent_attest_agent_elapsed_time_sum{status=\"Canceled\"} 25";
    assert!(fixture.registry.render().contains(sum), "elapsed time is in milliseconds");
}

#[tokio::test]
async fn made_up_paths_leave_no_trace() {
    let fixture = Fixture::new();
    for made_up in 0..1000 {
        drop(fixture.call(&format!("/x.Y/Z{made_up}"), || trailers_only("12")).await);
    }
    assert_eq!(fixture.counted(), [""; 0]);
    assert!(fixture.metrics.shared.methods.load().is_empty());
    fixture.metrics.announce([PATH]);
    drop(fixture.call(PATH, || trailers_only("12")).await);
    assert_eq!(
        fixture.counted(),
        ["spire_server_rpc_agent_v1_agent_attest_agent{status=\"Unimplemented\"} 1"]
    );
}

#[tokio::test]
async fn the_number_of_methods_is_bounded() {
    let fixture = Fixture::new();
    for method in 0..MAX_METHODS + 10 {
        drop(fixture.call(&format!("/x.Y/Z{method}"), || trailers_only("0")).await);
    }
    assert_eq!(fixture.metrics.shared.methods.load().len(), MAX_METHODS);
}

#[test]
fn status_names_are_those_of_grpc_in_order() {
    assert_eq!(STATUS_NAMES[usize::from(UNAUTHENTICATED)], "Unauthenticated");
    assert_eq!(STATUS_NAMES[usize::from(UNIMPLEMENTED)], "Unimplemented");
    assert_eq!(STATUS_NAMES[tonic::Code::ResourceExhausted as usize], "ResourceExhausted");
    assert_eq!(STATUS_NAMES[tonic::Code::Internal as usize], "Internal");
    assert_eq!(STATUS_NAMES[tonic::Code::DataLoss as usize], "DataLoss");
}

impl Fixture {
    /// The count of each series of the histogram `name`.
    fn timed(&self, name: &str) -> Vec<String> {
        let (rendered, prefix) = (self.registry.render(), format!("spire_server_{name}_count"));
        let lines = rendered.lines().filter_map(|line| line.strip_prefix(&prefix));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_timed_method_is_timed_until_its_first_answer_and_no_other_is() {
    const STREAM: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
    let fixture = Fixture::new();
    fixture.metrics.announce_timed("api_seconds", [STREAM]);
    fixture.metrics.announce([PATH]);
    let mut open = fixture.call(STREAM, || with_trailers("7")).await;
    assert!(fixture.timed("api_seconds").is_empty(), "nothing was answered yet");
    assert!(open.body_mut().frame().await.unwrap().unwrap().is_data());
    assert_eq!(fixture.timed("api_seconds"), ["{method=\"FetchX509SVID\",status=\"OK\"} 1"]);
    drop(open);
    drop(fixture.call(STREAM, || trailers_only("7")).await);
    drop(fixture.call(STREAM, || with_trailers("0")).await);
    drop(fixture.call(PATH, || trailers_only("0")).await);
    assert_eq!(
        fixture.timed("api_seconds"),
        [
            "{method=\"FetchX509SVID\",status=\"Canceled\"} 1",
            "{method=\"FetchX509SVID\",status=\"OK\"} 1",
            "{method=\"FetchX509SVID\",status=\"PermissionDenied\"} 1",
        ]
    );
}
