//! The change feed: an event row per change, written in its transaction, read with the objects as they are now.
//!
//! Positions have no holes and are in the order of the commits, so a reader misses nothing. Each event has a random tag. A
//! standby that took over without the last transactions gives their positions to other events; a reader that knows the tag
//! of the event where it stands notices, and loads everything.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::future;
use tokio_postgres::Row;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::trust_domain::TrustDomain;

use super::fail::Fail;
use super::pool::Lease;
use super::session::Session;
use super::tx::Tx;
use super::value::count;
use super::{agents, bundles, entries, federation, join_tokens};
use crate::change::{Change, Changes, Position};
use crate::error::{Error, Kind};
use crate::store::{MAX_CHANGES_KEPT, MAX_CHANGES_PER_READ};

/// Where a database is.
pub(super) struct Head {
    pub(super) epoch: u64,
    pub(super) newest: Position,
    pub(super) pruned: Position,
}

pub(super) async fn head(session: &Session) -> Result<Head, Fail> {
    let row = session.one(HEAD, &[]).await?;
    let epoch: i64 = row.try_get(0)?;
    Ok(Head {
        epoch: epoch.unsigned_abs(),
        newest: position(row.try_get(1)?)?,
        pruned: position(row.try_get(2)?)?,
    })
}

/// A connection that sees one moment of the database.
pub(super) struct Moment {
    lease: Lease,
    pub(super) head: Head,
}

impl Moment {
    /// Begins to read. The connection is closed if the reading does not end by [`Moment::end`].
    pub(super) async fn of(lease: Lease) -> Result<Self, Fail> {
        let session = lease.session()?;
        let begun = session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
        let (begun, head) = future::join(begun, head(session)).await;
        begun?;
        let head = head?;
        Ok(Self { lease, head })
    }

    pub(super) fn session(&self) -> Result<&Session, Fail> {
        self.lease.session()
    }

    pub(super) fn end(mut self) {
        self.lease.roll_back();
    }
}

/// The tags of events that readers were told of last.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<VecDeque<(Position, i64)>>);

impl Marks {
    pub(super) fn add(&self, position: Position, tag: i64) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.len() >= MAX_MARKS {
            marks.pop_front();
        }
        marks.push_back((position, tag));
    }

    /// Whether the event at `position` had another tag when it was read.
    fn differs(&self, position: Position, tag: i64) -> bool {
        self.of(position).is_some_and(|known| known != tag)
    }

    pub(super) fn of(&self, position: Position) -> Option<i64> {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.iter().rev().find(|(marked, _)| *marked == position).map(|(_, tag)| *tag)
    }
}

pub(super) async fn changes_after(
    moment: &Moment,
    marks: &Marks,
    after: Position,
    limit: usize,
) -> Result<Changes, Fail> {
    let (newest, pruned) = (moment.head.newest, moment.head.pruned);
    if after > newest {
        return Err(Fail::Told(Error::Rewound { after, newest }));
    }
    if after < pruned {
        return Err(Fail::Told(Error::Pruned { after, pruned }));
    }
    let limit = limit.clamp(1, MAX_CHANGES_PER_READ);
    let session = moment.session()?;
    // The event where the reader stands comes along.
    let values = [number(after)?.into(), count(limit + 1).into()];
    let mut events = Vec::new();
    for row in session.query(EVENTS, &values).await? {
        let event = Event::read(&row)?;
        if event.position > after {
            events.push(event);
        } else if marks.differs(after, event.tag) {
            return Err(Fail::Told(Error::Rewound { after, newest }));
        }
    }
    events.truncate(limit);
    let complete = events.len() < limit || events.last().is_some_and(|event| event.position == newest);
    let position = if complete { newest } else { events.last().map_or(after, |event| event.position) };
    if let Some(event) = events.last() {
        marks.add(event.position, event.tag);
    }

    // An object that changed twice is reported once, at the place of its last change.
    let last: HashMap<(i64, &str), Position> =
        events.iter().map(|event| ((event.kind, event.key.as_str()), event.position)).collect();
    let kept: Vec<&Event> = events
        .iter()
        .filter(|event| last.get(&(event.kind, event.key.as_str())) == Some(&event.position))
        .collect();
    let mut now = Now::read(session, &kept).await?;
    let changes = kept.iter().map(|event| now.resolve(event)).collect::<Result<_, _>>()?;
    Ok(Changes { changes, position, complete })
}

struct Event {
    position: Position,
    kind: i64,
    key: SecretText,
    tag: i64,
}

impl Event {
    fn read(row: &Row) -> Result<Self, Fail> {
        let key: String = row.try_get(2)?;
        Ok(Self {
            position: position(row.try_get(0)?)?,
            kind: row.try_get(1)?,
            key: key.into(),
            tag: row.try_get(3)?,
        })
    }
}

/// The objects that events speak of, read together.
struct Now {
    entries: HashMap<EntryId, vouchsafe_types::entry::Entry>,
    agents: HashMap<SpiffeId, vouchsafe_types::agent::Agent>,
    bundles: HashMap<TrustDomain, vouchsafe_types::bundle::Bundle>,
    join_tokens: HashMap<SecretText, vouchsafe_types::join_token::JoinToken>,
    federation: HashMap<TrustDomain, vouchsafe_types::federation::FederationRelationship>,
}

