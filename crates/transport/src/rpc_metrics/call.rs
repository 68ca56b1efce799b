//! One RPC from its beginning to its end, and the series that it is counted in.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use vouchsafe_runtime::metrics::{Counter, Histogram, Registry, Summary};

use super::{CANCELED, MAX_METHODS, STATUS_NAMES, UNAUTHENTICATED, UNIMPLEMENTED, names};

/// What all calls share.
pub(super) struct Shared {
    pub(super) registry: Registry,
    pub(super) methods: ArcSwap<HashMap<Box<str>, Arc<Method>>>,
}

impl Shared {
    pub(super) fn learn(&self, path: &str, timed: Option<&'static str>) -> Option<Arc<Method>> {
        self.methods.rcu(|known| {
            let mut methods = HashMap::clone(known);
            if methods.len() < MAX_METHODS && !methods.contains_key(path) {
                methods.insert(path.into(), Arc::new(Method::new(path, timed)));
            }
            methods
        });
        self.methods.load().get(path).cloned()
    }
}

/// The series of one method.
pub(super) struct Method {
    name: String,
    by_status: [OnceLock<(Counter, Summary)>; STATUS_NAMES.len()],
    timed: Option<Box<Timed>>,
}

/// The histograms of a method that has some.
struct Timed {
    name: &'static str,
    method: String,
    by_status: [OnceLock<Histogram>; STATUS_NAMES.len()],
}

impl Method {
    fn new(path: &str, timed: Option<&'static str>) -> Self {
        let timed = timed.map(|name| {
            let method = names::service_and_method(path).1.to_owned();
            Box::new(Timed { name, method, by_status: [const { OnceLock::new() }; STATUS_NAMES.len()] })
        });
        let by_status = [const { OnceLock::new() }; STATUS_NAMES.len()];
        Self { name: names::metric_name(path), by_status, timed }
    }

    fn answered(&self, registry: &Registry, code: u8, elapsed: Duration) {
        let Some(timed) = &self.timed else { return };
        let code = usize::from(code.min(UNAUTHENTICATED));
        let histogram = timed.by_status[code].get_or_init(|| {
            let labels = [("method", timed.method.as_str()), ("status", STATUS_NAMES[code])];
            registry.histogram(timed.name, &labels)
        });
        histogram.observe(elapsed);
    }

    fn count(&self, registry: &Registry, code: u8, millis: f64) {
        let code = usize::from(code.min(UNAUTHENTICATED));
        let (counter, summary) = self.by_status[code].get_or_init(|| {
            let labels = [("status", STATUS_NAMES[code])];
            let elapsed = format!("{}_elapsed_time", self.name);
            (registry.counter(&self.name, &labels), registry.summary(&elapsed, &labels))
        });
        counter.inc();
        summary.observe(millis);
    }
}

/// A running RPC. Dropped before it ends, it counts as cancelled.
pub(super) struct Call {
    shared: Arc<Shared>,
    method: Target,
    began: Instant,
    answered: bool,
}

enum Target {
    Known(Arc<Method>),
    Path(Box<str>),
    Counted,
}

impl Call {
    pub(super) fn begin(shared: Arc<Shared>, path: &str) -> Self {
        let known = shared.methods.load().get(path).cloned();
        let method = known.map_or_else(|| Target::Path(path.into()), Target::Known);
        Self { shared, method, began: Instant::now(), answered: false }
    }

    /// The caller has something: a first message, or the end.
    pub(super) fn answered(&mut self, code: u8) {
        if let Target::Known(method) = &self.method
            && !std::mem::replace(&mut self.answered, true)
        {
            method.answered(&self.shared.registry, code, self.began.elapsed());
        }
    }

    pub(super) fn end(mut self, code: u8) {
        self.answered(code);
        let method = match std::mem::replace(&mut self.method, Target::Counted) {
            Target::Known(method) => method,
            Target::Path(path) if code != UNIMPLEMENTED => match self.shared.learn(&path, None) {
                Some(method) => method,
                None => return,
            },
            Target::Path(_) | Target::Counted => return,
        };
        method.count(&self.shared.registry, code, self.began.elapsed().as_secs_f64() * 1000.0);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.answered(CANCELED);
        if let Target::Known(method) = &self.method {
            method.count(&self.shared.registry, CANCELED, self.began.elapsed().as_secs_f64() * 1000.0);
        }
    }
}
