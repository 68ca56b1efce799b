//! `registrar run`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use uuid::Uuid;
use vouchsafe_cluster::{Name, Selection, Source};
use vouchsafe_registrar::label_selector::Labels;
use vouchsafe_registrar::run;
use vouchsafe_runtime::metrics::Registry;
use vouchsafe_transport::http::Pages;

use super::oidc::every_address;
use super::{Host, http};
use crate::config::registrar::{Address, Config, Followed, Lease};

pub(super) async fn run(config: Config, kubeconfig: Option<PathBuf>) -> anyhow::Result<()> {
    let mut host = Host::new(&config.log, &config.warnings)?;
    let registry = Registry::new("vouchsafe", &[]);
    let deps = run::Deps {
        clock: host.clock.clone(),
        entropy: host.entropy.fork("registrar"),
        registry: registry.clone(),
        readiness: host.readiness.clone(),
    };
    let source = match (&config.folder, kubeconfig) {
        (Some(folder), _) => Source::Folder(folder.clone()),
        (None, Some(path)) => Source::Kubeconfig(path),
        (None, None) => Source::InCluster,
    };
    let settings = run::Config {
        source,
        server_socket: config.server_socket.clone(),
        max_answer_bytes: config.max_answer_bytes,
        terms: config.terms.clone(),
        reconcile: config.reconcile,
        gc_interval: config.gc_interval,
        selections: config.namespaces.iter().map(selection).collect(),
        lease: config.lease.as_ref().map(lease).transpose()?,
    };
    tracing::info!(
        trust_domain = %config.terms.place.trust_domain,
        cluster_name = config.terms.place.cluster_name,
        cluster_domain = config.terms.place.cluster_domain,
        server = %config.server_socket.display(),
        "Starting the registrar"
    );
    run::start(settings, &deps, &mut host.tasks)?;
    registry.show_degraded(&host.readiness);
    if let Some(address) = &config.metrics {
        let pages = Pages::new().with_metrics(registry);
        serve(&mut host, address, "metrics", pages).await?;
    }
    if let Some(health) = &config.health {
        let pages = Pages::new().with_health(host.readiness.clone(), &health.live_path, &health.ready_path);
        serve(&mut host, &health.address, "health checks", pages).await?;
    }
    host.run().await
}

async fn serve(host: &mut Host, address: &Address, what: &'static str, pages: Pages) -> anyhow::Result<()> {
    let name = if address.host.is_empty() { every_address().await } else { &address.host };
    http::serve(host, name, address.port, what, pages).await
}

fn selection(followed: &Followed) -> Selection {
    let joined = |pairs: &Labels| {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join(","))
    };
    let mut selection = Selection::namespace(&followed.namespace);
    selection.labels = joined(&followed.labels);
    selection.fields = joined(&followed.fields);
    selection
}

/// The lease, and a name for this process that no other has.
fn lease(lease: &Lease) -> anyhow::Result<(Name, String)> {
    let namespace = match &lease.namespace {
        Some(namespace) => namespace.clone(),
        None => fs::read_to_string(OWN_NAMESPACE)
            .context("leader election needs resourceNamespace outside of a cluster")?
            .trim()
            .to_owned(),
    };
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok((Name::new(namespace, &lease.name), format!("{}_{}", host.trim(), Uuid::new_v4())))
}

const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
