//! One GET request: to a bundle endpoint, to a URL of the configuration, to a daemon's socket.
//!
//! Policy: whoever answers may be broken or hostile, so one deadline covers everything from resolving the name to the
//! last byte, a body ends at its bound whatever its `Content-Length` says, and a redirect is an answer like any other:
//! it is handed to the caller and not followed. Each call makes a connection of its own and closes it. [`fetch`] gives the
//! body as one piece; [`read`] hands it to a [`Reader`] as it arrives, so that nobody needs to hold all of it.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT, WWW_AUTHENTICATE};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, OtherError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use vouchsafe_runtime::class::Class;

use crate::connect::connect_to_any;
use crate::net::Network;

/// Whom to ask for what.
#[derive(Clone, Debug)]
pub struct Target {
    via: Via,
    /// `host` or `host:port`, as the `Host` header has it.
    authority: String,
    resource: PathAndQuery,
    /// Marked sensitive, so that `Debug` does not show it.
    authorization: Option<HeaderValue>,
    accept: Option<HeaderValue>,
}

/// What a fetch may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From the first step to the last byte. Beyond it the fetch fails with [`Error::TimedOut`].
    pub deadline: Duration,
    /// Bytes of the body. A longer one fails the fetch with [`Error::BodyTooLong`].
    pub body: usize,
}

/// What the server said. Any status is an answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
    /// `Content-Type`, if there is one that is text.
    pub content_type: Option<String>,
}

/// What the server said before the body.
#[derive(Clone, Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// `Content-Type`, if there is one that is text.
    pub content_type: Option<String>,
    /// `Location`, if there is one that is text.
    pub location: Option<String>,
    /// Every `WWW-Authenticate` that is text.
    pub challenges: Vec<String>,
}

/// Takes a body as it arrives.
pub trait Reader: Send {
    /// Called once, before any of the body.
    fn begin(&mut self, head: &Head);

    /// The next bytes of the body, of any number.
    ///
    /// # Errors
    ///
    /// What is wrong with them. The rest is not read, and the fetch fails with [`Error::Refused`].
    fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal>;
}

/// The whole body.
impl Reader for Vec<u8> {
    fn begin(&mut self, _: &Head) {}

    fn take(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Why a [`Reader`] wants no more.
pub type Refusal = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug)]
enum Via {
    Tls { host: String, port: u16, name: ServerName<'static>, config: Arc<ClientConfig> },
    Tcp { host: String, port: u16 },
    Unix { socket: PathBuf },
}

impl Target {
    /// `url` (`https://…`) over TLS as `config` says: its verifier decides whether the server is the right one. ALPN is
    /// `http/1.1`, whatever `config` has.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] unless `url` is an absolute `https` URL without user name.
    pub fn https(url: &str, config: &ClientConfig) -> Result<Self, Error> {
        let (host, port, authority, resource) = split(url, &Scheme::HTTPS)?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| Error::Url { url: url.to_owned(), problem: "the host is no name and no address" })?;
        let mut config = config.clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let via = Via::Tls { host, port, name, config: Arc::new(config) };
        Ok(Self { via, authority, resource, authorization: None, accept: None })
    }

    /// `url` (`http://…`) as plain text over TCP. What arrives may come from anybody.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] unless `url` is an absolute `http` URL without user name.
    pub fn plain(url: &str) -> Result<Self, Error> {
        let (host, port, authority, resource) = split(url, &Scheme::HTTP)?;
        Ok(Self { via: Via::Tcp { host, port }, authority, resource, authorization: None, accept: None })
    }

    /// `resource` (a path, perhaps with a query) from whoever listens on the Unix socket `socket`.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] when `resource` is not a path.
    pub fn unix(socket: impl Into<PathBuf>, resource: &str) -> Result<Self, Error> {
        let wrong = || Error::Url { url: resource.to_owned(), problem: "it is not an absolute path" };
        let parsed = PathAndQuery::try_from(resource).map_err(|_| wrong())?;
        if !resource.starts_with('/') {
            return Err(wrong());
        }
        Ok(Self {
            via: Via::Unix { socket: socket.into() },
            authority: "localhost".to_owned(),
            resource: parsed,
            authorization: None,
            accept: None,
        })
    }

