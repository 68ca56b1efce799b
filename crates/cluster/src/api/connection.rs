//! The connection to an API server: address, certificates and credentials from the surroundings or from a file.
//!
//! kube reads the service account's token and certificate authority again each minute by itself. What it reads only once
//! (a kubeconfig file) is read again by `Opener` when the API server refuses what was read.

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{AuthError, Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use crate::error::OpenError;

/// Which API server, and who asks.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    InCluster,
    Kubeconfig(std::path::PathBuf),
}

/// Reads what `place` names. Contacts nobody and runs nothing.
pub(super) fn read(place: &Place) -> Result<Config, OpenError> {
    match place {
        Place::InCluster => Config::incluster().map_err(|source| OpenError::NotInCluster(source.into())),
        Place::Kubeconfig(path) => from_file(path).map(trimmed),
    }
}

/// Whether [`client`] runs a program that gives credentials, which may take any time.
pub(super) fn runs_program(config: &Config) -> bool {
    config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some()
}

/// Prepares a client. Contacts nobody, but see [`runs_program`].
pub(super) fn client(config: &Config) -> Result<Client, OpenError> {
    stack(config).map_err(|source| OpenError::Credentials(safe(source)))
}

/// The error without what a program printed, which may be a token.
pub(super) fn safe(error: kube::Error) -> BoxError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        match error.downcast_ref::<AuthError>() {
            Some(AuthError::AuthExecRun { out, .. }) => {
                return format!("the kubeconfig's program for credentials failed: {}", out.status).into();
            }
            Some(AuthError::AuthExecParse(_) | AuthError::ParseTokenKey(_)) => {
                return "what the kubeconfig's program for credentials printed cannot be read".into();
            }
            _ => cause = error.source(),
        }
    }
    error.into()
}

/// kube takes a token file as it is, and a token that ends in a line end cannot be sent. Such a token is read here, and again
/// with the configuration.
fn trimmed(mut config: Config) -> Config {
    let user = &mut config.auth_info;
    let text = user.token_file.as_ref().filter(|_| user.token.is_none());
    let text = text.and_then(|path| std::fs::read_to_string(path).ok());
    if let Some(text) = text.filter(|text| text.trim() != text) {
        user.token = Some(text.trim().to_owned().into());
    }
    config
}

fn from_file(path: &Path) -> Result<Config, OpenError> {
    let refused = |source: BoxError| OpenError::Kubeconfig { path: path.into(), source };
    let file = Kubeconfig::read_from(path).map_err(|source| refused(source.into()))?;
    // It awaits nothing: the file is read already, and what it names is read in place.
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).now_or_never();
    let config = config.ok_or_else(|| refused("it took longer than reading files takes".into()))?;
    config.map_err(|source| refused(source.into()))
}

/// kube's own stack logs each failed response as an error and repeats calls by itself; here the caller decides both.
fn stack(config: &Config) -> Result<Client, kube::Error> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE));
    let https = config.rustls_https_connector_with_connector(http)?;
    let connections: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .build(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// How long a TCP connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection may be silent before the kernel asks whether the other end is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Unused connections that are kept; more are closed.
const MAX_IDLE: usize = 8;
