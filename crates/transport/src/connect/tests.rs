use std::convert::Infallible;

use http::{Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::ServiceExt;
use vouchsafe_runtime::entropy::Entropy;

use super::*;
use crate::grpc::{Options, serve};
use crate::listener::Listener;
use crate::tls::tests::configs;
use crate::tls::{Limits, TlsListener, TlsPeer};
use crate::unix::UnixListener;

fn start(listener: impl Listener + 'static) -> (CancellationToken, JoinSet<()>) {
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let token = cancel.clone();
    tasks.spawn(async move {
        let service = service_fn(|request: Request<Body>| async move {
            let mut response = tonic::Status::ok("").into_http::<Body>();
            if let Some(peer) = request.extensions().get::<TlsPeer>() {
                assert!(peer.svid.is_none());
                response.headers_mut().insert("x-tls", http::HeaderValue::from_static("yes"));
            }
            Ok::<Response<Body>, Infallible>(response)
        });
        serve(listener, service, token, Options::default(), Entropy::from_seed(1)).await;
    });
    (cancel, tasks)
}

async fn call(channel: &Channel) -> Result<Response<Body>, tonic::transport::Error> {
    channel.clone().oneshot(Request::post("/a.B/C").body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_channel_survives_a_restart_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let lazy = uds_channel_lazy(&path);
    assert!(call(&lazy).await.is_err(), "nobody listens yet");
    for _ in 0..2 {
        let (cancel, mut tasks) = start(UnixListener::bind(&path, 0o700, 0o700).unwrap());
        assert!(uds_channel(&path).await.is_ok());
        assert_eq!(call(&lazy).await.unwrap().headers()["grpc-status"], "0");
        cancel.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }
    let error = uds_channel(&path).await.unwrap_err().to_string();
    assert_eq!(error, format!("cannot connect to {}", path.display()));
}

#[tokio::test]
async fn a_channel_over_tls_reaches_the_server() {
    let (server, client) = configs();
    let listener = TlsListener::bind(([127, 0, 0, 1], 0).into(), server, Limits::default()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _serving = start(listener);
    let channel = tls_channel(&format!("localhost:{port}"), client).unwrap();
    assert_eq!(call(&channel).await.unwrap().headers()["x-tls"], "yes");
}

#[tokio::test]
async fn an_address_must_be_host_and_port() {
    let (_, client) = configs();
    for good in ["localhost:8081", "10.0.0.1:8081", "[::1]:8081"] {
        assert!(tls_channel(good, client.clone()).is_ok(), "{good}");
    }
    for bad in
        ["", "localhost", ":8081", "localhost:", "localhost:http", "localhost:99999", "a b:1", "https://a:1"]
    {
        let error = tls_channel(bad, client.clone()).unwrap_err();
        assert!(matches!(&error, Error::Address { address } if address == bad), "{error}");
    }
}

#[tokio::test]
async fn an_address_that_says_nothing_does_not_keep_us_from_the_next() {
    // A socket whose backlog is full: the kernel drops further attempts, as a dead host would.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let silent = dead.local_addr().unwrap();
    let _dead = dead.listen(0).unwrap();
    let mut filling = JoinSet::new();
    (0..8).for_each(|_| drop(filling.spawn(async move { TcpStream::connect(silent).await })));
    let mut kept = Vec::new();
    let fill = async {
        while let Some(connected) = filling.join_next().await {
            kept.push(connected);
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(300), fill).await.is_err());

    let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = alive.local_addr().unwrap();
    let closed = SocketAddr::from(([127, 0, 0, 1], 1));
    let network = Network::default();
    let connected = connect_to_any(&network, vec![silent, closed, silent, address]);
    let connected = tokio::time::timeout(Duration::from_secs(5), connected).await.unwrap().unwrap();
    let Socket::Tcp(tcp) = connected else { panic!("{connected:?}") };
    assert_eq!(tcp.peer_addr().unwrap(), address);
    assert!(tcp.nodelay().unwrap());
    let refused = connect_to_any(&network, vec![closed]).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
