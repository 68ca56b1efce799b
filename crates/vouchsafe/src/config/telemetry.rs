//! The `telemetry` section.

use vouchsafe_runtime::metrics::Filter;

use super::observe::trim_brackets;
use super::section::Section;

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

/// Where Prometheus may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsListener {
    /// Name or address to listen on.
    pub host: String,
    /// Port. 0 is any free one.
    pub port: u16,
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
    section.not_built("tls", "remove it and let the listener stay on localhost, or put a proxy in front");
    section.finish();
    MetricsListener { host: trim_brackets(&host), port: port.unwrap_or_default() }
}
