//! Whether what a database has may replace what is held.
//!
//! A database that goes on from where it was is believed. One that does not (another epoch, an older position, another way
//! from an older position on) was recreated, restored from a backup, or is a standby that took over without the last
//! changes. Nobody can tell which, so it is judged by what it would cost: if it has everything that is held, it is taken;
//! if it lacks something, nothing of it is taken and nothing is written to it until an operator accepts it
//! ([`crate::acceptance`]).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use vouchsafe_store::{Error as StoreError, Position, Store};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::bundle::{JwtAuthority, X509Authority};
use vouchsafe_types::entry::Entry;

use crate::agents::latest_expiry;
use crate::authorize::RENEWAL_GRACE;
use crate::model::{Snapshot, is_live};

/// What is to be done with a database that was read whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It replaces what is held.
    Taken,
    /// It lacks nothing but its place: it is taken once it has as many changes as are held. Why.
    Behind(String),
    /// It would withdraw something. Why.
    Refused(String),
}

/// What earlier readings have shown of the database that is held.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Past {
    /// It did not go on from what is held.
    pub(crate) set_back: bool,
    /// It had everything that is held when it was here on its other way: what it lacks later was removed by somebody.
    pub(crate) whole_at: Option<Position>,
}

impl Past {
    /// What is known after a verdict on the database that is held, which ended `at`; or on another one.
    pub(crate) fn after(self, verdict: &Verdict, at: Option<Position>) -> Self {
        match (verdict, at) {
            (Verdict::Taken, _) => Self::default(),
            (_, None) => self,
            (Verdict::Behind(_), at) => Self { set_back: true, whole_at: at },
            (Verdict::Refused(_), _) => Self { set_back: true, whole_at: None },
        }
    }
}

/// The rule. Pure.
pub(crate) fn judge(held: &Snapshot, found: &Snapshot, past: Past, now: i64) -> Verdict {
    let other = found.epoch() != held.epoch();
    let older = !other && found.position() < held.position();
    if !other && !older && !past.set_back {
        return Verdict::Taken;
    }
    let (at, known) = (found.position(), held.position());
    let what = if other {
        "the database is another one than before".to_owned()
    } else if older {
        format!("the database is older than what is held: it ends at position {at}, and {known} is held")
    } else {
        format!("the database was set back before position {known} and has gone another way since")
    };
    let was_whole = !other && past.whole_at.is_some_and(|whole_at| found.position() >= whole_at);
    let lost = if was_whole { Lost::default() } else { Lost::between(held, found, now) };
    match (lost.is_nothing(), older) {
        (true, false) => Verdict::Taken,
        (true, true) => Verdict::Behind(what),
        (false, _) => Verdict::Refused(format!("{what}; it lacks {lost}")),
    }
}

/// How many of each kind are held and are not, or not as new, in what was found. What has ended counts for nothing.
#[derive(Debug, Default, Eq, PartialEq)]
struct Lost {
    entries: usize,
    agents: usize,
    bans: usize,
    authorities: usize,
    relationships: usize,
}

impl Lost {
    fn between(held: &Snapshot, found: &Snapshot, now: i64) -> Self {
        let entries = held.entries.after(None).filter(|entry| is_live(entry, now));
        let agents = held.agents.values().filter(|agent| !agent.is_banned() && is_alive(agent, now));
        let bans = held.agents.values().filter(|agent| agent.is_banned());
        let relationships = held.federation.keys().filter(|with| !found.federation.contains_key(*with));
        Self {
            entries: entries.filter(|entry| !has_entry(found, entry)).count(),
            agents: agents.filter(|agent| !found.agents.contains_key(&agent.id)).count(),
            bans: bans.filter(|it| found.agents.get(&it.id).is_none_or(|agent| !agent.is_banned())).count(),
            authorities: lost_authorities(held, found, now),
            relationships: relationships.count(),
        }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.entries, "registration entries"),
            (self.agents, "agents"),
            (self.bans, "bans of agents"),
            (self.authorities, "authorities of bundles"),
            (self.relationships, "federation relationships"),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told.map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&told.join(", "))
    }
}

/// The entry itself, as new; or one that was made anew in its place.
fn has_entry(found: &Snapshot, entry: &Entry) -> bool {
    if let Some(same) = found.entries.get(entry.id.as_str()) {
        return same.revision_number >= entry.revision_number;
    }
    let mut alike = found.entries.with_spiffe_id(&entry.spiffe_id);
    alike.any(|other| other.parent_id == entry.parent_id && other.selectors == entry.selectors)
}

/// Whether the agent may still come back without attesting anew.
fn is_alive(agent: &Agent, now: i64) -> bool {
    latest_expiry(agent).saturating_add_unsigned(RENEWAL_GRACE.as_secs()) >= now
}

