//! A TLS server of the cluster's authority, a thread for each connection and a request for each connection.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A connection that was accepted.
pub(super) type Stream = StreamOwned<ServerConnection, TcpStream>;

/// Accepts until it is dropped. Connections end by themselves.
pub(super) struct Listener {
    port: u16,
    stopped: Arc<AtomicBool>,
}

/// A request with the bytes that it came in.
pub(super) struct Received {
    pub(super) method: String,
    pub(super) path: String,
    /// Lines between the first and the empty one.
    pub(super) headers: String,
    pub(super) body: Vec<u8>,
}

impl Listener {
    /// Listens on a free port of the loopback interface and gives each request to `serve`.
    pub(super) fn start(
        (certificate, key): (&Path, &Path),
        serve: impl Fn(Received, &mut Stream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate and its key");
        let (config, serve) = (Arc::new(config), Arc::new(serve));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (config, serve) = (Arc::clone(&config), Arc::clone(&serve));
                std::thread::spawn(move || {
                    // A peer that went away is no matter of ours.
                    drop(connection(config, stream, &*serve));
                });
            }
        });
        Self { port, stopped }
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

fn connection(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    serve: &impl Fn(Received, &mut Stream) -> io::Result<()>,
) -> io::Result<()> {
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, stream);
    let received = receive(&mut stream)?;
    serve(received, &mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn receive(stream: &mut Stream) -> io::Result<Received> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Err(io::Error::other("a head without an end"));
        }
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let (first, headers) = head.split_once("\r\n").unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length = header(headers, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    stream.take(length).read_to_end(&mut body)?;
    Ok(Received { method, path, headers: headers.trim_end().to_owned(), body })
}

fn header<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    let lines = headers.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// A whole answer; the connection ends after it.
pub(super) fn answer(stream: &mut Stream, status: u16, headers: &str, body: &[u8]) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n{headers}\r\n",
        body.len()
    )?;
    stream.write_all(body)?;
    stream.flush()
}

const MAX_HEAD: usize = 64 * 1024;
