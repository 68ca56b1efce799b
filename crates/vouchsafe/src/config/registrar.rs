//! The configuration of the registrar: spire-controller-manager's `ControllerManagerConfig`.

mod observed;

use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;
use vouchsafe_registrar::label_selector::Labels;
use vouchsafe_registrar::ledger::Terms;
use vouchsafe_registrar::render::{DEFAULT_PARENT_ID, Place};
use vouchsafe_registrar::run::Reconcile;
use vouchsafe_registrar::settings::{Class, EntryIds, IgnoredNamespaces};
use vouchsafe_registrar::template::Template;
use vouchsafe_types::TrustDomain;

use super::problems::Problems;
use super::section::Section;
use super::{Invalid, LogConfig, Problem, Source as Text, check_socket_path};
use crate::{go, yaml};

pub use self::observed::{Address, Health};

/// Where spire-controller-manager looks for the server.
pub const DEFAULT_SOCKET_PATH: &str = "/spire-server/api.sock";
/// How often everything is compared.
pub const DEFAULT_GC_INTERVAL: Duration = Duration::from_secs(10);
/// Largest answer of the server, as gRPC has it.
pub const DEFAULT_MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
const DEFAULT_IGNORED: [&str; 3] = ["kube-system", "kube-public", "spire-system"];

/// Everything that a registrar is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// What its entries are about.
    pub terms: Terms,
    /// Which kinds it follows.
    pub reconcile: Reconcile,
    /// The server's administrative socket.
    pub server_socket: PathBuf,
    /// Largest answer of the server that is read.
    pub max_answer_bytes: usize,
    /// How often everything is compared with what the server has.
    pub gc_interval: Duration,
    /// A folder of manifests in place of a cluster.
    pub folder: Option<PathBuf>,
    /// Which Pods are followed; all when empty.
    pub namespaces: Vec<Followed>,
    /// The lease to hold while working.
    pub lease: Option<Lease>,
    /// Where metrics are served.
    pub metrics: Option<Address>,
    /// Where health is served.
    pub health: Option<Health>,
    /// Logs.
    pub log: LogConfig,
    /// What the operator should hear at start.
    pub warnings: Vec<String>,
}

/// A namespace whose Pods are followed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Followed {
    /// Its name.
    pub namespace: String,
    /// The labels that Pods must have.
    pub labels: Labels,
    /// The fields that Pods must have.
    pub fields: Labels,
}

/// The lease of several registrars.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// `None` is the Pod's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// Reads a registrar's file. `cluster_domain` is what the machine knows of its cluster's domain.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load(text: &Text, cluster_domain: impl FnOnce() -> Option<String>) -> Result<Config, Invalid> {
    let problems = Problems::default();
    let body = yaml::parse(&text.text).map_err(|error| Invalid {
        path: text.path.clone(),
        problems: vec![Problem { position: Some(error.position), message: error.message }],
    })?;
    let top = Section::top(&body, &problems);
    let draft = read(&top, &problems, cluster_domain);
    top.finish();
    let warnings = problems.finish(&text.path)?;
    // Without problems every required value is there.
    let mut config = draft.ok_or_else(|| Invalid { path: text.path.clone(), problems: Vec::new() })?;
    config.warnings = warnings;
    Ok(config)
}

