//! Log lines in the two shapes that SPIRE writes, because its tools search them.
//!
//! Text: `time="2026-11-21T08:55:01Z" level=info msg="Server stopped gracefully" key=value`, fields in order of their
//! names. JSON: one object a line with `level`, `msg` and `time`. The message of an event is the message, exactly; the
//! fields of the event and of the spans around it are the fields, the innermost wins. A field whose name the format
//! uses itself is called `fields.NAME`.
//!
//! Our own crates log at the level that is configured; other crates only warnings and errors.

mod line;
mod output;
mod threshold;

use std::io;
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::log_level::LogLevelControl;

use self::line::{Fields, Line};
pub use self::output::{Output, Stream};
use self::threshold::Threshold;
use crate::config::{LogConfig, LogFormat};

/// Starts logging for the whole process. The first handle reopens the log file (`SIGUSR2`), the second changes the level.
///
/// # Errors
///
/// The file cannot be opened, or logging was started before.
pub fn start(
    config: &LogConfig,
    stream: Stream,
    clock: Clock,
) -> Result<(Arc<Output>, LogLevelControl), LogError> {
    let output = Arc::new(match &config.file {
        Some(path) => Output::file(path)
            .map_err(|source| LogError::File { path: path.display().to_string(), source })?,
        None => Output::stream(stream),
    });
    let level = LogLevelControl::new(config.level);
    let subscriber = subscriber(config, level.clone(), Arc::clone(&output), clock);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadyStarted)?;
    Ok((output, level))
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("cannot open the log file {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It was started before.
    #[error("logging was started twice")]
    AlreadyStarted,
}

fn subscriber(
    config: &LogConfig,
    level: LogLevelControl,
    output: Arc<Output>,
    clock: Clock,
) -> impl Subscriber + Send + Sync {
    let layer = LineLayer { output, clock, format: config.format, source_location: config.source_location };
    Registry::default().with(layer.with_filter(Threshold(level)))
}

/// Turns events into lines.
struct LineLayer {
    output: Arc<Output>,
    clock: Clock,
    format: LogFormat,
    source_location: bool,
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for LineLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut Collector(&mut fields));
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            record.record(&mut Collector(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.extend(outer);
            }
        }
        event.record(&mut Collector(&mut fields));
        let metadata = event.metadata();
        if let (true, Some(file)) = (self.source_location, metadata.file()) {
            let name = file.rsplit('/').next().unwrap_or(file);
            fields.set_text("file", format!("{name}:{}", metadata.line().unwrap_or_default()));
            fields.set_text("func", metadata.module_path().unwrap_or_default().to_owned());
        }
        let line = Line {
            time: self.clock.now(),
            level: level_name(*metadata.level()),
            message: fields.take_message(),
            fields,
        };
        self.output.write_line(&line.render(self.format));
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Collector<'a>(&'a mut Fields);

impl Visit for Collector<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.set_text(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // The fields of an audit line are known when it is written only; they come as one object.
        if field.name() == vouchsafe_server::audit::FIELDS
            && let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(value)
        {
            for (name, value) in fields {
                self.0.set(&name, value);
            }
            return;
        }
        self.0.set_text(field.name(), value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.0.set_text(field.name(), text);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.set(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.set(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.set(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.set(field.name(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use vouchsafe_runtime::log_level::LogLevel;

    use super::*;

    fn logged(config: &LogConfig, log: impl FnOnce()) -> String {
        let output = Arc::new(Output::memory());
        let clock = Clock::derived(SystemTime::UNIX_EPOCH + Duration::new(1_552_410_266, 5_000_000));
        let level = LogLevelControl::new(config.level);
        let subscriber = subscriber(config, level, Arc::clone(&output), clock);
        tracing::subscriber::with_default(subscriber, log);
        output.contents()
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_looks_like_one_of_spire() {
        let text = logged(&LogConfig::default(), || {
            tracing::info!(address = "0.0.0.0:8081", network = "tcp", "Starting Server APIs");
            tracing::warn!(count = 3, "a \"quoted\" message");
            tracing::debug!("not shown");
        });
        assert_eq!(
            text,
            "time=\"2019-03-12T17:04:26Z\" level=info msg=\"Starting Server APIs\" address=\"0.0.0.0:8081\" network=tcp\n\
             time=\"2019-03-12T17:04:26Z\" level=warning msg=\"a \\\"quoted\\\" message\" count=3\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn json_and_source_location_look_like_those_of_spire() {
        let config = LogConfig { format: LogFormat::Json, source_location: true, ..LogConfig::default() };
        let text = logged(&config, || tracing::error!(msg = "clash", ok = true, "failed <badly>"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["msg"], "failed <badly>");
        assert_eq!(line["fields.msg"], "clash");
        assert_eq!(line["ok"], true);
        assert_eq!(line["level"], "error");
        assert_eq!(line["time"], "2019-03-12T17:04:26.005Z");
        assert!(line["file"].as_str().unwrap().starts_with("logging.rs:"), "{line}");
    }

    #[tokio::test(start_paused = true)]
    async fn fields_of_spans_are_fields_of_their_events() {
        let config = LogConfig { format: LogFormat::Text, level: LogLevel::Debug, ..LogConfig::default() };
        let text = logged(&config, || {
            let outer =
                tracing::info_span!("outer", subsystem_name = "ca", slot = "A", late = tracing::field::Empty);
            outer.record("late", 7);
            outer.in_scope(|| tracing::debug!(slot = "B", "Prepared"));
        });
        assert_eq!(
            text,
            "time=\"2019-03-12T17:04:26.005Z\" level=debug msg=Prepared late=7 slot=B subsystem_name=ca\n"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn other_crates_are_heard_from_warnings_up() {
        let config = LogConfig { level: LogLevel::Trace, ..LogConfig::default() };
        let text = logged(&config, || {
            tracing::info!(target: "h2::codec", "frame");
            tracing::warn!(target: "h2::codec", "odd");
            tracing::debug!(target: "vouchsafe_server::feed", "event");
        });
        assert!(!text.contains("frame") && text.contains("msg=odd") && text.contains("msg=event"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_level_may_change_while_events_come() {
        let output = Arc::new(Output::memory());
        let clock = Clock::derived(SystemTime::UNIX_EPOCH);
        let level = LogLevelControl::default();
        let subscriber = subscriber(&LogConfig::default(), level.clone(), Arc::clone(&output), clock);
        let event = || {
            tracing::debug!("detail");
            tracing::error!("trouble");
        };
        let lines = |of: &str| output.contents().matches(of).count();
        tracing::subscriber::with_default(subscriber, || {
            event();
            assert_eq!((lines("detail"), lines("trouble")), (0, 1));
            level.set(LogLevel::Debug);
            event();
            assert_eq!((lines("detail"), lines("trouble")), (1, 2));
            level.set(LogLevel::Fatal);
            event();
            level.reset();
            event();
            assert_eq!((lines("detail"), lines("trouble")), (1, 3));
        });
    }

    #[tokio::test(start_paused = true)]
    async fn an_audit_line_looks_like_one_of_spire() {
        let text = logged(&LogConfig::default(), || {
            let fields = r#"{"type":"audit","caller_uid":0,"authorized_via":"","status":"success"}"#;
            tracing::info!(audit = fields, "API accessed");
        });
        assert_eq!(
            text,
            "time=\"2019-03-12T17:04:26Z\" level=info msg=\"API accessed\" authorized_via= caller_uid=0 \
             status=success type=audit\n"
        );
    }
}
