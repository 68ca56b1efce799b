//! `agent run`.

use std::convert::Infallible;
use std::path::Path;

use anyhow::Context;
use vouchsafe_agent::attest::image_signatures::{ImageSignaturesConfig, TrustFiles};
use vouchsafe_agent::attest::k8s::K8sConfig;
use vouchsafe_agent::node::attestor::NodeAttestor;
use vouchsafe_agent::node::x509pop::X509Pop;
use vouchsafe_agent::trust::origin::{Origin, Place};
use vouchsafe_agent::trust::peers::follow_bundles;
use vouchsafe_agent::{AdminConfig, Agent, Bootstrap, Config, Deps, Running, UnixAttestorConfig};
use vouchsafe_identity::roots::RootsCell;
use vouchsafe_identity::web::WebRoots;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_types::bundle::format;
use vouchsafe_types::trust_domain::TrustDomain;

use super::data_dir::DataDirLock;
use super::last_words;
use super::metrics_tls::Part;
use super::{Host, http, key_type, server};
use crate::config::agent::{self, BundleFormat};
use crate::console::process_environment;

pub(super) async fn run(config: agent::Config) -> anyhow::Result<()> {
    let host = Host::new(&config.log, &config.warnings)?;
    let _lock = DataDirLock::acquire(&config.data_dir, "agent")?;
    let (clock, socket) = (host.clock.clone(), config.apis.socket_path.clone());
    last_words::forget(&socket);
    live(host, config).await.inspect_err(|error| last_words::note(&socket, error, clock.unix_now()))
}

async fn live(mut host: Host, config: agent::Config) -> anyhow::Result<()> {
    let registry = http::registry(&config.telemetry, "spire_agent", config.trust_domain.as_str());
    let bootstrap = bootstrap(&config)?;
    let running = start(&mut host, &config, bootstrap, &registry).await?;
    let key_exchange = config.experimental.key_exchange;
    let part = Part { own: running.own, roots: RootsCell::default(), key_exchange };
    if config.telemetry.knows_clients_by_spiffe_id() {
        let follow = follow_bundles(running.identities, part.roots.clone());
        host.tasks.start("metrics clients", |cancel| async move {
            cancel.run_until_cancelled(follow).await;
            Ok::<_, Infallible>(())
        });
    }
    http::start(&mut host, &config.telemetry, config.health.as_ref(), &registry, &part).await?;
    host.run().await?;
    tracing::info!("Agent stopped gracefully");
    Ok(())
}

/// Starts the agent itself.
pub(super) async fn start(
    host: &mut Host,
    config: &agent::Config,
    bootstrap: Bootstrap,
    registry: &Registry,
) -> anyhow::Result<Running> {
    let deps = Deps {
        clock: host.clock.clone(),
        entropy: host.entropy.fork("agent"),
        registry: registry.clone(),
        readiness: host.readiness.clone(),
        log_level: host.log_level.clone(),
        network: vouchsafe_transport::net::Network::default(),
    };
    let unix = config.plugins.unix.map(|unix| UnixAttestorConfig {
        discover_workload_path: unix.discover_workload_path,
        workload_size_limit: unix.workload_size_limit,
        ..UnixAttestorConfig::default()
    });
    let config = Config {
        trust_domain: config.trust_domain.clone(),
        server_address: server_address(&config.server_address, config.server_port),
        server_addresses: config.server_addresses.clone(),
        data_dir: config.data_dir.clone(),
        socket_path: config.apis.socket_path.clone(),
        join_token: config.join_token.clone(),
        node_attestor: node_attestor(&config.plugins.node_attestor),
        bootstrap,
        rebootstrap: config.rebootstrap,
        availability_target: config.availability_target,
        jwt_svid_cache_hit_timeout: config
            .experimental
            .jwt_svid_cache_hit_timeout
            .unwrap_or(vouchsafe_agent::jwt_issue::ISSUE_DEADLINE),
        key_manager: server::key_manager(&config.plugins.key_manager)?,
        sync_interval: config.experimental.sync_interval,
        unix,
        x509_svid_cache_max_size: config.x509_svid_cache_max_size,
        jwt_svid_cache_max_size: config.jwt_svid_cache_max_size,
        allow_unauthenticated_verifiers: config.allow_unauthenticated_verifiers,
        allowed_foreign_jwt_claims: config.allowed_foreign_jwt_claims.iter().cloned().collect(),
        log_selectors: config.log_selectors.clone(),
        sds: config.apis.sds.clone(),
        disable_sds_api: config.apis.disable_sds_api,
        disable_workload_api: config.apis.disable_workload_api,
        admin: AdminConfig {
            socket_path: config.apis.admin_socket_path.clone(),
            authorized_delegates: config.apis.authorized_delegates.iter().map(ToString::to_string).collect(),
        },
        docker: config.plugins.docker.clone(),
        image_signatures: config.plugins.k8s.as_ref().and_then(image_signatures),
        k8s: config.plugins.k8s.clone().map(k8s),
        limits: config.experimental.limits,
        key_exchange: config.experimental.key_exchange,
        workload_key_type: key_type(config.workload_key_type),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Agent::start(config, deps, &mut host.tasks).await?)
}