    /// With `Authorization: Bearer <token>`, which appears in no message.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] when `token` has characters that no header may have.
    pub fn with_bearer(self, token: &str) -> Result<Self, Error> {
        self.with_authorization(&format!("Bearer {token}"))
    }

    /// With `Authorization: <credentials>`, which appear in no message.
    ///
    /// # Errors
    ///
    /// [`Error::Token`] when `credentials` have characters that no header may have.
    pub fn with_authorization(self, credentials: &str) -> Result<Self, Error> {
        let mut value =
            HeaderValue::from_str(credentials).map_err(|_| Error::Token { target: self.place() })?;
        value.set_sensitive(true);
        Ok(Self { authorization: Some(value), ..self })
    }

    /// With `Accept: <types>`.
    #[must_use]
    pub fn with_accept(self, types: &'static str) -> Self {
        Self { accept: Some(HeaderValue::from_static(types)), ..self }
    }

    /// Where the bytes come from, for messages.
    fn place(&self) -> String {
        match &self.via {
            Via::Tls { .. } | Via::Tcp { .. } => self.authority.clone(),
            Via::Unix { socket } => socket.display().to_string(),
        }
    }
}

/// Asks `target` once.
///
/// # Errors
///
/// See [`Error`]. An answer with any status is no error.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn fetch(target: &Target, bounds: Bounds) -> Result<Answer, Error> {
    let mut body = Vec::new();
    let head = read(target, bounds, &mut body).await?;
    Ok(Answer { status: head.status, content_type: head.content_type, body: body.into() })
}

/// As [`fetch`], and hands the body to `reader` piece by piece.
///
/// # Errors
///
/// See [`Error`]. An answer with any status is no error. What `reader` was given before is then not all.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn read(target: &Target, bounds: Bounds, reader: &mut dyn Reader) -> Result<Head, Error> {
    tokio::time::timeout(bounds.deadline, ask(target, bounds.body, reader))
        .await
        .unwrap_or_else(|_| Err(Error::TimedOut { target: target.place(), deadline: bounds.deadline }))
}

async fn ask(target: &Target, max: usize, reader: &mut dyn Reader) -> Result<Head, Error> {
    let connect = |source| Error::Connect { target: target.place(), source };
    match &target.via {
        Via::Unix { socket } => {
            exchange(UnixStream::connect(socket).await.map_err(connect)?, target, max, reader).await
        }
        Via::Tcp { host, port } => {
            let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(connect)?;
            let addresses = addresses.collect();
            let tcp = connect_to_any(&Network::default(), addresses).await.map_err(connect)?;
            exchange(tcp, target, max, reader).await
        }
        Via::Tls { host, port, name, config } => {
            let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(connect)?;
            let addresses = addresses.collect();
            let tcp = connect_to_any(&Network::default(), addresses).await.map_err(connect)?;
            let tls = TlsConnector::from(config.clone()).connect(name.clone(), tcp).await;
            let tls =
                tls.map_err(|source| Error::Handshake { target: target.place(), source: plain(source) })?;
            exchange(tls, target, max, reader).await
        }
    }
}

async fn exchange<S>(stream: S, target: &Target, max: usize, reader: &mut dyn Reader) -> Result<Head, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |source| Error::Http { target: target.place(), source };
    let (sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut answer = pin!(converse(sender, target, max, reader));
    tokio::select! {
        done = &mut answer => done,
        // The connection may end before everything that it read has been taken.
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection of a fetch ended");
            }
            answer.await
        }
    }
}

