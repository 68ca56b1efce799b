//! The `telemetry` section.

use std::path::PathBuf;

use vouchsafe_runtime::metrics::Filter;
use vouchsafe_types::spiffe_id::SpiffeId;

use super::observe::trim_brackets;
use super::section::Section;
use crate::go;

/// Metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where Prometheus may ask. `None`: nowhere.
    pub prometheus: Option<MetricsListener>,
    /// The prefix of metric names. `None`: `spire_server` or `spire_agent`.
    pub metric_prefix: Option<String>,
    /// Whether metrics carry the trust domain. Off unless asked for.
    pub trust_domain_label: bool,
    /// Whether metrics carry the host's name. On unless declined.
    pub hostname_label: bool,
    /// Which metrics and labels are kept.
    pub filter: Filter,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            prometheus: None,
            metric_prefix: None,
            trust_domain_label: false,
            hostname_label: true,
            filter: Filter::default(),
        }
    }
}

impl Telemetry {
    /// Whether somebody may ask for metrics because of a SPIFFE ID.
    #[must_use]
    pub fn knows_clients_by_spiffe_id(&self) -> bool {
        let tls = self.prometheus.as_ref().and_then(|listener| listener.tls.as_ref());
        tls.is_some_and(|tls| matches!(tls.clients, MetricsClients::SpiffeIds(_)))
    }
}

/// Where Prometheus may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsListener {
    /// Name or address to listen on.
    pub host: String,
    /// Port. 0 is any free one.
    pub port: u16,
    /// How TLS is spoken. `None`: not at all.
    pub tls: Option<MetricsTls>,
}

/// TLS of the port that Prometheus asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsTls {
    /// What is presented.
    pub certificate: MetricsCertificate,
    /// Who may ask.
    pub clients: MetricsClients,
}

/// What the port that Prometheus asks presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsCertificate {
    /// The X.509-SVID of the server or the agent.
    OwnSvid,
    /// A certificate and its key in PEM files.
    Files {
        /// The chain, leaf first.
        cert_file: PathBuf,
        /// The private key.
        key_file: PathBuf,
    },
}

/// Who may ask for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsClients {
    /// Anybody.
    Anyone,
    /// Who has one of these SPIFFE IDs.
    SpiffeIds(Vec<SpiffeId>),
    /// Whom an authority in this PEM file vouches for.
    IssuedBy(PathBuf),
}

/// Reads `telemetry`.
pub(super) fn read(top: &Section<'_>) -> Telemetry {
    let Some(section) = top.section("telemetry") else { return Telemetry::default() };
    let telemetry = Telemetry {
        prometheus: section.section("Prometheus").map(read_prometheus),
        metric_prefix: section.text("MetricPrefix"),
        trust_domain_label: section.flag("EnableTrustDomainLabel").unwrap_or(false),
        hostname_label: section.flag("EnableHostnameLabel").unwrap_or(true),
        filter: Filter {
            allowed_prefixes: section.strings("AllowedPrefixes"),
            blocked_prefixes: section.strings("BlockedPrefixes"),
            allowed_labels: section.strings("AllowedLabels"),
            blocked_labels: section.strings("BlockedLabels"),
        },
    };
    for sink in ["DogStatsd", "Statsd", "M3", "InMem"] {
        section.not_built(sink, "remove it and use Prometheus");
    }
    section.finish();
    telemetry
}

fn read_prometheus(section: Section<'_>) -> MetricsListener {
    let port = section.port("port");
    if port.is_none() {
        section.problem("port", "must be configured: the port that Prometheus asks");
    }
    let host = section.text("host").unwrap_or_else(|| "localhost".to_owned());
    let tls = section.section("tls").and_then(|tls| read_tls(tls));
    section.finish();
    MetricsListener { host: trim_brackets(&host), port: port.unwrap_or_default(), tls }
}

/// `None` if it contradicts itself, which is reported.
fn read_tls(section: Section<'_>) -> Option<MetricsTls> {
    let file = |key| section.text(key).map(PathBuf::from);
    let (cert_file, key_file, authorities) = (file("cert_file"), file("key_file"), file("client_ca_file"));
    let own_svid = section.flag("use_spire_svid").unwrap_or(false);
    let mut ids = Vec::new();
    let mut sound = true;
    let mut refuse = |key, message: &str| {
        section.refuse(key, message);
        sound = false;
    };
    for text in section.strings("authorized_spiffe_ids") {
        match SpiffeId::parse(&text) {
            Ok(id) => ids.push(id),
            Err(error) => refuse(
                "authorized_spiffe_ids",
                &format!("invalid authorized SPIFFE ID {}: {error}", go::quote(&text)),
            ),
        }
    }
    let certificate = match (own_svid, cert_file, key_file) {
        (true, None, None) => Some(MetricsCertificate::OwnSvid),
        (false, Some(cert_file), Some(key_file)) => Some(MetricsCertificate::Files { cert_file, key_file }),
        (true, ..) => {
            let text = "cert_file and key_file cannot be configured when use_spire_svid is enabled";
            refuse("use_spire_svid", text);
            None
        }
        (false, ..) => {
            let text = "cert_file and key_file must both be configured unless use_spire_svid is enabled";
            refuse("tls", text);
            None
        }
    };
    let clients = match authorities {
        Some(_) if !ids.is_empty() => {
            refuse("client_ca_file", "client_ca_file cannot be configured with authorized_spiffe_ids");
            MetricsClients::Anyone
        }
        Some(authorities) => MetricsClients::IssuedBy(authorities),
        None if ids.is_empty() => MetricsClients::Anyone,
        None => MetricsClients::SpiffeIds(ids),
    };
    section.finish();
    certificate.filter(|_| sound).map(|certificate| MetricsTls { certificate, clients })
}