fn read(
    top: &Section<'_>,
    problems: &Problems,
    cluster_domain: impl FnOnce() -> Option<String>,
) -> Option<Config> {
    check_kind(top);
    let place = read_place(top, problems, cluster_domain);
    let folder = top.text("staticManifestPath").map(PathBuf::from);
    top.not_built("expandEnvStaticManifests", "write the values into the manifests");
    let reconcile = read_reconcile(top, folder.is_some());
    let lease = read_lease(top);
    if folder.is_some() && lease.is_some() {
        top.refuse("leaderElection", "the Leader election is not possible with static manifests");
    }
    let entry_ids = read_entry_ids(top);
    let class = Class {
        name: top.text("className").unwrap_or_default(),
        classless: top.flag("watchClassless").unwrap_or(false),
    };
    let ignored = read_ignored(top, problems);
    let (server_socket, max_answer_bytes) = (read_socket(top), read_grpc(top));
    let (gc_interval, namespaces) = (read_interval(top), read_namespaces(top));
    let (metrics, health) = (observed::read_metrics(top), observed::read_health(top));
    let log = observed::read_log(top);
    read_without_effect(top);
    Some(Config {
        terms: Terms { place: place?, class, ignored, entry_ids: entry_ids? },
        reconcile,
        server_socket,
        max_answer_bytes,
        gc_interval,
        folder,
        namespaces,
        lease,
        metrics,
        health,
        log,
        warnings: Vec::new(),
    })
}

fn check_kind(top: &Section<'_>) {
    top.no_effect("metadata");
    for (key, wanted) in [("apiVersion", "spire.spiffe.io/v1alpha1"), ("kind", "ControllerManagerConfig")] {
        if top.text(key).as_deref() != Some(wanted) {
            top.refuse(key, format!("{key} must be {wanted}"));
        }
    }
}

/// `None` if something that is required is missing or wrong.
fn read_place(
    top: &Section<'_>,
    problems: &Problems,
    cluster_domain: impl FnOnce() -> Option<String>,
) -> Option<Place> {
    let trust_domain = top.parsed("trustDomain", TrustDomain::parse);
    if !top.has("trustDomain") {
        problems.add("trust domain is required configuration (trustDomain)");
    }
    let cluster_name = top.text("clusterName");
    if cluster_name.is_none() {
        problems.add("cluster name is required configuration (clusterName)");
    }
    let cluster_domain = top.text("clusterDomain").or_else(|| {
        let found = cluster_domain();
        if found.is_none() {
            top.warn("clusterDomain is not set and could not be found out; DNS names are without it");
        }
        found
    });
    let parent_id = top.parsed("parentIDTemplate", |text| Template::parse("parentIDTemplate", text));
    let parent_id = match parent_id {
        None => Template::parse("parentIDTemplate", DEFAULT_PARENT_ID).ok(),
        given => given,
    };
    Some(Place {
        trust_domain: trust_domain?,
        cluster_name: cluster_name?,
        cluster_domain: cluster_domain.unwrap_or_default(),
        parent_id: parent_id?,
    })
}

/// Everything is followed unless the section is there; then what it names. A folder seldom has Pods.
fn read_reconcile(top: &Section<'_>, folder: bool) -> Reconcile {
    let Some(section) = top.section("reconcile") else {
        return Reconcile { spiffe_ids: !folder, static_entries: true, federated_trust_domains: true };
    };
    let reconcile = Reconcile {
        spiffe_ids: section.flag("clusterSPIFFEIDs").unwrap_or(false),
        static_entries: section.flag("clusterStaticEntries").unwrap_or(false),
        federated_trust_domains: section.flag("clusterFederatedTrustDomains").unwrap_or(false),
    };
    section.finish();
    reconcile
}

fn read_lease(top: &Section<'_>) -> Option<Lease> {
    let section = top.section("leaderElection")?;
    let elect = section.flag("leaderElect").unwrap_or(false);
    let (name, namespace) = (section.text("resourceName"), section.text("resourceNamespace"));
    if let Some(lock) = section.text("resourceLock").filter(|lock| lock != "leases") {
        section.refuse("resourceLock", format!("resourceLock must be leases, not {lock}"));
    }
    for key in ["leaseDuration", "renewDeadline", "retryPeriod"] {
        section.no_effect(key);
    }
    if elect && name.is_none() {
        section.refuse("leaderElect", "leader election needs resourceName, the name of the lease");
    }
    section.finish();
    name.filter(|_| elect).map(|name| Lease { namespace, name })
}

