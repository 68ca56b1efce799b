//! The level of a process's log, which an operator may change while it runs.
//!
//! Whoever filters events asks [`LogLevelControl::current`], one load without a lock. A filter may also let `tracing`
//! remember its answer per call site: [`LogLevelControl::set`] makes `tracing` ask again.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much is logged. The names are those of logrus, because configuration files and tools have them.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum LogLevel {
    /// Nothing: no event is that bad here.
    Panic,
    /// Nothing: no event is that bad here.
    Fatal,
    /// What a person must act on.
    Error,
    /// What is unexpected, too.
    Warn,
    /// Changes that an operator would ask about, too.
    #[default]
    Info,
    /// One item at a time, too.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level, quietest first.
    pub const ALL: [Self; 7] =
        [Self::Panic, Self::Fatal, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The name that logrus gives it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no level.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a valid logrus Level: {0:?}")]
pub struct UnknownLevel(String);

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    /// Reads a name in any case; `warn` is `warning`.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let lower = text.to_ascii_lowercase();
        let named = |level: &Self| level.as_str() == lower || (*level == Self::Warn && lower == "warn");
        Self::ALL.into_iter().find(named).ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

/// The level in force, shared by everybody who has a clone.
#[derive(Clone, Debug)]
pub struct LogLevelControl {
    launch: LogLevel,
    current: Arc<AtomicU8>,
}

impl LogLevelControl {
    /// Starts at `launch`.
    #[must_use]
    pub fn new(launch: LogLevel) -> Self {
        Self { launch, current: Arc::new(AtomicU8::new(launch as u8)) }
    }

    /// The level that the process was started with.
    #[must_use]
    pub fn launch(&self) -> LogLevel {
        self.launch
    }

    /// The level in force.
    #[must_use]
    pub fn current(&self) -> LogLevel {
        let index = usize::from(self.current.load(Ordering::Relaxed));
        LogLevel::ALL.get(index).copied().unwrap_or_default()
    }

    /// Takes `level` from now on.
    pub fn set(&self, level: LogLevel) {
        self.current.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    /// Goes back to the level at launch.
    pub fn reset(&self) {
        self.set(self.launch);
    }
}

impl Default for LogLevelControl {
    fn default() -> Self {
        Self::new(LogLevel::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_logrus_in_any_case() {
        for level in LogLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(level.to_string().to_uppercase().parse(), Ok(level));
        }
        assert_eq!("warn".parse(), Ok(LogLevel::Warn));
        assert_eq!("loud".parse::<LogLevel>().unwrap_err().to_string(), "not a valid logrus Level: \"loud\"");
    }

    #[test]
    fn every_clone_sees_a_change_and_the_level_at_launch_comes_back() {
        let control = LogLevelControl::new(LogLevel::Warn);
        let other = control.clone();
        other.set(LogLevel::Trace);
        assert_eq!((control.current(), control.launch()), (LogLevel::Trace, LogLevel::Warn));
        control.reset();
        assert_eq!(other.current(), LogLevel::Warn);
    }
}
