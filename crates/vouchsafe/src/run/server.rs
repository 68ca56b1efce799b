//! `server run`.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use vouchsafe_ca::key_manager::{Disk, KeyManager, Memory};
use vouchsafe_ca::x509::Subject;
use vouchsafe_cluster::Source;
use vouchsafe_identity::path::Authorities;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_server::config as settings;
use vouchsafe_server::config::admission::{self, Admission};
use vouchsafe_server::config::federation::{BundleEndpoint, CertificateFiles, ServingProfile};
use vouchsafe_server::{Config, Deps, Policy, Running, Server};
use vouchsafe_store::{Postgres, Sqlite, Store};
use vouchsafe_types::pem;

use super::data_dir::{self, DataDirLock};
use super::measured::{MeasuredKeys, MeasuredStore};
use super::metrics_tls::Part;
use super::{Host, http, key_type, resolve, switch};
use crate::config::server::{self, DataStore};
use crate::config::{self};

pub(super) async fn run(config: server::Config) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &config.warnings)?;
    let _lock = DataDirLock::acquire(&config.data_dir, "server")?;
    let registry = http::registry(&config.telemetry, "spire_server", config.trust_domain.as_str());
    let running = start(&mut host, &config, &registry).await?;
    let part = Part { own: running.own, roots: running.roots, key_exchange: config.key_exchange };
    http::start(&mut host, &config.telemetry, config.health.as_ref(), &registry, &part).await?;
    host.run().await?;
    tracing::info!("Server stopped gracefully");
    Ok(())
}

/// Starts the server itself.
pub(super) async fn start(
    host: &mut Host,
    config: &server::Config,
    registry: &Registry,
) -> anyhow::Result<Running> {
    let store = open_store(host, &config.data_store).await?;
    let keys = MeasuredKeys::new(key_manager(&config.key_manager)?, registry.clone());
    let store = MeasuredStore::new(store, registry.clone());
    let deps = Deps {
        clock: host.clock.clone(),
        entropy: host.entropy.fork("server"),
        metrics: registry.clone(),
        readiness: host.readiness.clone(),
        store: Arc::new(store),
        keys: Arc::new(keys),
        log_level: host.log_level.clone(),
        network: vouchsafe_transport::net::Network::default(),
    };
    let config = Config {
        trust_domain: config.trust_domain.clone(),
        tcp_address: resolve(&config.bind_address, config.bind_port).await?,
        admin_socket: config.socket_path.clone(),
        data_dir: config.data_dir.clone(),
        admin_ids: config.admin_ids.clone(),
        join_tokens: config.node_attestors.join_token,
        ca_key_type: key_type(config.ca_key_type),
        jwt_key_type: key_type(config.jwt_key_type),
        ca_ttl: config.ca_ttl,
        ca_subject: Subject {
            country: config.ca_subject.country.clone(),
            organization: config.ca_subject.organization.clone(),
            common_name: config.ca_subject.common_name.clone(),
            ..Subject::default()
        },
        policy: Policy {
            x509_svid_ttl: config.default_x509_svid_ttl,
            jwt_svid_ttl: config.default_jwt_svid_ttl,
            agent_ttl: config.agent_ttl.unwrap_or(config.default_x509_svid_ttl),
            jwt_issuer: config.jwt_issuer.clone(),
        },
        upstream: upstream(config.upstream.as_ref()),
        disable_jwt_svids: config.disable_jwt_svids,
        admission: admission(config)?,
        federation: federation(&config.federation).await?,
        publications: config.publications.clone(),
        version: env!("CARGO_PKG_VERSION"),
    };
    let running = Server::start(config, deps, &mut host.tasks).await?;
    let uptime = registry.gauge("uptime_in_ms", &[]);
    host.tasks.start("uptime", |cancel| async move {
        let began = Instant::now();
        loop {
            uptime.set(began.elapsed().as_secs_f64() * 1000.0);
            tokio::select! {
                () = cancel.cancelled() => return Ok::<_, Infallible>(()),
                () = tokio::time::sleep(UPTIME_INTERVAL) => {}
            }
        }
    });
    Ok(running)
}

/// The database that a configuration names. PostgreSQL is not contacted yet, so that a server can start without it.
async fn open_store(host: &Host, chosen: &DataStore) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match chosen {
        DataStore::Sqlite { path } => {
            switch::check_finished(path)?;
            data_dir::create_parent(path)?;
            let store = Sqlite::open(path, host.clock.clone()).await;
            Arc::new(store.context("cannot open the datastore")?)
        }
        DataStore::Postgres(settings) => {
            let store = Postgres::open(settings, host.clock.clone(), host.entropy.fork("datastore"));
            Arc::new(store.context("cannot open the datastore")?)
        }
    })
}

/// How often the metric is brought up to date, as in SPIRE.
const UPTIME_INTERVAL: Duration = Duration::from_secs(10);

