//! Gets JWT-SVIDs from the server: at once for who waits, ahead of need for who has one.
//!
//! A request runs to its end even if the caller that started it gives up, so the next caller finds the token. Many
//! callers for the same token share one request. At most [`MAX_PER_ENTRY`] requests are under way for one entry, so a
//! workload that asks for ever new audiences neither piles up requests nor keeps other workloads' from the server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tracing::{debug, warn};
use vouchsafe_runtime::backoff::Backoff;
use vouchsafe_runtime::class::Class;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::jwt_svid::JwtSvid;

use crate::entries::{EntrySlot, WorkloadEntry};
use crate::identities::Identities;
use crate::jwt_cache::{CachedToken, Flight, JwtCache, JwtSlot, SlotState, Token, encode};
use crate::rotation::Lifetime;
use crate::server_client::{ServerClient, shown};

mod renew;

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// The server refused or did not answer.
    #[error("failed to fetch JWT SVID: {code:?}: {message}")]
    Server {
        /// Its status.
        code: Code,
        /// Its text.
        message: String,
    },
    /// The server did not answer in time.
    #[error("failed to fetch JWT SVID: no answer from the server within {0:?}")]
    Deadline(Duration),
    /// The server answered something that is not the token that was asked for.
    #[error("{0}")]
    Malformed(String),
    /// The agent stops.
    #[error("the agent is shutting down")]
    Stopped,
}

impl JwtError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Server { code: Code::InvalidArgument, .. } => Class::Caller,
            Self::Server { code: Code::Unimplemented, .. } => Class::Permanent,
            Self::Server { .. } | Self::Deadline(_) | Self::Stopped => Class::Transient,
            Self::Malformed(_) => Class::Peer,
        }
    }
}

/// Issues and caches tokens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JwtIssuer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: JwtCache,
    client: Arc<ServerClient>,
    identities: Arc<Identities>,
    clock: Clock,
    backoff: Backoff,
    waiting: Semaphore,
    renewing: Arc<Semaphore>,
    /// Turns of the entries that somebody waits for.
    turns: Mutex<HashMap<EntryId, Arc<Semaphore>>>,
    tasks: TaskTracker,
    issued: watch::Sender<u64>,
    /// How long a renewal may take while the token that is held still works.
    renewal_deadline: Duration,
}

impl JwtIssuer {
    /// With an empty cache.
    #[must_use]
    pub fn new(
        cache: JwtCache,
        client: Arc<ServerClient>,
        identities: Arc<Identities>,
        clock: Clock,
    ) -> Self {
        Self::with_renewal_deadline(cache, client, identities, (clock, ISSUE_DEADLINE))
    }

