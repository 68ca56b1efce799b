//! Sessions over a state that the test edits; no server, no socket, paused time.

use std::collections::HashMap;

use futures_util::FutureExt;
use prost::Message;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Duration, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use vouchsafe_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use vouchsafe_proto::envoy::service::discovery::v3::DiscoveryResponse;
use vouchsafe_proto::google::rpc;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_types::entry::EntryId;

use super::*;
use crate::bundles::Bundles;
use crate::config::Sds;
use crate::metrics::Metrics;
use crate::sds::COMPLAINTS_AT_ONCE;
use crate::sds::resources::tests::{bundle, held, secret_names, secrets};
use crate::workload_api::request::{Api, Connections};
use crate::workload_api::updates::tests::{api, entries, request};

type Open = Session<UnboundedReceiverStream<Result<DiscoveryRequest, Status>>>;

/// Of paused time, so a test that waits for nothing fails at once.
const SOON: Duration = Duration::from_secs(60);

struct Client {
    requests: UnboundedSender<Result<DiscoveryRequest, Status>>,
    session: Open,
    registry: Registry,
}

impl Client {
    async fn of(api: &Arc<Api>) -> Self {
        let registry = Registry::new("spire_agent", &[]);
        let connections = Connections::new(Metrics::new(registry.clone()).sds_api_connections());
        let inner = Arc::new(Inner::new(Arc::clone(api), Sds::default(), connections));
        let known = api.admit_checked(&request()).await.unwrap();
        let (requests, receiver) = unbounded_channel();
        let session = Session::open(inner, Method::Stream, &known, UnboundedReceiverStream::new(receiver));
        Self { requests, session, registry }
    }

    fn says(&self, names: &[&str], version: &str, nonce: &str) {
        let request = DiscoveryRequest {
            version_info: version.to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        };
        self.requests.send(Ok(request)).unwrap();
    }

    async fn hears(&mut self) -> DiscoveryResponse {
        let response = timeout(SOON, self.session.next()).await.expect("an answer in time");
        DiscoveryResponse::decode(response.unwrap().unwrap()).unwrap()
    }

    async fn ends(&mut self) -> Status {
        let ended = timeout(SOON, self.session.next()).await.expect("an end in time");
        let status = ended.unwrap().unwrap_err();
        assert!(self.session.next().await.is_none());
        status
    }

    fn hears_nothing(&mut self) {
        assert!(self.session.next().now_or_never().is_none());
    }
}

fn issue(api: &Api, ids: &[(&str, i64, u8)]) {
    api.identities.edit(|snapshot| {
        let mut svids: HashMap<_, _> = (*snapshot.svids).clone();
        svids.extend(
            ids.iter().map(|(id, end, serial)| (EntryId::parse(id).unwrap(), held(id, *end, *serial))),
        );
        snapshot.svids = Arc::new(svids);
        true
    });
}

fn trust(api: &Api, authority: u8) {
    api.identities.edit(|snapshot| {
        snapshot.bundles = Some(Arc::new(Bundles::of(bundle("example.org", authority))));
        true
    });
}

/// The serials of certificate and key in the first secret.
fn pair(response: &DiscoveryResponse) -> (u8, u8) {
    let Some(Type::TlsCertificate(pair)) = secrets(response)[0].r#type.clone() else {
        panic!("no certificate")
    };
    let der = |source: Option<vouchsafe_proto::envoy::config::core::v3::DataSource>| {
        vouchsafe_types::pem::parse(&source.unwrap().inline_bytes).unwrap()[0].der.to_vec()
    };
    (*der(pair.certificate_chain).last().unwrap(), *der(pair.private_key).last().unwrap())
}

