//! A gRPC server on a Unix socket that answers by path.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;
use tonic::service::Routes;

/// The answer to a call: messages of a stream, or the one of a unary call.
pub(crate) type Answer = Result<Vec<Vec<u8>>, Status>;

/// One message.
pub(crate) fn one(message: &impl Message) -> Answer {
    Ok(vec![message.encode_to_vec()])
}

/// A call that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) message: Bytes,
    pub(crate) security_header: bool,
}

pub(crate) struct Fake {
    directory: tempfile::TempDir,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    /// Starts a server that answers with `answer(path, request)`.
    pub(crate) fn start(answer: impl Fn(&str, Bytes) -> Answer + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let calls = Arc::new(Mutex::new(Vec::new()));
        let service = Service { answer: Arc::new(answer), calls: Arc::clone(&calls) };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::bind(path).unwrap();
                ready.send(()).unwrap();
                let routes = Routes::from(Routes::default().into_axum_router().fallback_service(service));
                let server = tonic::transport::Server::builder().add_routes(routes);
                tokio::select! {
                    served = server.serve_with_incoming(UnixListenerStream::new(listener)) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self { directory, calls, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    /// The calls so far, oldest first.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The last request to a path that ends so.
    pub(crate) fn last<M: Message + Default>(&self, path: &str) -> M {
        let calls = self.calls();
        let call = calls
            .iter()
            .rev()
            .find(|call| call.path.ends_with(path))
            .unwrap_or_else(|| panic!("no call of {path}"));
        M::decode(call.message.clone()).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

type Answering = dyn Fn(&str, Bytes) -> Answer + Send + Sync;

#[derive(Clone)]
struct Service {
    answer: Arc<Answering>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl<B> tower::Service<http::Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Debug,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let path = head.uri.path().to_owned();
            // A byte for compression and four for the length come before the message.
            let message = body.slice(5.min(body.len())..);
            let security_header = head.headers.get("workload.spiffe.io").is_some_and(|value| value == "true");
            service.calls.lock().unwrap().push(Call {
                path: path.clone(),
                message: message.clone(),
                security_header,
            });
            let messages = match (service.answer)(&path, message) {
                Ok(messages) => messages,
                Err(status) => return Ok(status.into_http()),
            };
            let mut framed = BytesMut::new();
            for message in messages {
                framed.put_u8(0);
                framed.put_u32(u32::try_from(message.len()).unwrap());
                framed.put_slice(&message);
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let body = Full::new(framed.freeze()).with_trailers(async move { Some(Ok(trailers)) });
            let response = http::Response::builder().header("content-type", "application/grpc");
            Ok(response.body(tonic::body::Body::new(body)).unwrap())
        })
    }
}