    /// As [`JwtIssuer::new`], with another time that a renewal may take while the token that is held still works.
    #[must_use]
    pub fn with_renewal_deadline(
        cache: JwtCache,
        client: Arc<ServerClient>,
        identities: Arc<Identities>,
        (clock, renewal_deadline): (Clock, Duration),
    ) -> Self {
        let inner = Inner {
            cache,
            client,
            identities,
            clock,
            backoff: crate::server_client::retry_backoff(),
            waiting: Semaphore::new(MAX_WAITING),
            renewing: Arc::new(Semaphore::new(MAX_RENEWING)),
            turns: Mutex::default(),
            tasks: TaskTracker::new(),
            issued: watch::Sender::new(0),
            renewal_deadline,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The tokens.
    #[must_use]
    pub fn cache(&self) -> &JwtCache {
        &self.inner.cache
    }

    /// Changes whenever a token was issued.
    #[must_use]
    pub fn issued(&self) -> watch::Receiver<u64> {
        self.inner.issued.subscribe()
    }

    /// The token of an entry for `audience` (sorted), as a part of a `JWTSVIDResponse`.
    ///
    /// # Errors
    ///
    /// [`JwtError`] when none is held and the server gives none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe; the request to the server goes on and fills the cache.
    pub async fn token(&self, slot: &Arc<EntrySlot>, audience: &[String]) -> Result<Bytes, JwtError> {
        let entry = &slot.entry;
        let cacheable = audience.iter().map(String::len).sum::<usize>() <= MAX_CACHED_AUDIENCE;
        if entry.jwt_svid_include_jti || !cacheable {
            let _turn = self.inner.turn(&entry.id).await?;
            let token = self.inner.issue(entry, audience, ISSUE_DEADLINE).await?;
            return Ok(encode(&token, &entry.hint));
        }
        let held = || self.inner.cache.token(entry, audience, self.inner.clock.unix_now());
        if let Some(held) = held() {
            return Ok(held);
        }
        let place = self.inner.cache.slot(&entry.id, audience, self.inner.clock.unix_now());
        let flight = match place.flight(slot) {
            Some(flight) => flight,
            None => {
                let turn = self.inner.turn(&entry.id).await?;
                // Whoever had the turn before may have asked for the same.
                if let Some(held) = held() {
                    return Ok(held);
                }
                self.start(slot, &place, turn)
            }
        };
        let mut landed = flight.landed;
        let landed = landed.wait_for(Option::is_some).await.map_err(|_| JwtError::Stopped)?;
        match landed.as_ref() {
            Some(Ok(token)) => Ok(token.encoded()),
            Some(Err(error)) => Err(JwtError::clone(error)),
            None => Err(JwtError::Stopped),
        }
    }

    /// Joins the request that is under way for `place`, or starts one, which keeps `turn` until it has landed.
    fn start(&self, slot: &Arc<EntrySlot>, place: &Arc<JwtSlot>, turn: OwnedSemaphorePermit) -> Flight {
        let mut state = place.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = state.flight_for(slot) {
            return flight;
        }
        let (landing, landed) = watch::channel(None);
        let flight = Flight { slot: Arc::clone(slot), landed };
        state.flight = Some(flight.clone());
        drop(state);
        let (inner, slot, place) = (Arc::clone(&self.inner), Arc::clone(slot), Arc::clone(place));
        let held = place.token(&slot.entry, inner.clock.unix_now()).is_some();
        let deadline = if held { inner.renewal_deadline } else { ISSUE_DEADLINE };
        self.inner.tasks.spawn(async move {
            let outcome = inner
                .issue(&slot.entry, &place.audience, deadline)
                .await
                .map(|token| Arc::new(CachedToken::new(token, &slot.entry)));
            inner.land(&place, &slot, &outcome);
            landing.send_replace(Some(outcome.map_err(Arc::new)));
            drop(turn);
        });
        flight
    }
}

impl Inner {
    /// Waits until fewer than [`MAX_PER_ENTRY`] requests are under way for the entry.
    async fn turn(&self, entry: &EntryId) -> Result<OwnedSemaphorePermit, JwtError> {
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let of_entry = turns.entry(entry.clone());
            Arc::clone(of_entry.or_insert_with(|| Arc::new(Semaphore::new(MAX_PER_ENTRY))))
        };
        let turn = timeout(ISSUE_DEADLINE, turns.acquire_owned()).await;
        turn.map_err(|_| JwtError::Deadline(ISSUE_DEADLINE))?.map_err(|_| JwtError::Stopped)
    }

    fn forget_idle_turns(&self) {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, of_entry| Arc::strong_count(of_entry) > 1);
    }

    fn land(&self, place: &JwtSlot, slot: &Arc<EntrySlot>, outcome: &Result<Arc<CachedToken>, JwtError>) {
        let mut state = place.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.flight_for(slot).is_none() {
            // The entry changed meanwhile, and another request is under way for what it is now.
            return;
        }
        state.flight = None;
        match outcome {
            Ok(token) => {
                place.set(Arc::clone(token));
                (state.failures, state.not_before) = (0, None);
            }
            Err(error) => {
                let wait = self.backoff.delay(state.failures, self.client.jitter());
                state.not_before = Some(Instant::now() + wait);
                state.failures = state.failures.saturating_add(1);
                if place.held().is_some() {
                    warn!(entry_id = %place.entry_id, %error, "Unable to renew JWT; returning cached copy");
                }
            }
        }
        self.issued.send_modify(|count| *count += 1);
    }