async fn converse(
    mut sender: http1::SendRequest<Empty<Bytes>>,
    target: &Target,
    max: usize,
    reader: &mut dyn Reader,
) -> Result<Head, Error> {
    let failed = |source| Error::Http { target: target.place(), source };
    let mut request = Request::get(target.resource.as_str())
        .header(HOST, &target.authority)
        .header(USER_AGENT, "vouchsafe")
        .body(Empty::<Bytes>::new())
        .map_err(|_| Error::Url { url: target.resource.to_string(), problem: "it is not a path" })?;
    if let Some(authorization) = &target.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    if let Some(accept) = &target.accept {
        request.headers_mut().insert(ACCEPT, accept.clone());
    }
    let (head, mut body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let head = Head {
        status: head.status,
        content_type: head.headers.get(CONTENT_TYPE).and_then(text),
        location: head.headers.get(LOCATION).and_then(text),
        challenges: head.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(text).collect(),
    };
    reader.begin(&head);
    let mut taken = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(failed)?.into_data() else { continue };
        taken = taken.saturating_add(bytes.len());
        if taken > max {
            return Err(Error::BodyTooLong { target: target.place(), max });
        }
        reader.take(&bytes).map_err(|source| Error::Refused { target: target.place(), source })?;
    }
    Ok(head)
}

/// What our own verifiers say, without rustls' wrapping, which shows them in the form for programmers.
fn plain(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
            io::Error::new(error.kind(), why.clone())
        }
        _ => error,
    }
}

/// Host, port, authority and resource of a URL.
fn split(url: &str, scheme: &Scheme) -> Result<(String, u16, String, PathAndQuery), Error> {
    let wrong = |problem| Error::Url { url: url.to_owned(), problem };
    let uri: Uri = url.parse().map_err(|_| wrong("it cannot be read"))?;
    if uri.scheme() != Some(scheme) {
        return Err(wrong(if *scheme == Scheme::HTTPS {
            "it must begin with https://"
        } else {
            "it must begin with http://"
        }));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("a user name in it is not supported"));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err(wrong("it has no host"));
    }
    let port = authority.port_u16().unwrap_or(if *scheme == Scheme::HTTPS { 443 } else { 80 });
    let resource = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Ok((host, port, authority.to_string(), resource))
}

/// Bytes of status line and headers. A longer head fails the fetch.
const MAX_HEAD: usize = 64 * 1024;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used.
    #[error("URL {url:?} cannot be fetched: {problem}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Nobody could be reached.
    #[error("cannot connect to {target}")]
    Connect {
        /// Where to.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server is not the right one, or does not speak TLS.
    #[error("TLS handshake with {target} failed")]
    Handshake {
        /// With whom.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// The server broke off, or what it sent is not HTTP/1.1.
    #[error("{target} gave no complete HTTP answer")]
    Http {
        /// Who.
        target: String,
        /// What was wrong.
        source: hyper::Error,
    },
    /// The body is longer than we want to know.
    #[error("{target} sent more than {max} bytes")]
    BodyTooLong {
        /// Who.
        target: String,
        /// The bound.
        max: usize,
    },
    /// The reader does not want what it was given.
    #[error("the answer of {target} cannot be used")]
    Refused {
        /// Who.
        target: String,
        /// What is wrong with it.
        source: Refusal,
    },
    /// A token that no header can carry.
    #[error("the bearer token for {target} has characters that no HTTP header may have")]
    Token {
        /// For whom.
        target: String,
    },
    /// It took too long.
    #[error("{target} did not answer completely within {deadline:?}")]
    TimedOut {
        /// Who.
        target: String,
        /// The deadline.
        deadline: Duration,
    },
}

impl Error {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Url { .. } | Self::Token { .. } => Class::Permanent,
            Self::Connect { .. } | Self::TimedOut { .. } => Class::Transient,
            Self::Handshake { .. } | Self::Http { .. } | Self::BodyTooLong { .. } | Self::Refused { .. } => {
                Class::Peer
            }
        }
    }
}

#[cfg(test)]
mod tests;
