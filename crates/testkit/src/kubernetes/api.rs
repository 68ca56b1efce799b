//! Requests to the API server without a client library: one connection each.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// How a server is reached.
pub(super) struct Api {
    port: u16,
    tls: Arc<ClientConfig>,
    token: &'static str,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body; text as a JSON string.
    pub body: Value,
}

impl Answer {
    /// The body of an answer that is not an error.
    ///
    /// # Panics
    ///
    /// When it is one.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.body
    }

    /// Whether the API server could not do it now: it or its etcd is too busy, or its caches are not filled yet.
    pub(super) fn is_not_now(&self) -> bool {
        self.status == 429 || self.status >= 500
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) content_type: &'a str,
    pub(super) body: Option<&'a Value>,
}

impl Api {
    pub(super) fn new(port: u16, ca: &str, token: &'static str) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("a certificate"))
            .expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { port, tls: Arc::new(tls), token }
    }

    /// Sends a request and reads the answer.
    pub(super) fn send(&self, request: Request<'_>) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        stream.sock.set_read_timeout(Some(ANSWER))?;
        exchange(&mut stream, request, self.token)
    }

    /// A connection.
    pub(super) fn connect(&self) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let connection = ClientConnection::new(Arc::clone(&self.tls), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?))
    }
}

/// Whether a server without TLS answers 200 to a GET.
pub(super) fn answers(port: u16, path: &str) -> bool {
    let request = Request { method: "GET", path, content_type: "", body: None };
    let ask = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(ANSWER))?;
        exchange(&mut stream, request, "")
    };
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(ask).is_ok_and(|answer| answer.status == 200)
}

/// HTTP/1.0, so that the answer ends with the connection and has no chunks.
fn exchange(stream: &mut (impl Read + Write), request: Request<'_>, token: &str) -> io::Result<Answer> {
    let body = request.body.map(Value::to_string).unwrap_or_default();
    let Request { method, path, content_type, .. } = request;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nAccept: application/json\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()?;
    let mut bytes = Vec::new();
    match stream.take(MAX_ANSWER).read_to_end(&mut bytes) {
        Ok(_) => {}
        // Without a close_notify.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => return Err(error),
    }
    parse(&bytes).ok_or_else(|| io::Error::other("no HTTP answer"))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&bytes[..head]).ok()?, &bytes[head + 4..]);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let text = || Value::String(String::from_utf8_lossy(body).into_owned());
    Some(Answer { status, body: serde_json::from_slice(body).unwrap_or_else(|_| text()) })
}

/// An API server that waits longer than this is not well, however busy the machine is.
const ANSWER: Duration = Duration::from_secs(120);
const MAX_ANSWER: u64 = 256 * 1024 * 1024;
