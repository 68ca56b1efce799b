//! Counters, gauges, summaries and histograms, rendered as Prometheus text.
//!
//! Names and labels follow what SPIRE's dashboards read, which client libraries do not allow: counters without
//! `_total`, `# HELP` that repeats the name, and summaries over a short window.
//!
//! * [`Registry`] holds everything under one prefix; clones share
//! * [`Counter`], [`Gauge`], [`Summary`], [`Histogram`] are cheap handles; [`Call`] counts and times calls by outcome
//! * [`Registry::before_render`] is for values that are worked out only when somebody asks
//! * [`Registry::show_degraded`] shows what readiness says
//! * [`sanitize`] makes a label value from text that a caller controls

mod call;
mod degraded;
mod filter;
mod histogram;
mod memory_limit;
mod process;
mod registry;
mod render;
mod summary;

pub use call::Call;
pub use filter::Filter;
pub use histogram::{BUCKETS, Histogram};
pub use registry::{Counter, Gauge, MAX_SERIES_PER_NAME, Registry};
pub use render::sanitize;
pub use summary::Summary;
