//! Secret discovery over the agent's socket, with the client that Envoy's API generates.

use tokio_stream::wrappers::UnboundedReceiverStream;
use vouchsafe_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use vouchsafe_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use vouchsafe_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use vouchsafe_types::pem;

use super::support::*;

type Client = SecretDiscoveryServiceClient<Channel>;

struct Subscribed {
    requests: tokio::sync::mpsc::UnboundedSender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Subscribed {
    async fn to(client: &mut Client, names: &[&str]) -> Result<Self, Status> {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        requests.send(request(names)).unwrap();
        let responses = client.stream_secrets(UnboundedReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        let next = timeout(SOON, self.responses.message()).await.expect("a message in time");
        next.map(|response| response.expect("the stream goes on"))
    }

    fn takes(&self, response: &DiscoveryResponse, names: &[&str]) {
        let request = DiscoveryRequest {
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            ..request(names)
        };
        self.requests.send(request).unwrap();
    }
}

fn request(names: &[&str]) -> DiscoveryRequest {
    let type_url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret".to_owned();
    let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
    DiscoveryRequest { type_url, resource_names, ..DiscoveryRequest::default() }
}

async fn sds(config: &Config) -> Client {
    SecretDiscoveryServiceClient::new(uds_channel(&config.socket_path).await.unwrap())
}

/// The certificate of the only secret, after it was checked that the key is its own.
fn certificate(response: &DiscoveryResponse) -> X509Svid {
    use prost::Message;
    assert_eq!(response.resources.len(), 1);
    let secret = tls::Secret::decode(response.resources[0].value.as_slice()).unwrap();
    let Some(tls::secret::Type::TlsCertificate(pair)) = secret.r#type else { panic!("{:?}", secret.name) };
    let blocks = |source: Option<vouchsafe_proto::envoy::config::core::v3::DataSource>| {
        pem::parse(&source.unwrap().inline_bytes).unwrap()
    };
    let chain = blocks(pair.certificate_chain).iter().map(|block| Arc::from(block.der.as_slice())).collect();
    let svid = X509Svid::parse(chain).unwrap();
    let key = vouchsafe_ca::key::PrivateKey::from_pkcs8(&blocks(pair.private_key)[0].der).unwrap();
    let leaf = vouchsafe_types::certificate::Certificate::parse(&svid.chain[0]).unwrap();
    assert_eq!(vouchsafe_ca::signer::Signer::public_key_der(&key), leaf.public_key_der);
    svid
}

fn world_config(world: &World) -> Config {
    world.config(world.server.as_ref().unwrap().address.to_string())
}

#[tokio::test]
async fn a_stream_brings_certificate_and_key_and_each_renewal_without_a_security_header() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let mut client = sds(&world_config(&world)).await;
    let mut stream = Subscribed::to(&mut client, &["default"]).await.unwrap();
    let first = stream.next().await.unwrap();
    let before = certificate(&first);
    assert_eq!(before.id.as_str(), "spiffe://example.org/web");
    stream.takes(&first, &["default"]);
    world.fake.put("web", &own_uid(), |entry| entry.dns_names = vec!["web.example.org".to_owned()]);
    let second = stream.next().await.unwrap();
    assert_ne!(certificate(&second).serial, before.serial);
    assert_eq!((first.version_info.as_str(), second.version_info.as_str()), ("1", "2"));
    assert_ne!(first.nonce, second.nonce);

    stream.takes(&second, &["ROOTCA"]);
    let roots = stream.next().await.unwrap();
    assert_eq!((roots.version_info.as_str(), roots.resources.len()), ("2", 1));
    let rendered = agent.registry.render();
    assert!(rendered.contains("spire_agent_sds_api_connections 1\n"), "{rendered}");
    drop(stream);
    let counted = || agent.registry.render().contains("spire_agent_sds_api_connections 0\n");
    eventually("the stream is gone", counted).await;
    let rendered = agent.registry.render();
    assert!(rendered.contains("spire_agent_rpc_sds_v3_stream_secrets"), "{rendered}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn one_request_is_answered_without_a_stream_and_deltas_are_not() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let mut client = sds(&world_config(&world)).await;
    let all = client.fetch_secrets(request(&[])).await.unwrap().into_inner();
    assert_eq!(all.resources.len(), 2, "bundle and SVID");
    assert_eq!((all.version_info.as_str(), all.nonce.as_str()), ("", ""));
    let refused = client.fetch_secrets(request(&["spiffe://example.org/other", "x"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        r#"workload is not authorized for the requested identities ["spiffe://example.org/other" "x"]"#
    );
    let delta = client.delta_secrets(tokio_stream::once(DeltaDiscoveryRequest::default())).await.unwrap_err();
    assert_eq!((delta.code(), delta.message()), (Code::Unimplemented, "Method is not implemented"));
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn an_api_that_is_disabled_is_not_there_and_the_other_is() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start_with(Config { disable_sds_api: true, ..world_config(&world) }).await;
    agent.serving().await;
    let mut client = sds(&world_config(&world)).await;
    assert_eq!(client.fetch_secrets(request(&[])).await.unwrap_err().code(), Code::Unimplemented);
    agent.x509_once().await.unwrap();
    agent.stop().await.unwrap();

    let mut agent = world.start_with(Config { disable_workload_api: true, ..world_config(&world) }).await;
    agent.serving().await;
    let mut client = sds(&world_config(&world)).await;
    client.fetch_secrets(request(&["default"])).await.unwrap();
    assert_eq!(agent.x509_once().await.unwrap_err().code(), Code::Unimplemented);
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn with_both_apis_disabled_there_is_no_socket() {
    let world = World::new().await;
    let config = Config { disable_sds_api: true, disable_workload_api: true, ..world_config(&world) };
    let deps = Deps {
        clock: world.clock.clone(),
        entropy: Entropy::from_seed(7),
        registry: Registry::new("spire_agent", &[]),
        readiness: Readiness::new(world.clock.clone()),
        log_level: LogLevelControl::default(),
        network: vouchsafe_transport::net::Network::default(),
    };
    let mut supervisor = Supervisor::new();
    let mut running = Agent::start(config, deps, &mut supervisor).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = async {
        let serving = running.status.wait_for(|status| status.phase == Phase::Serving);
        timeout(SOON, serving).await.expect("serving in time").expect("the agent lives");
        assert!(!running.socket_path.exists());
        drop(stop);
    };
    let run = supervisor.run(async move { drop(stopped.await) }, Duration::from_secs(5));
    let (ended, ()) = tokio::join!(run, serving);
    ended.unwrap();
}

#[tokio::test]
async fn clients_that_never_read_ask_for_everything_or_never_stop_harm_nobody() {
    let world = World::new().await;
    world.fake.put("web", &own_uid(), |_| ());
    let mut agent = world.start().await;
    agent.serving().await;
    let config = world_config(&world);

    let mut greedy = sds(&config).await;
    let many: Vec<String> = (0..1_000_000).map(|n| n.to_string()).collect();
    let million = DiscoveryRequest { resource_names: many, ..request(&[]) };
    assert_eq!(greedy.fetch_secrets(million).await.unwrap_err().code(), Code::OutOfRange);
    let few: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let refused =
        greedy.fetch_secrets(DiscoveryRequest { resource_names: few, ..request(&[]) }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");

    // Streams that are opened and never read, on one connection, as many as it takes.
    let mut silent = sds(&config).await;
    let mut unread = Vec::new();
    for _ in 0..200 {
        unread.push(Subscribed::to(&mut silent, &["default"]).await.unwrap());
    }
    // One that answers every answer with a flood.
    let mut noisy_client = sds(&config).await;
    let mut noisy = Subscribed::to(&mut noisy_client, &["default"]).await.unwrap();
    let first = noisy.next().await.unwrap();
    for _ in 0..20_000 {
        noisy.takes(&first, &["ROOTCA"]);
        noisy.takes(&first, &["default"]);
    }

    let mut modest_client = sds(&config).await;
    let mut modest = Subscribed::to(&mut modest_client, &["default"]).await.unwrap();
    let before = certificate(&modest.next().await.unwrap());
    world.fake.put("web", &own_uid(), |entry| entry.dns_names = vec!["web.example.org".to_owned()]);
    assert_ne!(certificate(&modest.next().await.unwrap()).serial, before.serial);
    drop((unread, noisy));
    agent.stop().await.unwrap();
}
