//! The series and the handles to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tracing::error;

use super::call::Call;
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
        Call::new(self.clone(), name)
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

#[cfg(test)]
mod tests;
