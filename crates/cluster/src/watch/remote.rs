//! Following a kind in an API server: a thin loop around [`Plan`].

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::event::{Arrived, Event};
use super::held::{Held, MAX_OBJECTS};
use super::meters::Meters;
use super::plan::{Next, Outcome, Plan};
use super::query::Query;
use super::stream::{Read, Stream};
use super::{Objects, Selection, Snapshot};
use crate::api::Api;
use crate::error::{Call, ClusterError};
use crate::kind::Kind;
use crate::source::Deps;
use crate::version::ResourceVersion;

/// One follower at work.
pub(crate) struct Remote<'a, K> {
    api: &'a Api,
    deps: Deps,
    selection: &'a Selection,
    objects: &'a Objects<K>,
    held: Held<K>,
    version: Option<ResourceVersion>,
    plan: Plan,
    meters: Meters,
    failing: bool,
    partial: bool,
}

impl<'a, K: Kind> Remote<'a, K> {
    pub(crate) fn new(api: &'a Api, deps: Deps, selection: &'a Selection, objects: &'a Objects<K>) -> Self {
        let meters = Meters::new(&deps.metrics, &K::label(), selection);
        let (held, plan) = (Held::new(), Plan::default());
        Self {
            api,
            deps,
            selection,
            objects,
            held,
            version: None,
            plan,
            meters,
            failing: false,
            partial: false,
        }
    }

    /// Follows for ever.
    pub(crate) async fn run(mut self) {
        let mut recovered = self.api.recoveries();
        loop {
            recovered.mark_unchanged();
            let outcome = match self.plan.next(Instant::now()) {
                Next::Stream => self.stream().await,
                Next::Pages => self.pages().await,
                Next::Resume(from) => self.resume(&from).await,
            };
            self.tell(&outcome);
            let pause = self.plan.after(&outcome, Instant::now(), self.deps.entropy.fraction());
            tokio::select! {
                () = tokio::time::sleep(pause.time) => {}
                () = recovered.changed(), if pause.ends_early => {
                    // Everybody hears it: each takes a place of its own in the next second.
                    let place = RECOVERY.mul_f64(self.deps.entropy.fraction());
                    tokio::time::sleep(place.min(pause.time)).await;
                }
            }
        }
    }

