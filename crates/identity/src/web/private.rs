//! A client of one server with certificates of its own, such as a kubelet: its authority is told, its name may not be
//! known, and it may want to know who asks.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use vouchsafe_runtime::clock::Clock;

use super::{Error, pem_roots};
use crate::config::{VERSIONS, WallTime, provider};
use crate::serving::CertificateCell;

/// What a server must prove.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// Its name, by a certificate of one of these authorities (PEM).
    Name(&'a [u8]),
    /// That one of these authorities (PEM) issued its certificate, whatever the name in it.
    Chain(&'a [u8]),
    /// Only that it has the key of the certificate that it presents: it may be anybody.
    Nothing,
}

/// A configuration for a client of a server that proves `expected`. The client presents `own`, if there is one and the
/// server asks for it. TLS 1.2 or newer; no ALPN; no session is resumed.
///
/// # Errors
///
/// [`Error`]; a retry makes sense once the authorities are others.
pub fn private_client_config(
    expected: Expected<'_>,
    own: Option<&CertificateCell>,
    clock: Clock,
) -> Result<ClientConfig, Error> {
    let verifier: Arc<dyn ServerCertVerifier> = match expected {
        Expected::Name(authorities) => by_name(authorities)?,
        Expected::Chain(authorities) => Arc::new(WhateverName(by_name(authorities)?)),
        Expected::Nothing => Arc::new(Anybody),
    };
    let builder = ClientConfig::builder_with_details(provider().clone(), Arc::new(WallTime(clock)))
        .with_protocol_versions(VERSIONS)
        .map_err(|source| Error::Inconsistent { source })?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(own.clone())),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn by_name(authorities: &[u8]) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let roots = Arc::new(pem_roots(authorities)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider().clone()).build();
    verifier.map_err(|source| Error::Verifier { source })
}

impl ResolvesClientCert for CertificateCell {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes the chain as the inner one does, and forgives the name. rustls looks at the name last: whoever fails there
/// has passed everything else.
#[derive(Debug)]
struct WhateverName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for WhateverName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Believes whoever has the key of the certificate that is presented.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
