//! TLS to the database.
//!
//! Certificates and keys are in files that something else renews, so they are looked at for each new connection.

mod files;

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use vouchsafe_runtime::blocking;
use vouchsafe_types::secret::SecretText;

use super::settings::SettingsError;
use files::Contents;
pub(super) use files::Files;

/// What is asked of the database's certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verify {
    /// Nothing: the connection is encrypted, to whomever.
    Nothing,
    /// That an authority signed it.
    Chain,
    /// That, and that it names the host.
    ChainAndName,
}

/// Makes TLS connections, with what the files have at that time.
pub(crate) struct Connector {
    verify: Verify,
    files: Files,
    /// What the files had when they could be used last.
    held: Mutex<Held>,
}

struct Held {
    contents: Contents,
    config: Arc<ClientConfig>,
    /// Whether it was said that the files cannot be used now.
    told: bool,
}

impl Connector {
    /// Reads the files.
    pub(super) fn new(verify: Verify, files: Files) -> Result<Self, SettingsError> {
        let contents = files.read()?;
        let config = config(verify, &files, &contents)?;
        let held = Mutex::new(Held { contents, config, told: false });
        Ok(Self { verify, files, held })
    }

    /// Makes the next connection with what the files have now; with what they had before, if that cannot be used. Files that
    /// are being replaced are that for a moment.
    pub(super) async fn current(&self) -> MakeTls {
        let files = self.files.clone();
        let read = blocking::run(move || files.read()).await;
        let read = read.unwrap_or_else(|gone| Err(SettingsError::Tls { why: gone.to_string() }));
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match read {
            Ok(contents) if contents == held.contents => Ok(None),
            Ok(contents) => config(self.verify, &self.files, &contents).map(|new| Some((contents, new))),
            Err(cause) => Err(cause),
        };
        match changed {
            Ok(changed) => {
                held.told = false;
                if let Some((contents, config)) = changed {
                    tracing::info!("Loaded new files for TLS to the database");
                    (held.contents, held.config) = (contents, config);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut held.told, true) {
                    tracing::error!(%error, "Cannot use the files for TLS to the database; connecting with those of before");
                }
            }
        }
        MakeTls(Arc::clone(&held.config))
    }
}

fn config(verify: Verify, files: &Files, contents: &Contents) -> Result<Arc<ClientConfig>, SettingsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let tls = |why: String| SettingsError::Tls { why };
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        Verify::Nothing => Arc::new(Unnamed { inner: None, provider: Arc::clone(&provider) }),
        Verify::Chain | Verify::ChainAndName => {
            let roots = Arc::new(roots(files.authorities.as_deref().zip(contents.authorities.as_ref()))?);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            let inner = inner.map_err(|error| tls(error.to_string()))?;
            match verify {
                Verify::ChainAndName => inner,
                _ => Arc::new(Unnamed { inner: Some(inner), provider: Arc::clone(&provider) }),
            }
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let certificate = files.certificate.as_deref().zip(contents.certificate.as_ref());
    let key = files.key.as_deref().zip(contents.key.as_ref());
    Ok(Arc::new(match (certificate, key) {
        (None, None) => config.with_no_client_auth(),
        (Some(certificate), Some(key)) => config
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| file(key.0, &format!("it does not fit the certificate: {error}")))?,
        _ => return Err(SettingsError::HalfIdentity),
    }))
}

/// A file and what is in it.
type Content<'a> = (&'a Path, &'a SecretText);

fn roots(content: Option<Content<'_>>) -> Result<RootCertStore, SettingsError> {
    let mut roots = RootCertStore::empty();
    if let Some(content) = content {
        for certificate in certificates(content)? {
            roots.add(certificate).map_err(|error| file(content.0, &error))?;
        }
    } else {
        // A system has many; one that cannot be used does not spoil the others.
        let (usable, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if usable == 0 {
            let why = "this system has no certificate authorities; set root_ca_path to the database's";
            return Err(SettingsError::Tls { why: why.to_owned() });
        }
    }
    Ok(roots)
}

fn certificates((path, text): Content<'_>) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let found = CertificateDer::pem_slice_iter(text.as_str().as_bytes());
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| file(path, &error))?;
    if found.is_empty() { Err(file(path, &"it has no certificate in PEM form")) } else { Ok(found) }
}

fn private_key((path, text): Content<'_>) -> Result<PrivateKeyDer<'static>, SettingsError> {
    PrivateKeyDer::from_pem_slice(text.as_str().as_bytes()).map_err(|error| file(path, &error))
}

fn file(path: &Path, why: &dyn fmt::Display) -> SettingsError {
    SettingsError::File { path: path.to_owned(), why: why.to_string() }
}

/// A verifier that does not ask for the host's name, and without `inner` for nothing at all.
#[derive(Debug)]
struct Unnamed {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unnamed {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        // The chain is looked at before the name.
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes one TLS connection.
pub(crate) struct MakeTls(Arc<ClientConfig>);

impl<S> MakeTlsConnect<S> for MakeTls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type TlsConnect = ToHost;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<ToHost> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(ToHost { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

/// A TLS handshake that is about to begin.
pub(crate) struct ToHost {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S> TlsConnect<S> for ToHost
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { Ok(Encrypted(self.connector.connect(self.name, stream).await?)) })
    }
}

/// A TLS connection.
pub(crate) struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A certificate authority of its own, and a key, in PEM.
    fn issue() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["db".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// What the next connection is made with, as long as it does not change.
    async fn next(connector: &Connector) -> *const ClientConfig {
        Arc::as_ptr(&connector.current().await.0)
    }

    #[tokio::test]
    async fn files_that_were_renewed_are_used_by_the_next_connection() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, [b"caf\xe9\n", text.as_bytes()].concat()).unwrap();
            path
        };
        let (certificate, key) = issue();
        let files = Files {
            authorities: Some(write("ca", &certificate)),
            certificate: Some(write("certificate", &certificate)),
            key: Some(write("key", &key)),
        };
        let connector = Connector::new(Verify::Chain, files).unwrap();
        let first = next(&connector).await;
        assert_eq!(next(&connector).await, first);

        write("ca", &issue().0);
        let second = next(&connector).await;
        assert_ne!(second, first);

        let (certificate, key) = issue();
        write("certificate", &certificate);
        assert_eq!(next(&connector).await, second, "the key is not there yet");
        write("key", &key);
        let third = next(&connector).await;
        assert_ne!(third, second);
        for harm in ["", "no certificate"] {
            write("ca", harm);
            assert_eq!(next(&connector).await, third, "{harm}");
        }
        fs::remove_file(folder.path().join("ca")).unwrap();
        assert_eq!(next(&connector).await, third);
    }
}
