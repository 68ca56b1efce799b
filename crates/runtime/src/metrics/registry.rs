//! The series and the handles to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tracing::error;

use super::filter::Filter;
use super::histogram::Histogram;
use super::summary::Summary;
use super::{memory_limit::memory_limit, process, render};

/// Series of one name beyond this many share one whose labels all say `other`.
pub const MAX_SERIES_PER_NAME: usize = 1_000;

/// All metrics of one process. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

struct Inner {
    prefix: String,
    common: Labels,
    filter: Filter,
    families: RwLock<Families>,
    collectors: RwLock<BTreeMap<&'static str, Collector>>,
}

/// Brings series up to date before they are shown.
type Collector = Arc<dyn Fn(&Registry) + Send + Sync>;

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

pub(super) type Labels = Vec<(String, String)>;
pub(super) type Families = BTreeMap<String, Family>;

/// All series of one name.
#[derive(Debug)]
pub(super) enum Family {
    Counters(BTreeMap<Labels, Counter>),
    Gauges(BTreeMap<Labels, Gauge>),
    Summaries(BTreeMap<Labels, Summary>),
    Histograms(BTreeMap<Labels, Histogram>),
}

/// Something that is counted. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it has come to.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something that goes up and down. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// It is `value` now.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// It has changed by `delta`.
    pub fn add(&self, delta: f64) {
        let more = |bits| Some((f64::from_bits(bits) + delta).to_bits());
        // The closure never declines, so there is no error to handle.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok();
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl Registry {
    /// An empty registry. `prefix` comes before every name, `common_labels` go on every series.
    #[must_use]
    pub fn new(prefix: &str, common_labels: &[(&str, &str)]) -> Self {
        Self::filtered(prefix, common_labels, Filter::default())
    }

    /// An empty registry that keeps only what `filter` does.
    #[must_use]
    pub fn filtered(prefix: &str, common_labels: &[(&str, &str)], filter: Filter) -> Self {
        let mut common = labels(common_labels);
        common.retain(|(name, _)| filter.keeps_label(name));
        Self(Arc::new(Inner {
            prefix: render::name(prefix),
            common,
            filter,
            families: RwLock::default(),
            collectors: RwLock::default(),
        }))
    }

    /// The counter `name` with these labels.
    #[must_use]
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Counter {
        self.series(name, labels, &|| Family::Counters(BTreeMap::new()), &|family| match family {
            Family::Counters(series) => Some(series),
            _ => None,
        })
    }

    /// The gauge `name` with these labels.
    #[must_use]
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Gauge {
        self.series(name, labels, &|| Family::Gauges(BTreeMap::new()), &|family| match family {
            Family::Gauges(series) => Some(series),
            _ => None,
        })
    }

    /// The summary `name` with these labels.
    #[must_use]
    pub fn summary(&self, name: &str, labels: &[(&str, &str)]) -> Summary {
        self.series(name, labels, &|| Family::Summaries(BTreeMap::new()), &|family| match family {
            Family::Summaries(series) => Some(series),
            _ => None,
        })
    }

    /// The histogram `name` with these labels, of durations in seconds.
    #[must_use]
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Histogram {
        self.series(name, labels, &|| Family::Histograms(BTreeMap::new()), &|family| match family {
            Family::Histograms(series) => Some(series),
            _ => None,
        })
    }

    /// Has `collect` called before everything is shown, for values that cost something to find out. It takes the place of
    /// the one that `what` named before, and must not wait: a scraper does.
    pub fn before_render(&self, what: &'static str, collect: impl Fn(&Self) + Send + Sync + 'static) {
        let mut collectors = self.0.collectors.write().unwrap_or_else(PoisonError::into_inner);
        collectors.insert(what, Arc::new(collect));
    }

    /// Takes the gauge `name` with these labels away, for something that is no more. A handle to it shows nothing from now on.
    pub fn forget_gauge(&self, name: &str, own: &[(&str, &str)]) {
        let (name, own) = self.key(name, own);
        let mut families = self.0.families.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Family::Gauges(series)) = families.get_mut(&name) {
            series.remove(&own);
            if series.is_empty() {
                families.remove(&name);
            }
        }
    }

    /// Takes all series of `name` away whose label says so, for something that is no more.
    pub fn forget(&self, name: &str, (label, value): (&str, &str)) {
        let name = self.key(name, &[]).0;
        let label = render::label_name(label);
        let stays = |own: &Labels| !own.iter().any(|(name, text)| *name == label && text == value);
        let mut families = self.0.families.write().unwrap_or_else(PoisonError::into_inner);
        let left = match families.get_mut(&name) {
            None => return,
            Some(Family::Counters(series)) => {
                series.retain(|own, _| stays(own));
                series.len()
            }
            Some(Family::Gauges(series)) => {
                series.retain(|own, _| stays(own));
                series.len()
            }
            Some(Family::Summaries(series)) => {
                series.retain(|own, _| stays(own));
                series.len()
            }
            Some(Family::Histograms(series)) => {
                series.retain(|own, _| stays(own));
                series.len()
            }
        };
        if left == 0 {
            families.remove(&name);
        }
    }

    /// The full name of a series, and its labels as they are kept.
    fn key(&self, name: &str, own: &[(&str, &str)]) -> (String, Labels) {
        let mut own = labels(own);
        own.retain(|(name, _)| self.0.filter.keeps_label(name));
        own.sort_unstable();
        (format!("{}_{}", self.0.prefix, render::name(name)), own)
    }

    /// Counts and times calls under `name` and `name_elapsed_time`.
    #[must_use]
    pub fn call(&self, name: &str) -> Call {
        Call(Arc::new(CallInner {
            registry: self.clone(),
            name: name.to_owned(),
            elapsed: format!("{name}_elapsed_time"),
            known: RwLock::new(Vec::new()),
        }))
    }

    /// Everything in the Prometheus text format 0.0.4, with what the kernel knows of this process.
    #[must_use]
    pub fn render(&self) -> String {
        // Not under the lock: a collector may add another.
        for collect in self.collectors() {
            collect(self);
        }
        let mut text = String::new();
        render::families(&mut text, &self.read(), &self.0.common);
        process::render(&mut text);
        let (name, _) = self.key("vouchsafe_memory_limit_bytes", &[]);
        if let Some(limit) = memory_limit().filter(|_| self.0.filter.keeps(&name)) {
            render::gauge(&mut text, &name, &self.0.common, limit as f64);
        }
        text
    }

    fn collectors(&self) -> Vec<Collector> {
        self.0.collectors.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Finds or makes one series. A name that is taken by another kind gives a series nobody will see.
    fn series<S: Series>(
        &self,
        name: &str,
        own: &[(&str, &str)],
        empty: &dyn Fn() -> Family,
        of: Of<S>,
    ) -> S {
        let (name, mut own) = self.key(name, own);
        if !self.0.filter.keeps(&name) {
            return S::empty();
        }
        let mut families = self.0.families.write().unwrap_or_else(PoisonError::into_inner);
        let Some(series) = of(families.entry(name.clone()).or_insert_with(empty)) else {
            error!(name, "two kinds of metric have the same name; the second is not shown");
            return S::empty();
        };
        if series.len() >= MAX_SERIES_PER_NAME && !series.contains_key(&own) {
            own.iter_mut().for_each(|(_, value)| OTHER.clone_into(value));
        }
        series.entry(own).or_insert_with(S::empty).clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, Families> {
        self.0.families.read().unwrap_or_else(PoisonError::into_inner)
    }
}

const OTHER: &str = "other";

/// The series of one kind in a family, or nothing if it is of another kind.
type Of<'a, S> = &'a dyn Fn(&mut Family) -> Option<&mut BTreeMap<Labels, S>>;

trait Series: Clone {
    fn empty() -> Self;
}

impl Series for Counter {
    fn empty() -> Self {
        Self::default()
    }
}

impl Series for Gauge {
    fn empty() -> Self {
        Self::default()
    }
}

impl Series for Summary {
    fn empty() -> Self {
        Self::new()
    }
}

impl Series for Histogram {
    fn empty() -> Self {
        Self::default()
    }
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (render::label_name(name), (*value).to_owned())).collect()
}

/// Counts calls by outcome and times them in milliseconds. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Call(Arc<CallInner>);

#[derive(Debug)]
struct CallInner {
    registry: Registry,
    name: String,
    elapsed: String,
    known: RwLock<Vec<Outcome>>,
}

/// The series of one outcome, found again without building a key.
#[derive(Debug)]
struct Outcome {
    extra: Labels,
    status: String,
    count: Counter,
    elapsed: Summary,
}

/// More outcomes than this are looked up in the registry each time.
const MAX_KNOWN_OUTCOMES: usize = 32;

impl Call {
    /// One call has ended with `status` after `elapsed`.
    pub fn observe(&self, extra_labels: &[(&str, &str)], status: &str, elapsed: Duration) {
        let millis = elapsed.as_secs_f64() * 1_000.0;
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = known.iter().find(|known| known.is(extra_labels, status)) {
            outcome.count.inc();
            outcome.elapsed.observe(millis);
            return;
        }
        drop(known);
        self.learn(extra_labels, status, millis);
    }

    fn learn(&self, extra_labels: &[(&str, &str)], status: &str, millis: f64) {
        let mut all = extra_labels.to_vec();
        all.push(("status", status));
        let count = self.0.registry.counter(&self.0.name, &all);
        let elapsed = self.0.registry.summary(&self.0.elapsed, &all);
        count.inc();
        elapsed.observe(millis);
        let extra =
            extra_labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let outcome = Outcome { extra, status: status.to_owned(), count, elapsed };
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_KNOWN_OUTCOMES && !known.iter().any(|known| known.is(extra_labels, status)) {
            known.push(outcome);
        }
    }
}

impl Outcome {
    fn is(&self, extra: &[(&str, &str)], status: &str) -> bool {
        self.status == status
            && self.extra.len() == extra.len()
            && self.extra.iter().zip(extra).all(|(own, other)| own.0 == other.0 && own.1 == other.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own_lines(registry: &Registry) -> String {
        let text = registry.render();
        text.split("# HELP process_").next().unwrap_or_default().to_owned()
    }

    #[test]
    fn what_the_filter_does_not_keep_is_not_shown() {
        let filter = Filter {
            blocked_prefixes: vec!["spire_agent.lru".to_owned()],
            blocked_labels: vec!["host".to_owned(), "status".to_owned()],
            ..Filter::default()
        };
        let registry = Registry::filtered("spire_agent", &[("host", "node1")], filter);
        registry.counter("lru_cache_entry_add", &[]).inc();
        registry.counter("rpc", &[("status", "OK")]).inc();
        registry.counter("rpc", &[("status", "Internal")]).inc();
        let text = own_lines(&registry);
        assert!(text.ends_with("\nspire_agent_rpc 2\n") && !text.contains("lru"), "{text}");
    }

    #[test]
    fn a_gauge_of_something_that_is_no_more_goes_alone() {
        let registry = Registry::new("spire_server", &[]);
        for name in ["a", "b"] {
            registry.gauge("fetched", &[("trust_domain_id", name)]).set(1.0);
        }
        registry.forget_gauge("fetched", &[("trust_domain_id", "a")]);
        let text = own_lines(&registry);
        assert!(!text.contains("\"a\"") && text.contains("{trust_domain_id=\"b\"} 1"), "{text}");
        registry.forget_gauge("fetched", &[("trust_domain_id", "b")]);
        assert_eq!(own_lines(&registry), "");
    }

    #[tokio::test(start_paused = true)]
    async fn the_text_is_what_dashboards_scrape() {
        let registry = Registry::new("spire_agent", &[("host", "node1")]);
        registry.gauge("started", &[("version", "1_15_3"), ("trust_domain_id", "example_org")]).set(1.0);
        registry.counter("lru_cache_entry_add", &[]).add(7);
        registry.call("rpc.workload_api").observe(&[], "OK", Duration::from_millis(4));
        let text = own_lines(&registry);
        let (before, after) = text.split_once("quantile=\"0.5\"} ").unwrap();
        assert_eq!(
            before,
            "# HELP spire_agent_lru_cache_entry_add spire_agent_lru_cache_entry_add\n\
             # TYPE spire_agent_lru_cache_entry_add counter\n\
             spire_agent_lru_cache_entry_add{host=\"node1\"} 7\n\
             # HELP spire_agent_rpc_workload_api spire_agent_rpc_workload_api\n\
             # TYPE spire_agent_rpc_workload_api counter\n\
             spire_agent_rpc_workload_api{host=\"node1\",status=\"OK\"} 1\n\
             # HELP spire_agent_rpc_workload_api_elapsed_time spire_agent_rpc_workload_api_elapsed_time\n\
             # TYPE spire_agent_rpc_workload_api_elapsed_time summary\n\
             spire_agent_rpc_workload_api_elapsed_time{host=\"node1\",status=\"OK\","
        );
        let (_, after) = after.split_once("quantile=\"0.99\"} ").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        assert_eq!(
            after,
            "spire_agent_rpc_workload_api_elapsed_time_sum{host=\"node1\",status=\"OK\"} 4\n\
             spire_agent_rpc_workload_api_elapsed_time_count{host=\"node1\",status=\"OK\"} 1\n\
             # HELP spire_agent_started spire_agent_started\n\
             # TYPE spire_agent_started gauge\n\
             spire_agent_started{host=\"node1\",trust_domain_id=\"example_org\",version=\"1_15_3\"} 1\n"
        );
    }

    #[test]
    fn what_is_no_more_takes_its_series_of_every_kind_with_it() {
        let registry = Registry::new("p", &[]);
        for server in ["a", "b"] {
            registry.counter("c", &[("server", server), ("status", "OK")]).inc();
            registry.gauge("g", &[("server", server)]).set(1.0);
            registry.histogram("h", &[("server", server)]).observe(Duration::ZERO);
        }
        ["c", "g", "h", "none"].iter().for_each(|name| registry.forget(name, ("server", "a")));
        let text = own_lines(&registry);
        assert!(!text.contains("server=\"a\"") && text.matches("server=\"b\"").count() == 2 + 17, "{text}");
        registry.forget("c", ("server", "b"));
        assert!(!own_lines(&registry).contains("p_c"));
    }

    #[test]
    fn a_histogram_is_shown_as_prometheus_counts_buckets() {
        let registry = Registry::new("p", &[("host", "n")]);
        let histogram = registry.histogram("request_seconds", &[("server", "a")]);
        histogram.observe(Duration::from_millis(20));
        registry.histogram("request_seconds", &[("server", "a")]).observe(Duration::from_secs(11));
        let text = own_lines(&registry);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2 + 14 + 3, "{text}");
        assert_eq!(lines[1], "# TYPE p_request_seconds histogram");
        assert_eq!(lines[2], "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"0.0005\"} 0");
        assert_eq!(lines[7], "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"0.02\"} 1");
        assert_eq!(
            lines[15..],
            [
                "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"10\"} 1",
                "p_request_seconds_bucket{host=\"n\",server=\"a\",le=\"+Inf\"} 2",
                "p_request_seconds_sum{host=\"n\",server=\"a\"} 11.02",
                "p_request_seconds_count{host=\"n\",server=\"a\"} 2",
            ]
        );
    }

    #[test]
    fn what_is_worked_out_when_somebody_asks_is_worked_out_once_each_time() {
        let registry = Registry::new("p", &[]);
        let held = Counter::default();
        let of = held.clone();
        registry.before_render("held", |registry| registry.gauge("old", &[]).set(1.0));
        registry.before_render("another", |registry| registry.before_render("third", |_| ()));
        registry.before_render("held", move |registry| registry.gauge("held", &[]).set(of.get() as f64));
        held.add(3);
        assert!(own_lines(&registry).ends_with("# TYPE p_held gauge\np_held 3\n"));
        held.inc();
        let text = own_lines(&registry);
        assert!(text.ends_with("\np_held 4\n") && !text.contains("old"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn asking_twice_gives_the_same_series_in_whatever_order_the_labels_come() {
        let registry = Registry::new("p", &[]);
        registry.counter("c", &[("a", "1"), ("b", "2")]).inc();
        registry.clone().counter("c", &[("b", "2"), ("a", "1")]).inc();
        assert_eq!(registry.counter("c", &[("a", "1"), ("b", "2")]).get(), 2);
        let gauge = registry.gauge("g", &[]);
        gauge.set(2.5);
        registry.gauge("g", &[]).add(-1.0);
        assert_eq!(gauge.get(), 1.5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_labels_is_folded_and_loses_no_count() {
        let registry = Registry::new("p", &[]);
        for peer in 0..MAX_SERIES_PER_NAME + 500 {
            registry.counter("c", &[("peer", &peer.to_string())]).inc();
        }
        registry.counter("c", &[("peer", "0")]).inc();
        let text = own_lines(&registry);
        assert_eq!(text.lines().count(), 2 + MAX_SERIES_PER_NAME + 1);
        assert!(text.contains("p_c{peer=\"other\"} 500\n"));
        assert!(text.contains("p_c{peer=\"0\"} 2\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_of_two_kinds_shows_the_first_and_breaks_nothing() {
        let registry = Registry::new("p", &[]);
        registry.counter("c", &[]).inc();
        registry.gauge("c", &[]).set(9.0);
        registry.summary("c", &[]).observe(9.0);
        registry.histogram("c", &[]).observe(Duration::from_secs(9));
        assert!(own_lines(&registry).ends_with("# TYPE p_c counter\np_c 1\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_told_apart_by_status_and_labels() {
        let registry = Registry::new("p", &[]);
        let call = registry.call("attest");
        for attestor in 0..2 * MAX_KNOWN_OUTCOMES {
            for _ in 0..3 {
                call.observe(&[("attestor", &attestor.to_string())], "OK", Duration::from_millis(2));
            }
        }
        call.clone().observe(&[("attestor", "0")], "Internal", Duration::ZERO);
        let count = |attestor: &str, status| {
            registry.counter("attest", &[("attestor", attestor), ("status", status)]).get()
        };
        assert_eq!(
            [count("0", "OK"), count("40", "OK"), count("0", "Internal"), count("1", "Internal")],
            [3, 3, 1, 0]
        );
        assert!(registry.render().contains("p_attest_elapsed_time_sum{attestor=\"40\",status=\"OK\"} 6\n"));
    }

    #[test]
    fn threads_that_count_together_lose_nothing() {
        let registry = Registry::new("p", &[]);
        let call = registry.call("k");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        call.observe(&[], "OK", Duration::from_millis(1));
                        registry.gauge("g", &[]).add(1.0);
                    }
                });
            }
        });
        assert_eq!(registry.counter("k", &[("status", "OK")]).get(), 4_000);
        assert_eq!(registry.gauge("g", &[]).get(), 4_000.0);
        assert!(registry.render().contains("p_k_elapsed_time_count{status=\"OK\"} 4000\n"));
    }

    proptest! {
        /// Whatever names and labels come, every line is a comment or `name{labels} number`.
        #[test]
        fn every_line_can_be_scraped(
            name in "(?s).{0,12}",
            label in "(?s).{1,8}",
            values in prop::collection::vec(("(?s).{0,8}", any::<f64>()), 0..5),
        ) {
            let registry = Registry::new("p", &[("host", "n")]);
            for (value, number) in &values {
                registry.gauge(&name, &[(&label, value)]).set(*number);
                registry.summary(&format!("{name}_s"), &[(&label, value)]).observe(*number);
            }
            for line in registry.render().split_terminator('\n').filter(|line| !line.starts_with("# ")) {
                let (series, number) = line.rsplit_once(' ').unwrap();
                prop_assert!(number.parse::<f64>().is_ok(), "{line}");
                let bare = series.split('{').next().unwrap();
                prop_assert!(bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
                prop_assert_eq!(series.contains('{'), series.ends_with('}'), "{}", line);
            }
        }
    }
}
