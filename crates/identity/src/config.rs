//! rustls configurations for servers and clients that know each other by SPIFFE ID.
//!
//! TLS 1.2 or newer, ALPN `h2`, X25519MLKEM768 offered first. No session is ever resumed, on either side: a
//! resumed one would skip the verification of a peer whose SVID may have expired or whose authority may have
//! been revoked meanwhile.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::UnixTime;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::{SpiffeId, TrustDomain};

use crate::own::SvidCell;
use crate::roots::RootsCell;
use crate::tls_verifier::{BootstrapVerifier, PeerVerifier};
use crate::verify::SvidVerifier;

/// Whom a peer may be, once its chain is verified.
#[derive(Clone)]
pub enum Expect {
    /// Exactly this one.
    Id(SpiffeId),
    /// Anybody of this trust domain.
    MemberOf(TrustDomain),
    /// Whomever the function accepts; the text says whom, for error messages.
    Matching(&'static str, Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>),
    /// Anybody whose trust domain we have a bundle of.
    Anyone,
}

impl Expect {
    /// Whether `id` is expected.
    #[must_use]
    pub fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Id(expected) => id == expected,
            Self::MemberOf(trust_domain) => id.is_member_of(trust_domain),
            Self::Matching(_, accepts) => accepts(id),
            Self::Anyone => true,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::MemberOf(trust_domain) => write!(f, "a member of {trust_domain}"),
            Self::Matching(whom, _) => f.write_str(whom),
            Self::Anyone => f.write_str("anyone"),
        }
    }
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expect({self})")
    }
}

/// Whether a server asks for client certificates. A certificate that is presented must always verify.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// Asks, and serves clients without one too. No authorities are hinted, so clients need not choose.
    Optional(RootsCell, Expect),
    /// As `Optional`, and lets a certificate through that expired, or becomes valid, within this time. The handler of
    /// each request must look at the dates.
    Lenient(RootsCell, Expect, Duration),
    /// Asks, and refuses clients without one.
    Required(RootsCell, Expect),
}

/// How a client decides whether it talks to the right server.
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// Its chain must verify, and it must be expected.
    Verified(RootsCell, Expect),
    /// Whoever answers is believed; that it is not this ID is only logged. For fetching a first bundle when
    /// nothing is known yet: everything received so must be used to verify the next connection.
    InsecureBootstrap(SpiffeId),
}

/// A configuration for a server that presents what `own` holds at each handshake.
///
/// # Errors
///
/// [`ConfigError`], which would be a bug.
pub fn server_config(own: &SvidCell, auth: ClientAuth, clock: Clock) -> Result<ServerConfig, ConfigError> {
    server_config_with(KeyExchange::Any, own, auth, clock)
}

/// As [`server_config`], with the key exchange that the operator requires.
///
/// # Errors
///
/// [`ConfigError`], which would be a bug.
pub fn server_config_with(
    key_exchange: KeyExchange,
    own: &SvidCell,
    auth: ClientAuth,
    clock: Clock,
) -> Result<ServerConfig, ConfigError> {
    let verifier = match auth {
        ClientAuth::Optional(roots, expect) => PeerVerifier::new(SvidVerifier::new(roots), expect, false),
        ClientAuth::Lenient(roots, expect, grace) => {
            PeerVerifier::new(SvidVerifier::new(roots), expect, false).with_grace(grace)
        }
        ClientAuth::Required(roots, expect) => PeerVerifier::new(SvidVerifier::new(roots), expect, true),
    };
    let mut config = ServerConfig::builder_with_details(key_exchange.provider(), Arc::new(WallTime(clock)))
        .with_protocol_versions(key_exchange.versions())
        .map_err(|source| ConfigError { source })?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(own.clone()));
    config.alpn_protocols = vec![H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// A configuration for a client that presents what `own` holds at each handshake, if anything.
///
/// # Errors
///
/// [`ConfigError`], which would be a bug.
pub fn client_config(
    trust: ServerTrust,
    own: Option<&SvidCell>,
    clock: Clock,
) -> Result<ClientConfig, ConfigError> {
    client_config_with(KeyExchange::Any, trust, own, clock)
}

/// As [`client_config`], with the key exchange that the operator requires.
///
/// # Errors
///
/// [`ConfigError`], which would be a bug.
pub fn client_config_with(
    key_exchange: KeyExchange,
    trust: ServerTrust,
    own: Option<&SvidCell>,
    clock: Clock,
) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_details(key_exchange.provider(), Arc::new(WallTime(clock)))
        .with_protocol_versions(key_exchange.versions())
        .map_err(|source| ConfigError { source })?
        .dangerous();
    let builder = match trust {
        ServerTrust::Verified(roots, expect) => builder.with_custom_certificate_verifier(Arc::new(
            PeerVerifier::new(SvidVerifier::new(roots), expect, true),
        )),
        ServerTrust::InsecureBootstrap(server) => {
            builder.with_custom_certificate_verifier(Arc::new(BootstrapVerifier::new(server)))
        }
    };
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(own.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// How the two ends of a connection agree on a key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyExchange {
    /// X25519MLKEM768 if the peer can, a classical one otherwise.
    #[default]
    Any,
    /// X25519MLKEM768 or no connection (`require_pq_kem`): nobody who records the traffic today can read it with a
    /// quantum computer later. Needs TLS 1.3.
    PostQuantum,
}

impl KeyExchange {
    /// The crypto provider with only the groups that are allowed.
    #[must_use]
    pub fn provider(self) -> Arc<CryptoProvider> {
        match self {
            Self::Any => provider().clone(),
            Self::PostQuantum => Arc::new(CryptoProvider {
                kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519MLKEM768],
                ..CryptoProvider::clone(provider())
            }),
        }
    }

    /// The versions of TLS that go with it.
    #[must_use]
    pub fn versions(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        match self {
            Self::Any => VERSIONS,
            Self::PostQuantum => TLS13_ONLY,
        }
    }
}

/// The one crypto provider.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// A configuration that rustls refuses.
#[derive(Debug, thiserror::Error)]
#[error("TLS configuration is inconsistent")]
pub struct ConfigError {
    #[source]
    source: rustls::Error,
}

const H2: &[u8] = b"h2";
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];
static TLS13_ONLY: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[derive(Debug)]
pub(crate) struct WallTime(pub(crate) Clock);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.now().duration_since(std::time::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

#[cfg(test)]
mod tests;