#[tokio::test(start_paused = true)]
async fn each_rotation_is_pushed_as_one_matching_pair_with_the_next_version() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let mut client = Client::of(&api).await;
    client.hears_nothing();
    client.says(&["default"], "", "");
    for serial in 1..=5 {
        let response = client.hears().await;
        assert_eq!(pair(&response), (serial, serial));
        assert_eq!(response.version_info, serial.to_string());
        client.says(&["default"], &response.version_info, &response.nonce);
        client.hears_nothing();
        issue(&api, &[("a", 10_000, serial + 1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_bundle_goes_to_those_who_asked_for_it_and_to_nobody_else() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let (mut certificate, mut roots) = (Client::of(&api).await, Client::of(&api).await);
    certificate.says(&["default"], "", "");
    roots.says(&["ROOTCA"], "", "");
    certificate.hears().await;
    roots.hears().await;
    trust(&api, 9);
    certificate.hears_nothing();
    assert_eq!(secret_names(&roots.hears().await), ["ROOTCA"]);
    issue(&api, &[("a", 10_000, 2)]);
    roots.hears_nothing();
    assert_eq!(pair(&certificate.hears().await), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_waited_for_and_counts_as_wanted() {
    let api = api();
    entries(&api, &["a"]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    client.hears_nothing();
    api.identities.asked().await;
    assert_eq!(api.identities.load().index.get("a").unwrap().usage.streams(), 1);
    issue(&api, &[("a", 10_000, 1)]);
    assert_eq!(pair(&client.hears().await), (1, 1));
    drop(client);
    assert_eq!(api.identities.load().index.get("a").unwrap().usage.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_does_not_come_is_unavailable_in_the_end() {
    let api = api();
    entries(&api, &["a"]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    let start = Instant::now();
    assert_eq!(client.ends().await.code(), tonic::Code::Unavailable);
    assert_eq!(start.elapsed(), FIRST_ANSWER_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_ended_is_not_taken_away() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    client.hears().await;
    issue(&api, &[("a", 1, 2)]);
    client.hears_nothing();
    tokio::time::advance(2 * FIRST_ANSWER_DEADLINE).await;
    client.hears_nothing();
    issue(&api, &[("a", 20_000, 3)]);
    assert_eq!(pair(&client.hears().await), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_identity_gets_no_certificate() {
    let api = api();
    entries(&api, &[]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    let status = client.ends().await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.message(), r#"workload is not authorized for the requested identities ["default"]"#);
    // What it may have is what everybody may: the authorities of the trust domain.
    let mut client = Client::of(&api).await;
    client.says(&[], "", "");
    assert_eq!(secret_names(&client.hears().await), ["spiffe://example.org"]);
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_withdrawn_ends_the_stream() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let mut client = Client::of(&api).await;
    client.says(&["spiffe://example.org/a"], "", "");
    client.hears().await;
    entries(&api, &[]);
    assert_eq!(client.ends().await.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gets_the_newest_and_nothing_before() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    let first = client.hears().await;
    for serial in 2..=200 {
        issue(&api, &[("a", 10_000, serial)]);
        client.says(&["default"], "1", &first.nonce);
    }
    let newest = client.hears().await;
    assert_eq!((pair(&newest), newest.version_info.as_str()), ((200, 200), "2"));
    client.hears_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_complains_without_end_is_answered_once() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    let first = client.hears().await;
    for round in 0..5_000 {
        client.says(&["default"], "1", "another nonce");
        let detail = rpc::Status { message: "no".repeat(round), ..rpc::Status::default() };
        let nack = DiscoveryRequest {
            resource_names: vec!["default".to_owned()],
            response_nonce: first.nonce.clone(),
            error_detail: Some(detail),
            ..DiscoveryRequest::default()
        };
        client.requests.send(Ok(nack)).unwrap();
    }
    client.hears_nothing();
    issue(&api, &[("a", 10_000, 2)]);
    assert_eq!(pair(&client.hears().await), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_complains_without_end_is_not_logged_without_end() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let mut client = Client::of(&api).await;
    client.says(&["default"], "", "");
    let first = client.hears().await;
    let complain = |client: &mut Client, times| {
        for _ in 0..times {
            // It takes the answer and complains nevertheless.
            let nack = DiscoveryRequest {
                resource_names: vec!["default".to_owned()],
                version_info: first.version_info.clone(),
                response_nonce: first.nonce.clone(),
                error_detail: Some(rpc::Status::default()),
                ..DiscoveryRequest::default()
            };
            client.requests.send(Ok(nack)).unwrap();
        }
        client.hears_nothing();
    };
    let (pid, inner) = (client.session.pid, Arc::clone(&client.session.inner));
    complain(&mut client, COMPLAINTS_AT_ONCE - 1);
    assert!(inner.may_complain(pid), "a few are worth reading");
    complain(&mut client, 100);
    assert!(!inner.may_complain(pid), "many are not");
    assert!(inner.may_complain(pid + 1), "another process is another matter");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(inner.may_complain(pid), "later it is heard again");
}

#[tokio::test(start_paused = true)]
async fn a_request_for_a_million_names_is_refused_in_few_words() {
    let api = api();
    entries(&api, &["a"]);
    let mut client = Client::of(&api).await;
    let names: Vec<String> = (0..1_000_000).map(|n| n.to_string()).collect();
    client
        .requests
        .send(Ok(DiscoveryRequest { resource_names: names, ..DiscoveryRequest::default() }))
        .unwrap();
    let status = client.ends().await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().len() < 8_000, "{} bytes", status.message().len());
}

#[tokio::test(start_paused = true)]
async fn streams_are_counted_and_end_with_their_client_or_the_agent() {
    let api = api();
    entries(&api, &["a"]);
    issue(&api, &[("a", 10_000, 1)]);
    let Client { requests, mut session, registry } = Client::of(&api).await;
    let shown = |registry: &Registry| registry.render();
    assert!(shown(&registry).contains("spire_agent_sds_api_connections 1\n"), "{}", shown(&registry));
    drop(requests);
    assert!(session.next().await.is_none());
    drop(session);
    let text = shown(&registry);
    assert!(
        text.contains("spire_agent_sds_api_connections 0\n")
            && text.contains("spire_agent_sds_api_connection 1\n")
    );

    let mut client = Client::of(&api).await;
    api.identities.close();
    assert_eq!(client.ends().await.code(), tonic::Code::Unavailable);
}
