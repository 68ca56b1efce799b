//! Events about objects, as `kubectl describe` shows them (`events.k8s.io/v1`).
//!
//! They are for people, and cost the caller nothing: [`Events::record`] puts one into a bounded queue and returns. One
//! task writes them, few per second, the same one once: repetitions are counted and written as a series once a minute.
//! While the API server does not answer they wait; what does not fit is counted and forgotten.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::budget::Budget;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::metrics::Counter;

use crate::api::{Api, Urgency};
use crate::cluster::{Backend, Cluster};
use crate::error::ClusterError;
use crate::kind::Name;
use ledger::{Ledger, Write};

mod ledger;

/// Where events are told. Cheap to clone; never blocks, never fails its caller.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Told>,
    dropped: Counter,
}

/// Writes the events that were told. A task for the supervisor.
#[derive(Debug)]
pub struct EventWriter {
    queue: mpsc::Receiver<Told>,
    cluster: Cluster,
    component: String,
    instance: String,
    dropped: Counter,
}

/// What kind of event.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventType {
    /// Something went as it should.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

/// What was told, once.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) object: Arc<ObjectReference>,
    pub(crate) kind: EventType,
    pub(crate) reason: String,
    pub(crate) note: String,
    pub(crate) at: SystemTime,
}

pub(crate) fn open(cluster: Cluster, component: &str) -> (Events, EventWriter) {
    let (sender, queue) = mpsc::channel(MAX_QUEUE);
    let metrics = &cluster.shared.deps.metrics;
    let dropped = metrics.counter("vouchsafe_events_dropped", &[("component", component)]);
    let events = Events { queue: sender, dropped: dropped.clone() };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let instance = cut(&format!("{component}-{}", host.trim()), MAX_INSTANCE);
    (events, EventWriter { queue, cluster, component: component.into(), instance, dropped })
}

impl Events {
    /// Tells that something happened to `object`: `reason` is one CamelCase word, `message` a sentence for people. Both are
    /// cut at what Kubernetes takes (128 and 1,024 bytes). At the bound of the queue the event is counted and forgotten.
    pub fn record(&self, object: &ObjectReference, kind: EventType, reason: &str, message: &str) {
        let told = Told {
            object: Arc::new(object.clone()),
            kind,
            reason: cut(reason, MAX_REASON),
            note: cut(message, MAX_NOTE),
            at: SystemTime::UNIX_EPOCH,
        };
        if self.queue.try_send(told).is_err() {
            self.dropped.inc();
        }
    }
}

impl EventWriter {
    /// Runs until `stop`. What is still in the queue then is lost.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.write() => {}
        }
        Ok(())
    }

    async fn write(mut self) {
        let cluster = self.cluster.clone();
        let clock = &cluster.shared.deps.clock;
        let mut ledger = Ledger::default();
        let mut budget = Budget::new(PER_SECOND, AT_ONCE, true);
        loop {
            let told = tokio::select! {
                told = self.queue.recv() => told,
                () = sleep(SERIES) => None,
            };
            let now = Instant::now();
            let mut writes = ledger.due(now);
            if let Some(told) = told {
                writes.extend(ledger.tell(Told { at: clock.now(), ..told }, now));
            } else if self.queue.is_closed() && self.queue.is_empty() {
                // Nobody is left to tell anything. Series are written to their end.
                sleep(SERIES).await;
            }
            for write in writes {
                if let Err(wait) = budget.try_take(Instant::now(), 1) {
                    sleep(wait).await;
                    budget.reserve(Instant::now(), 1);
                }
                match &cluster.shared.backend {
                    Backend::Api(api) => self.send(api, write).await,
                    Backend::Folder(_) => self.show(&write),
                }
            }
        }
    }

    /// Writes one event, for as long as it takes while that is worth it.
    async fn send(&self, api: &Api, write: Write) {
        let mut entropy = self.cluster.shared.deps.entropy.fork("events");
        for attempt in 0..MAX_ATTEMPTS {
            let error = match self.once(api, &write).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if error.class() != Class::Transient || error.is_conflict() {
                debug!(%error, reason = write.told.reason, "event refused");
                break;
            }
            let told = error.retry_after().unwrap_or_default().min(MAX_WAIT);
            sleep(BACKOFF.delay(attempt, entropy.fraction()).max(told)).await;
        }
        self.dropped.inc();
    }

    async fn once(&self, api: &Api, write: &Write) -> Result<(), ClusterError> {
        if write.count > 1 {
            let series = json!({ "count": write.count, "lastObservedTime": micro(write.told.at) });
            match api.merge::<Event>(&write.name, &json!({ "series": series })).await {
                // The API server forgets events after an hour.
                Err(error) if error.is_not_found() => {}
                outcome => return outcome,
            }
        }
        match api.create(&self.event(write), Urgency::Background).await {
            // The answer to an earlier attempt was lost.
            Err(error) if error.is_conflict() => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn event(&self, write: &Write) -> Event {
        let told = &write.told;
        let mut event = Event {
            event_time: micro(told.at),
            reporting_controller: Some(self.component.clone()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(told.reason.clone()),
            reason: Some(told.reason.clone()),
            regarding: Some((*told.object).clone()),
            note: Some(told.note.clone()),
            type_: Some(format!("{:?}", told.kind)),
            ..Event::default()
        };
        event.metadata.name = Some(write.name.name.clone());
        event.metadata.namespace = write.name.namespace.clone();
        if let (true, Some(last)) = (write.count > 1, micro(told.at)) {
            let count = i32::try_from(write.count).unwrap_or(i32::MAX);
            event.series = Some(EventSeries { count, last_observed_time: last });
        }
        event
    }

    /// Where a folder stands for a cluster, the log is where events are read.
    fn show(&self, write: &Write) {
        let Told { object, kind, reason, note, .. } = &write.told;
        let name =
            Name { namespace: object.namespace.clone(), name: object.name.clone().unwrap_or_default() };
        let (of, component) = (object.kind.as_deref().unwrap_or_default(), &self.component);
        info!(component, ?kind, of, object = %name, reason, note, count = write.count, "event");
    }
}

fn micro(at: SystemTime) -> Option<MicroTime> {
    Timestamp::try_from(at).ok().map(MicroTime)
}

/// At most `bytes` of `text`, whole characters.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

const BACKOFF: Backoff = match Backoff::new(Duration::from_secs(1), Duration::from_secs(30)) {
    Ok(backoff) => backoff,
    Err(_) => panic!("a second is less than half a minute"),
};

/// Events that wait to be written.
const MAX_QUEUE: usize = 1_000;

/// Events per second on average.
const PER_SECOND: f64 = 5.0;

/// Events at once.
const AT_ONCE: u32 = 25;

/// How often an event is tried: with the pauses some twenty minutes.
const MAX_ATTEMPTS: u32 = 60;

/// The longest that the API server's wish to wait is followed.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How often repetitions are written.
const SERIES: Duration = Duration::from_secs(60);

/// What Kubernetes takes, in bytes.
const MAX_REASON: usize = 128;
const MAX_NOTE: usize = 1_024;
const MAX_INSTANCE: usize = 128;

#[cfg(test)]
mod tests;
