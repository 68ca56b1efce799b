//! Which events become lines.

use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};
use vouchsafe_runtime::log_level::{LogLevel, LogLevelControl};

/// Lets our own crates through at the level in force, others at most from warnings up.
///
/// `tracing` remembers the answer for each call site, so an event that is not logged costs one comparison; a change of the
/// level makes it ask again.
pub(super) struct Threshold(pub(super) LogLevelControl);

impl Threshold {
    fn own(&self) -> LevelFilter {
        match self.0.current() {
            LogLevel::Panic | LogLevel::Fatal => LevelFilter::OFF,
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }

    fn lets_through(&self, metadata: &Metadata<'_>) -> bool {
        let own = self.own();
        let limit = if metadata.target().starts_with("vouchsafe") { own } else { own.min(LevelFilter::WARN) };
        *metadata.level() <= limit
    }
}

impl<S: Subscriber> Filter<S> for Threshold {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.lets_through(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.lets_through(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.own())
    }
}