impl Now {
    async fn read(session: &Session, events: &[&Event]) -> Result<Self, Fail> {
        let keys = |kind| -> Vec<&str> {
            events.iter().filter(|event| event.kind == kind).map(|event| event.key.as_str()).collect()
        };
        let entries = entries::find_all(session, &keys(ENTRY)).await?;
        let agents = agents::find_all(session, &keys(AGENT)).await?;
        let bundles = bundles::find_all(session, &keys(BUNDLE)).await?;
        let join_tokens = join_tokens::find_all(session, &keys(JOIN_TOKEN)).await?;
        let federation = federation::find_all(session, &keys(FEDERATION)).await?;
        Ok(Self {
            entries: entries.into_iter().map(|entry| (entry.id.clone(), entry)).collect(),
            agents: agents.into_iter().map(|agent| (agent.id.clone(), agent)).collect(),
            bundles: bundles.into_iter().map(|bundle| (bundle.trust_domain.clone(), bundle)).collect(),
            join_tokens: join_tokens.into_iter().map(|token| (token.value.clone(), token)).collect(),
            federation: federation.into_iter().map(|held| (held.trust_domain.clone(), held)).collect(),
        })
    }

    fn resolve(&mut self, event: &Event) -> Result<Change, Fail> {
        let key = event.key.as_str();
        let wrong = |detail: String| Fail::row("changes", &event.position.to_string(), detail);
        Ok(match event.kind {
            ENTRY => {
                let id = EntryId::parse(key).map_err(|error| wrong(error.to_string()))?;
                let now = self.entries.remove(&id);
                Change::Entry(id, now)
            }
            AGENT => {
                let id = SpiffeId::parse(key).map_err(|error| wrong(error.to_string()))?;
                let now = self.agents.remove(&id);
                Change::Agent(id, now)
            }
            BUNDLE => {
                let trust_domain = TrustDomain::parse(key).map_err(|error| wrong(error.to_string()))?;
                let now = self.bundles.remove(&trust_domain);
                Change::Bundle(trust_domain, now)
            }
            JOIN_TOKEN => Change::JoinToken(event.key.clone(), self.join_tokens.remove(&event.key)),
            FEDERATION => {
                let trust_domain = TrustDomain::parse(key).map_err(|error| wrong(error.to_string()))?;
                let now = self.federation.remove(&trust_domain);
                Change::Federation(trust_domain, now)
            }
            other => return Err(wrong(format!("unknown kind {other}"))),
        })
    }
}

/// Deletes a contiguous run from the oldest event on, and remembers how far, so that a reader who is behind is told.
/// The run ends at the first event that is young enough, even if a clock that jumped made later ones look older.
pub(super) async fn prune(tx: &Tx<'_>, older_than: i64, most: usize) -> Result<usize, Fail> {
    let sql = "SELECT (SELECT position FROM feed), (SELECT min(position) FROM changes WHERE at >= $1),
               (SELECT min(position) FROM changes)";
    let rows = tx.query(sql, &[older_than.into()]).await?;
    let row = rows.first().ok_or_else(|| Fail::row("feed", "1", "it is missing"))?;
    let (newest, young): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
    let by_age = young.map_or(newest, |first_kept| first_kept - 1);
    let through = by_age.max(newest.saturating_sub_unsigned(MAX_CHANGES_KEPT));
    let oldest: Option<i64> = row.try_get(2)?;
    let through = oldest.map_or(through, |oldest| through.min(oldest.saturating_add(count(most)) - 1));
    let gone = tx.execute("DELETE FROM changes WHERE position <= $1", &[through.into()]).await?;
    if gone > 0 {
        let sql = "UPDATE meta SET value = greatest(value, $1) WHERE name = 'pruned_through'";
        tx.execute(sql, &[through.into()]).await?;
    }
    usize::try_from(gone).map_err(|error| Fail::Bug(error.to_string()))
}

pub(super) fn position(number: i64) -> Result<Position, Fail> {
    let number = u64::try_from(number).map_err(|error| Fail::row("changes", "position", error))?;
    Ok(Position(number))
}

pub(super) fn number(position: Position) -> Result<i64, Fail> {
    i64::try_from(position.0).map_err(|error| Fail::Bug(format!("position {position}: {error}")))
}

pub(super) fn code(kind: Kind) -> i64 {
    match kind {
        Kind::Entry => ENTRY,
        Kind::Agent => AGENT,
        Kind::Bundle => BUNDLE,
        Kind::JoinToken => JOIN_TOKEN,
        Kind::Federation => FEDERATION,
    }
}

const ENTRY: i64 = 1;
const AGENT: i64 = 2;
const BUNDLE: i64 = 3;
const JOIN_TOKEN: i64 = 4;
const FEDERATION: i64 = 5;

/// Readings whose last event is remembered. A server has one reader.
const MAX_MARKS: usize = 64;

const HEAD: &str = "SELECT (SELECT value FROM meta WHERE name = 'epoch'), position,
    (SELECT value FROM meta WHERE name = 'pruned_through') FROM feed";
const EVENTS: &str =
    "SELECT position, kind, key, tag FROM changes WHERE position >= $1 ORDER BY position LIMIT $2";