/// Not of bundles that are fetched again by themselves.
fn lost_authorities(held: &Snapshot, found: &Snapshot, now: i64) -> usize {
    let lives = |not_after: i64| not_after == 0 || not_after > now;
    let x509_lives = |it: &&X509Authority| it.parsed().map_or(true, |read| lives(read.not_after));
    let jwt_lives = |it: &&JwtAuthority| lives(it.expires_at);
    let kept = held.bundles.iter().filter(|(trust_domain, _)| !found.federation.contains_key(*trust_domain));
    let lost = kept.map(|(trust_domain, bundle)| {
        let other = found.bundles.get(trust_domain);
        let x509 = bundle.x509_authorities.iter().filter(x509_lives).filter(|each| {
            other.is_none_or(|other| !other.x509_authorities.iter().any(|there| there.der == each.der))
        });
        let jwt = bundle
            .jwt_authorities
            .iter()
            .filter(jwt_lives)
            .filter(|each| other.is_none_or(|other| other.jwt_authority(&each.key_id).is_none()));
        x509.count() + jwt.count()
    });
    lost.sum()
}

/// Whether the database is on the way that has led to `at`, where the change had `mark`. `None` if it cannot tell.
pub(crate) async fn is_on_the_way(
    store: &dyn Store,
    at: Position,
    mark: Option<i64>,
) -> Result<Option<bool>, StoreError> {
    if let Some(mark) = mark {
        store.recall(at, mark);
    }
    match store.changes_after(at, 1).await {
        Err(StoreError::Rewound { .. }) => return Ok(Some(false)),
        Err(cause) if cause.needs_reload() => return Ok(None),
        Err(cause) => return Err(cause),
        Ok(_) => {}
    }
    // The change was compared, if it is still there.
    let Some(before) = at.0.checked_sub(1).filter(|_| mark.is_some()) else { return Ok(None) };
    match store.changes_after(Position(before), 1).await {
        Err(cause) if cause.needs_reload() => Ok(None),
        read => read.map(|_| Some(true)),
    }
}

/// That the database did not go on from what is held, as far as a reading has shown. Shared by who reads and who writes.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    found: ArcSwapOption<Doubted>,
    /// What tells the history that is held from others, and where.
    mark: ArcSwapOption<(Position, i64)>,
}

#[derive(Debug)]
struct Doubted {
    why: String,
    refused: bool,
    /// Of the database that is held: it stays so until it is taken, whatever it catches up with and whatever other database
    /// was looked at in between; or until it is back on the way that it had left.
    past: Past,
}

impl Doubt {
    /// Takes note of a verdict, and of what is known since.
    pub(crate) fn note(&self, verdict: &Verdict, past: Past) {
        let doubted = match verdict {
            Verdict::Taken => {
                self.mark.store(None);
                None
            }
            Verdict::Behind(why) => Some(Doubted { why: why.clone(), refused: false, past }),
            Verdict::Refused(why) => Some(Doubted { why: why.clone(), refused: true, past }),
        };
        self.found.store(doubted.map(Arc::new));
    }

    /// The database has said that it went another way; what that costs is not known yet.
    pub(crate) fn begin(&self) {
        if !self.past().set_back {
            let why = "the database was set back".to_owned();
            self.note(&Verdict::Behind(why), Past { set_back: true, whole_at: None });
        }
    }

    /// What is known now; the verdict stays until the next one.
    pub(crate) fn learn(&self, past: Past) {
        if let Some(doubted) = self.found.load_full() {
            let Doubted { why, refused, .. } = &*doubted;
            self.found.store(Some(Arc::new(Doubted { why: why.clone(), refused: *refused, past })));
        }
    }

    /// Whether the database that was read last is not what is held.
    pub(crate) fn exists(&self) -> bool {
        self.found.load().is_some()
    }

    /// What is known of the database that is held.
    pub(crate) fn past(&self) -> Past {
        self.found.load().as_ref().map_or_else(Past::default, |doubted| doubted.past)
    }

    /// Why nothing may be written to the database, if nothing may.
    pub(crate) fn refused(&self) -> Option<Refused> {
        let doubted = self.found.load_full()?;
        doubted.refused.then(|| Refused { why: doubted.why.clone() })
    }

    /// An earlier run has read `mark` at `at`.
    pub(crate) fn remember(&self, at: Position, mark: i64) {
        self.mark.store(Some(Arc::new((at, mark))));
    }

    /// What tells the history that is held from others, `at` its end. While the database is on another way, what it has there
    /// now says nothing of that.
    pub(crate) fn mark(&self, store: &dyn Store, at: Position) -> Option<i64> {
        let known = self.mark.load().as_ref().filter(|known| known.0 == at).map(|known| known.1);
        if known.is_some() || self.past().set_back {
            return known;
        }
        let read = store.mark(at)?;
        self.remember(at, read);
        Some(read)
    }
}

/// What a write is told that would go to a database that is not believed.
#[derive(Debug, thiserror::Error)]
#[error("{why}; an operator has to look at it, see catalog.datastore in the server's health and log")]
pub(crate) struct Refused {
    why: String,
}

#[cfg(test)]
mod tests;
