//! Answers every unary call on a Unix socket with the request's bytes, as a peer for foreign gRPC clients.
//!
//! ```text
//! cargo run -p vouchsafe-transport --example unix_echo -- /tmp/echo.sock
//! python3 -c "import grpc; print(grpc.insecure_channel('unix:/tmp/echo.sock').unary_unary('/a.B/C')(b'hello'))"
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::path::Path;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::service_fn;
use vouchsafe_runtime::entropy::Entropy;
use vouchsafe_transport::grpc::{Options, serve};
use vouchsafe_transport::peer::PeerProcess;
use vouchsafe_transport::unix::UnixListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: unix_echo SOCKET")?;
    let listener = UnixListener::bind(Path::new(&path), 0o777, 0o755)?;
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let _interrupted = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    let drained = serve(listener, service_fn(echo), cancel, Options::unix(), Entropy::from_seed(1)).await;
    println!("{drained:?}");
    Ok(())
}

async fn echo(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    println!("{} from {:?}", request.uri(), request.extensions().get::<PeerProcess>());
    let data = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(status) => return Ok(status.into_http()),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = http_body_util::Full::new(data).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