/// How nodes and clients are admitted. Authorities of nodes' certificates are read here.
fn admission(config: &server::Config) -> anyhow::Result<Admission> {
    Ok(Admission {
        x509pop: config.node_attestors.x509pop.as_ref().map(x509pop).transpose()?,
        k8s_psat: config.node_attestors.k8s_psat.as_ref().map(k8s_psat),
        rate_limits: config.rate_limits,
        balancers: config.balancers.clone(),
        audit_log: config.audit_log,
        key_exchange: config.key_exchange,
        prune: config.prune,
    })
}

fn k8s_psat(chosen: &server::K8sPsat) -> admission::K8sPsat {
    let cluster = |(name, chosen): (&String, &server::PsatCluster)| {
        let source = match chosen.kube_config_file.clone() {
            Some(path) => Source::Kubeconfig(path),
            None => Source::InCluster,
        };
        let set = |list: &[String]| list.iter().cloned().collect();
        let mut settings = admission::PsatCluster::new(source, set(&chosen.service_accounts));
        settings.audience.clone_from(&chosen.audience);
        settings.node_labels = set(&chosen.allowed_node_label_keys);
        settings.pod_labels = set(&chosen.allowed_pod_label_keys);
        settings.pod_uid_in_id = chosen.use_pod_uid_for_agent_id;
        (name.clone(), settings)
    };
    admission::K8sPsat { clusters: chosen.clusters.iter().map(cluster).collect() }
}

fn x509pop(chosen: &server::X509Pop) -> anyhow::Result<admission::X509Pop> {
    let mode = match &chosen.mode {
        server::X509PopMode::ExternalPki { ca_bundle_paths } => {
            let mut certificates = Vec::new();
            for path in ca_bundle_paths {
                certificates.extend(load_certificates(path)?);
            }
            admission::X509PopMode::ExternalPki(Authorities::new(certificates))
        }
        server::X509PopMode::Spiffe { prefix } => admission::X509PopMode::Spiffe(prefix.clone()),
    };
    let mut settings = admission::X509Pop::new(mode);
    if let Some(agent_path) = &chosen.agent_path {
        settings.agent_path = agent_path.clone();
    }
    settings.max_intermediates = chosen.max_intermediates;
    settings.max_rsa_key_bits = chosen.max_rsa_key_size;
    settings.verify_client_ip = chosen.verify_client_ip;
    Ok(settings)
}

fn load_certificates(path: &Path) -> anyhow::Result<Vec<Arc<[u8]>>> {
    let name = || format!("unable to load trust bundle {:?}", path.display().to_string());
    let text = std::fs::read(path).with_context(name)?;
    let blocks = pem::parse(&text).with_context(name)?;
    let certificates = blocks.into_iter().filter(|block| block.label == "CERTIFICATE");
    let certificates: Vec<_> = certificates.map(|block| Arc::from(block.der.as_slice())).collect();
    if certificates.is_empty() {
        return Err(anyhow::anyhow!("no certificates found in file").context(name()));
    }
    Ok(certificates)
}

async fn federation(config: &server::Federation) -> anyhow::Result<settings::Federation> {
    let mut federation =
        settings::Federation { federates_with: config.federates_with.clone(), ..Default::default() };
    if let Some(endpoint) = &config.bundle_endpoint {
        let profile = match endpoint.profile.clone() {
            server::EndpointProfile::HttpsSpiffe => ServingProfile::HttpsSpiffe,
            server::EndpointProfile::HttpsWeb { cert_file_path, key_file_path, file_sync_interval } => {
                ServingProfile::HttpsWeb(CertificateFiles {
                    cert_file: cert_file_path,
                    key_file: key_file_path,
                    sync_interval: file_sync_interval,
                })
            }
        };
        federation.bundle_endpoint = Some(BundleEndpoint {
            address: resolve(&endpoint.address, endpoint.port).await?,
            refresh_hint: endpoint.refresh_hint,
            profile,
        });
    }
    Ok(federation)
}

/// Who signs this server's CA, in the server's words.
fn upstream(chosen: Option<&server::Upstream>) -> settings::Upstream {
    match chosen.cloned() {
        None => settings::Upstream::None,
        Some(server::Upstream::Disk { cert_file_path, key_file_path, bundle_file_path }) => {
            settings::Upstream::Disk(settings::DiskCa {
                cert_file: cert_file_path,
                key_file: key_file_path,
                bundle_file: bundle_file_path,
            })
        }
        Some(server::Upstream::Spire(above)) => settings::Upstream::Spire(settings::UpstreamServer {
            host: above.server_address,
            port: above.server_port,
            workload_api_socket: above.workload_api_socket,
            key_exchange: above.key_exchange,
        }),
    }
}

/// The key manager that a configuration names.
pub(super) fn key_manager(chosen: &config::server::KeyManager) -> anyhow::Result<Arc<dyn KeyManager>> {
    Ok(match chosen {
        server::KeyManager::Memory => Arc::new(Memory::new()),
        server::KeyManager::Disk { keys_path } => Arc::new(open_disk(keys_path)?),
    })
}

fn open_disk(path: &Path) -> anyhow::Result<Disk> {
    data_dir::create_parent(path)?;
    Disk::open(path).context("cannot open the key manager")
}