    async fn resume(&mut self, from: &ResourceVersion) -> Outcome {
        let lasts = self.lasts();
        match self.open(&Query::Resume { from, lasts }).await {
            Ok(stream) => self.live(stream, lasts).await,
            Err(error) if error.is_expired() => Outcome::Expired,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Takes in a watch until it ends.
    async fn live(&mut self, mut stream: Stream<K>, lasts: Duration) -> Outcome {
        let began = Instant::now();
        let (mut heard, mut asked) = (false, false);
        loop {
            if self.plan.is_list_due(Instant::now()) {
                return Outcome::Closed { heard: true };
            }
            let read = match timeout(SILENCE, stream.next()).await {
                Ok(read) => read,
                Err(_) if asked || began.elapsed() > lasts + SILENCE => return Outcome::Silent,
                Err(_) => {
                    asked = true;
                    match self.is_source_older().await {
                        Ok(false) => continue,
                        Ok(true) => return Outcome::Older,
                        Err(error) => return Outcome::Failed(error),
                    }
                }
            };
            asked = false;
            let (mut next, mut changed) = (Some(read), false);
            while let Some(read) = next {
                match self.apply(read) {
                    Ok(change) => changed |= change,
                    Err(Outcome::Closed { .. }) => {
                        return Outcome::Closed { heard: heard || began.elapsed() > LIVED };
                    }
                    Err(ended) => {
                        if changed {
                            self.publish(changed);
                        }
                        return ended;
                    }
                }
                next = stream.buffered();
            }
            heard = true;
            self.publish(changed);
        }
    }

    /// Takes one line of a watch in. Says whether something changed, or how the watch ended.
    fn apply(&mut self, read: Read<K>) -> Result<bool, Outcome> {
        let (version, changed) = match read {
            Read::Event(Event::Changed(arrived)) => {
                let version = version_of(&arrived);
                self.check(version.as_ref())?;
                self.held.put(arrived, None);
                (version, true)
            }
            Read::Event(Event::Deleted(name, version)) => {
                self.check(version.as_ref())?;
                self.held.remove(&name);
                (version, true)
            }
            Read::Event(Event::Bookmark { version, .. }) => {
                self.check(version.as_ref())?;
                (version, false)
            }
            Read::Event(Event::Error(status)) => {
                let error = crate::api::told(&self.call("watch"), *status);
                return Err(if error.is_expired() { Outcome::Expired } else { Outcome::Failed(error) });
            }
            Read::Closed => return Err(Outcome::Closed { heard: false }),
            Read::Broken(error) => return Err(Outcome::Failed(error)),
        };
        if let Some(version) = version {
            self.plan.heard(version.clone());
            self.version = Some(version);
        }
        Ok(changed)
    }

    /// A watch tells of what comes after its position. What tells of something older is at another history.
    fn check(&self, version: Option<&ResourceVersion>) -> Result<(), Outcome> {
        match (version, &self.version) {
            (Some(told), Some(held)) if told.is_older_than(held) => Err(Outcome::Older),
            _ => Ok(()),
        }
    }

    fn publish(&mut self, changed: bool) {
        if std::mem::take(&mut self.failing) {
            info!(kind = K::label(), "watch works again");
        }
        if self.held.is_partial {
            self.plan.lacks(Instant::now());
        }
        if std::mem::replace(&mut self.partial, self.held.is_partial) != self.held.is_partial {
            match self.held.is_partial {
                true => warn!(
                    kind = K::label(),
                    limit = MAX_OBJECTS,
                    "not all objects are held: too many, or one too large to be named"
                ),
                false => info!(kind = K::label(), "all objects are held again"),
            }
        }
        let now = self.deps.clock.now();
        self.meters.show(&self.held, now);
        let snapshot = Snapshot {
            objects: self.held.objects.clone(),
            unreadable: self.held.unreadable.clone(),
            complete: self.version.is_some() && !self.held.is_partial,
            confirmed_at: Some(now),
            resource_version: self.version.clone(),
        };
        self.objects.set(snapshot, changed);
    }

    async fn open(&self, query: &Query<'_>) -> Result<Stream<K>, ClusterError> {
        let call = self.call("watch");
        let body = self.api.watch(&call, query.request::<K>(self.selection)).await?;
        Ok(Stream::new(call, body))
    }

    fn call(&self, verb: &'static str) -> Call {
        Call { verb, kind: K::label().into(), name: self.selection.namespace.as_deref().map(Into::into) }
    }

    /// How long the next watch lasts: drawn, so that those of a fleet do not end together.
    fn lasts(&mut self) -> Duration {
        WATCH.mul_f64(0.5 + self.deps.entropy.fraction() / 2.0)
    }

    fn tell(&mut self, outcome: &Outcome) {
        self.meters.ended(outcome);
        let kind = K::label();
        match outcome {
            Outcome::Failed(error) if !self.failing => {
                self.failing = true;
                warn!(kind, %error, cause = error.cause(), "watch broken, what is held stays");
            }
            Outcome::Older => {
                warn!(kind, "the API server is at an older version than what is held, which stays")
            }
            outcome => debug!(kind, ?outcome, "watch ended"),
        }
    }
}

fn version_of<K: Kind>(arrived: &Arrived<K>) -> Option<ResourceVersion> {
    match arrived {
        Arrived::Object(object) => {
            ResourceVersion::parse(object.meta().resource_version.as_deref().unwrap_or_default())
        }
        Arrived::Unreadable(unreadable) => unreadable.version.clone(),
    }
}

/// The longest that a watch is asked to last; the shortest is half of it.
const WATCH: Duration = Duration::from_secs(480);

/// After this long without a word the source is asked where it is, and after as long again the watch is given up. An API
/// server has no duty to speak: bookmarks come about once a minute, but only when there is a newer version to tell.
const SILENCE: Duration = Duration::from_secs(90);

/// A watch that lived as long as this was a good one, also when it had nothing to say.
const LIVED: Duration = Duration::from_secs(5);

/// Within this after the news that the source answers again everybody asks again.
const RECOVERY: Duration = Duration::from_secs(1);

mod lists;
#[cfg(test)]
mod tests;