fn read_entry_ids(top: &Section<'_>) -> Option<EntryIds> {
    let prefix = top.text("entryIDPrefix").unwrap_or_default();
    // The empty text means something here.
    let cleanup =
        top.text("entryIDPrefixCleanup").or_else(|| top.has("entryIDPrefixCleanup").then(String::new));
    match EntryIds::new(&prefix, cleanup.as_deref()) {
        Ok(ids) => Some(ids),
        Err(error) => {
            top.refuse("entryIDPrefixCleanup", error.to_string());
            None
        }
    }
}

fn read_ignored(top: &Section<'_>, problems: &Problems) -> IgnoredNamespaces {
    let Some(patterns) = top.texts("ignoreNamespaces") else {
        let patterns = DEFAULT_IGNORED.iter().filter_map(|name| Regex::new(name).ok());
        return IgnoredNamespaces(patterns.collect());
    };
    let mut read = Vec::with_capacity(patterns.len());
    for (pattern, position) in patterns {
        match Regex::new(&pattern) {
            Ok(pattern) => read.push(pattern),
            Err(error) => problems.at(position, format!("ignoreNamespaces: {error}")),
        }
    }
    IgnoredNamespaces(read)
}

fn read_socket(top: &Section<'_>) -> PathBuf {
    let path =
        top.parsed("spireServerSocketPath", |path| check_socket_path(path).map(|()| PathBuf::from(path)));
    path.unwrap_or_else(|| DEFAULT_SOCKET_PATH.into())
}

fn read_grpc(top: &Section<'_>) -> usize {
    let Some(section) = top.section("grpc") else { return DEFAULT_MAX_ANSWER_BYTES };
    let bytes = section.integer("maxCallRecvMsgSize", 0, i64::from(i32::MAX)).unwrap_or(0);
    section.finish();
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(DEFAULT_MAX_ANSWER_BYTES)
}

/// Nanoseconds as spire-controller-manager wants them, or a duration as everybody writes it.
fn read_interval(top: &Section<'_>) -> Duration {
    let interval = top.parsed("gcInterval", |text| match text.parse() {
        Ok(nanos) => Ok(Duration::from_nanos(nanos)),
        Err(_) => go::parse_duration(text),
    });
    if interval.is_some_and(|interval| interval < MIN_GC_INTERVAL) {
        top.refuse("gcInterval", "gcInterval must be at least 100ms; a number without a unit is nanoseconds");
    }
    interval.unwrap_or(DEFAULT_GC_INTERVAL)
}

const MIN_GC_INTERVAL: Duration = Duration::from_millis(100);

fn read_namespaces(top: &Section<'_>) -> Vec<Followed> {
    let one = top.text("cacheNamespace");
    let mut followed = Vec::new();
    for (namespace, section) in top.named_sections("cacheNamespaces") {
        let (labels, fields) = (section.string_map("labelSelectors"), section.string_map("fieldSelectors"));
        section.finish();
        followed.push(Followed { namespace, labels, fields });
    }
    if one.is_some() && !followed.is_empty() {
        top.refuse("cacheNamespace", "cacheNamespace or cacheNamespaces can be used, but not both");
    }
    followed.extend(one.map(|namespace| Followed { namespace, ..Followed::default() }));
    followed
}

/// Keys for what works differently here, or not at all.
fn read_without_effect(top: &Section<'_>) {
    for key in ["syncPeriod", "gracefulShutDown", "enableEntryRenderCache", "entryRenderCacheSize"] {
        top.no_effect(key);
    }
    if let Some(section) = top.section("controller") {
        for key in ["groupKindConcurrency", "cacheSyncTimeout", "recoverPanic"] {
            section.no_effect(key);
        }
        section.finish();
    }
    top.no_effect("validatingWebhookConfigurationName");
    if let Some(section) = top.section("webhook") {
        for key in ["port", "host", "certDir"] {
            section.no_effect(key);
        }
        section.finish();
        top.warn(
            "there is no validating webhook: what is wrong with an object is a condition on it; delete the \
                  ValidatingWebhookConfiguration of spire-controller-manager",
        );
    }
}

#[cfg(test)]
mod tests;