    /// Asks the server until it answers, refuses for good, or `time` has passed. What was not the server's last word
    /// may be another one in a moment: an agent that it does not know any more is just attesting again, and a server that
    /// lags behind learns of a new entry.
    async fn issue(
        &self,
        entry: &WorkloadEntry,
        audience: &[String],
        time: Duration,
    ) -> Result<Token, JwtError> {
        let asked = async {
            let _permit = self.waiting.acquire().await.map_err(|_| JwtError::Stopped)?;
            let (mut attempt, mut life) = (0, self.client.signs_of_life());
            loop {
                life.mark_unchanged();
                let status = match self.client.new_jwt_svid(entry.id.as_str(), audience).await {
                    Ok(svid) => return self.accept(entry, audience, svid),
                    Err(status) => status,
                };
                let stands = self.identities.load().index.get(entry.id.as_str()).is_some();
                if !is_worth_a_retry(&status) || !stands {
                    let message = status.message().to_owned();
                    return Err(JwtError::Server { code: status.code(), message });
                }
                debug!(entry_id = %entry.id, error = shown(&status), "Failed to fetch JWT SVID; retrying");
                self.client.rest(self.client.wait_after(&status, attempt), &mut life).await;
                attempt += 1;
            }
        };
        timeout(time, asked).await.unwrap_or(Err(JwtError::Deadline(time)))
    }

    fn accept(
        &self,
        entry: &WorkloadEntry,
        audience: &[String],
        svid: vouchsafe_proto::spire::api::types::Jwtsvid,
    ) -> Result<Token, JwtError> {
        let malformed = |what: &str| JwtError::Malformed(what.to_owned());
        if svid.issued_at == 0 {
            return Err(malformed("JWTSVID missing issued at"));
        }
        if svid.expires_at == 0 {
            return Err(malformed("JWTSVID missing expires at"));
        }
        if svid.issued_at > svid.expires_at {
            return Err(malformed("JWTSVID issued after it has expired"));
        }
        let parsed =
            JwtSvid::parse_unverified(&svid.token).map_err(|error| JwtError::Malformed(error.to_string()))?;
        if parsed.id != entry.spiffe_id {
            return Err(JwtError::Malformed(format!(
                "the server issued a token for {} instead of {}",
                parsed.id, entry.spiffe_id
            )));
        }
        let key = audience.iter().fold(entry.id.to_string(), |key, audience| key + "\n" + audience);
        let now = self.clock.unix_now();
        let lifetime = Lifetime::new(svid.issued_at, svid.expires_at, now, key.as_bytes());
        Ok(Token { text: svid.token.into(), spiffe_id: parsed.id, lifetime, key_id: parsed.key_id })
    }
}

impl JwtSlot {
    fn flight(&self, slot: &Arc<EntrySlot>) -> Option<Flight> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).flight_for(slot)
    }

    /// Whether the last request failed.
    fn has_failed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failures > 0
    }

    fn may_renew(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.flight.is_none() && state.not_before.is_none_or(|not_before| Instant::now() >= not_before)
    }
}

impl SlotState {
    /// The request that is under way for exactly this entry; one that another version of it had is none.
    fn flight_for(&self, slot: &Arc<EntrySlot>) -> Option<Flight> {
        self.flight.as_ref().filter(|flight| Arc::ptr_eq(&flight.slot, slot)).cloned()
    }
}

/// As SPIRE. A broken connection is `Unavailable`.
fn is_worth_a_retry(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::Unimplemented
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
    )
}

/// How long a caller waits for a token that is not held.
pub const ISSUE_DEADLINE: Duration = Duration::from_secs(30);

/// Requests for tokens that somebody waits for, at one time. Further callers wait for their turn.
const MAX_WAITING: usize = 256;

/// Of these, for one entry.
pub const MAX_PER_ENTRY: usize = 16;

/// Renewals ahead of need at one time.
const MAX_RENEWING: usize = 8;

/// Tokens for longer audiences (bytes in all) are not kept.
const MAX_CACHED_AUDIENCE: usize = 4096;
