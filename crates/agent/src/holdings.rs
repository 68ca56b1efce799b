//! What the agent holds, in figures: how old, until when, how much of it. Worked out when a scraper asks, which costs
//! one look at each entry and SVID (about a millisecond for 10,000), and nothing in between.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::metrics::Registry;

use crate::forecast::{Capacity, Held, unrenewed};
use crate::identities::{Identities, Snapshot};
use crate::jwt_issue::JwtIssuer;
use crate::renewals::{HeldBack, Renewals};
use crate::rotation::Standing;
use crate::status::AgentStatus;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// Entries, X.509-SVIDs, bundles.
    pub identities: Arc<Identities>,
    /// JWT-SVIDs.
    pub jwt: JwtIssuer,
    /// How renewing goes.
    pub renewals: Arc<Renewals>,
    /// How many X.509-SVIDs are got ahead of need.
    pub limit: usize,
    /// When the server confirmed what.
    pub status: watch::Receiver<AgentStatus>,
    /// Time.
    pub clock: Clock,
}

/// Entries by what their workloads get.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EntriesByState {
    /// An X.509-SVID that is valid is held.
    pub serving: usize,
    /// None is; it is being asked for.
    pub waiting: usize,
    /// None is, because the server said that it is too much at once.
    pub limited: usize,
    /// None is, and the server did not issue one when it was asked last.
    pub failing: usize,
    /// None is, and nobody has asked: prefetching is off, the cache is full, or the entry is for an SVID store.
    pub idle: usize,
}

/// How far the renewal of X.509-SVIDs has come.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Renewing {
    /// SVIDs whose renewal time has come.
    due: usize,
    /// For how long, the longest of them.
    behind: Duration,
    forecast: usize,
}

impl Holdings {
    /// Shows everything in `registry` for as long as the caller keeps what it gets. The registry must not: what is looked at
    /// counts in it.
    #[must_use = "nothing is shown any more once this is dropped"]
    pub fn show(self, registry: &Registry) -> Arc<Self> {
        let this = Arc::new(self);
        let shown = Arc::downgrade(&this);
        registry.before_render("holdings", move |registry| {
            if let Some(holdings) = shown.upgrade() {
                holdings.collect(registry);
            }
        });
        this
    }

    fn collect(&self, registry: &Registry) {
        let (now, snapshot, status) =
            (self.clock.unix_now(), self.identities.load(), self.status.borrow().clone());
        for (state, confirmed) in [("entries", status.last_sync), ("bundles", status.bundles_confirmed)] {
            let at = confirmed.map_or(0, unix_seconds);
            registry.gauge("vouchsafe_state_confirmed_seconds", &[("state", state)]).set(at as f64);
        }
        for (kind, ends) in self.ends(&snapshot, &status) {
            let labels = [("kind", kind)];
            match ends {
                Some(ends) => registry.gauge("vouchsafe_credential_expiry_seconds", &labels).set(ends as f64),
                None => registry.forget_gauge("vouchsafe_credential_expiry_seconds", &labels),
            }
        }
        let held_back = self.renewals.held_back();
        let entries = entries_by_state(now, (&snapshot, self.limit), |id| held_back.get(id).copied());
        for (state, count) in entries.named() {
            registry.gauge("vouchsafe_entries", &[("state", state)]).set(count as f64);
        }
        let renewing = self.renewing(now, &snapshot, status.sync_error.is_some());
        registry.gauge("vouchsafe_renewals_due", &[]).set(renewing.due as f64);
        registry.gauge("vouchsafe_renewals_behind_seconds", &[]).set(renewing.behind.as_secs_f64());
        let forecast = registry.gauge("vouchsafe_forecast_unrenewed_svids", &[("within", "24h")]);
        forecast.set(renewing.forecast as f64);
    }

    /// When the first of each kind ends; of authorities, when the last one does: the older ones end while the newest
    /// is in use.
    fn ends(&self, snapshot: &Snapshot, status: &AgentStatus) -> [(&'static str, Option<i64>); 5] {
        let own = snapshot.bundles.as_ref().map(|bundles| &bundles.own.bundle);
        let x509 =
            own.into_iter().flat_map(|own| &own.x509_authorities).filter(|authority| !authority.tainted);
        let jwt = own.into_iter().flat_map(|own| &own.jwt_authorities).filter(|authority| !authority.tainted);
        let tokens = self.jwt.cache().all();
        let tokens = tokens.iter().filter_map(|slot| slot.held()).map(|held| held.token.lifetime.not_after);
        [
            ("agent_svid", status.svid_expires_at),
            ("x509_svid", snapshot.svids.values().map(|svid| svid.lifetime.not_after).min()),
            ("jwt_svid", tokens.min()),
            ("x509_authority", x509.filter_map(|held| held.parsed().ok()).map(|held| held.not_after).max()),
            ("jwt_authority", jwt.map(|held| held.expires_at).filter(|ends| *ends > 0).max()),
        ]
    }

    fn renewing(&self, now: i64, snapshot: &Snapshot, disconnected: bool) -> Renewing {
        let mut renewing = Renewing { due: 0, behind: Duration::ZERO, forecast: 0 };
        let speed = self.renewals.speed();
        let held_back = self.renewals.held_back();
        let held = snapshot.svids.iter().map(|(id, svid)| {
            let lifetime = svid.lifetime;
            let refused = lifetime.renew_at < now && held_back.get(id) == Some(&HeldBack::Failing);
            Held { lifetime, refused }
        });
        // One that the server refuses says nothing about how the others get through.
        let mut backlog = Duration::ZERO;
        for held in held.clone() {
            let late = now.saturating_sub(held.lifetime.renew_at);
            let Ok(late) = u64::try_from(late).map(Duration::from_secs) else { continue };
            renewing.due += 1;
            renewing.behind = renewing.behind.max(late);
            if !held.refused {
                backlog = backlog.max(late);
            }
        }
        let capacity = if disconnected { Capacity::None } else { speed.capacity(backlog) };
        renewing.forecast = unrenewed(now, held, capacity);
        renewing
    }
}

impl EntriesByState {
    fn named(self) -> [(&'static str, usize); 5] {
        [
            ("serving", self.serving),
            ("waiting", self.waiting),
            ("limited", self.limited),
            ("failing", self.failing),
            ("idle", self.idle),
        ]
    }
}

fn entries_by_state(
    now: i64,
    (snapshot, limit): (&Snapshot, usize),
    held_back: impl Fn(&vouchsafe_types::entry::EntryId) -> Option<HeldBack>,
) -> EntriesByState {
    let mut count = EntriesByState::default();
    let mut ahead = 0;
    for slot in snapshot.index.iter() {
        let entry = &slot.entry;
        let svid = snapshot.svids.get(&entry.id);
        let of = if svid.is_some_and(|svid| svid.lifetime.standing(now) != Standing::Unusable) {
            &mut count.serving
        } else if let Some(why) = held_back(&entry.id) {
            match why {
                HeldBack::Limited => &mut count.limited,
                HeldBack::Failing => &mut count.failing,
            }
        } else if entry.store_svid {
            &mut count.idle
        } else if slot.usage.streams() > 0 || svid.is_some() {
            &mut count.waiting
        } else if entry.disable_x509_svid_prefetch {
            &mut count.idle
        } else {
            ahead += 1;
            continue;
        };
        *of += 1;
    }
    // Of what is got ahead of need only so much finds room.
    let room = limit.saturating_sub(snapshot.svids.len());
    count.waiting += ahead.min(room);
    count.idle += ahead.saturating_sub(room);
    count
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