/// With the node's name from the environment, unless the file tells it.
fn k8s(chosen: agent::K8s) -> K8sConfig {
    let mut config = chosen.config;
    if let Some(secure) = &mut config.kubelet.secure
        && secure.node_name.is_none()
    {
        secure.node_name = process_environment()(&chosen.node_name_env).filter(|name| !name.is_empty());
    }
    config
}

/// With the roots that cosign's environment variables name.
fn image_signatures(chosen: &agent::K8s) -> Option<ImageSignaturesConfig> {
    let file = |name| process_environment()(name).filter(|path| !path.is_empty()).map(Into::into);
    Some(ImageSignaturesConfig {
        settings: chosen.image_signatures.clone()?,
        roots: TrustFiles {
            trusted_root: None,
            root_certificates: file("SIGSTORE_ROOT_FILE"),
            rekor_key: file("SIGSTORE_REKOR_PUBLIC_KEY"),
            ct_key: file("SIGSTORE_CT_LOG_PUBLIC_KEY_FILE"),
        },
        registries: WebRoots::System,
    })
}

/// `host:port`, with brackets around an IPv6 address.
fn server_address(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// How the agent proves which node it is when it has no join token.
fn node_attestor(chosen: &agent::NodeAttestor) -> Option<NodeAttestor> {
    match chosen.clone() {
        agent::NodeAttestor::JoinToken => None,
        agent::NodeAttestor::X509Pop { certificate_path, private_key_path, intermediates_path } => {
            Some(NodeAttestor::X509Pop(X509Pop::Files {
                private_key: private_key_path,
                certificate: certificate_path,
                intermediates: intermediates_path,
            }))
        }
        agent::NodeAttestor::X509PopSvid { socket } => {
            Some(NodeAttestor::X509Pop(X509Pop::WorkloadApi(socket)))
        }
        agent::NodeAttestor::K8sPsat(psat) => Some(NodeAttestor::K8sPsat(psat)),
    }
}

/// How the agent knows the server the first time. A file must be readable at start; it is read again whenever it is needed.
fn bootstrap(config: &agent::Config) -> anyhow::Result<Bootstrap> {
    let (place, format) = match config.bootstrap.clone() {
        agent::Bootstrap::Insecure => return Ok(Bootstrap::Insecure),
        agent::Bootstrap::File { path, format } => {
            read_bundle(&path, format, &config.trust_domain)?;
            (Place::File(path), format)
        }
        agent::Bootstrap::Url { url, unix_socket: Some(socket), format } => {
            (Place::Socket { socket, url }, format)
        }
        agent::Bootstrap::Url { url, unix_socket: None, format } => {
            (Place::Url { url, roots: WebRoots::System }, format)
        }
        agent::Bootstrap::WorkloadApi { socket } => (Place::WorkloadApi(socket), BundleFormat::Pem),
    };
    Ok(Bootstrap::From(Origin { place, format }))
}

fn read_bundle(path: &Path, kind: BundleFormat, trust_domain: &TrustDomain) -> anyhow::Result<()> {
    let name = || format!("could not parse trust bundle {}", path.display());
    let bytes = std::fs::read(path).with_context(name)?;
    match kind {
        BundleFormat::Pem => format::from_pem(trust_domain, &bytes).with_context(name)?,
        BundleFormat::Spiffe => format::from_spiffe_json(trust_domain, &bytes).with_context(name)?,
    };
    Ok(())
}
