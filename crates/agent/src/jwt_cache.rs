//! JWT-SVIDs by identity and audience.
//!
//! A token that is valid is handed out at once, whatever the server does. One that is past its stored renewal time
//! and was used since it was issued is renewed in the background; one that nobody asked for again is left to end.
//! The audience's order does not matter. Above the limit the entry with the most tokens loses those that were not used for the longest time.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use vouchsafe_proto::workload;
use vouchsafe_types::entry::EntryId;
use vouchsafe_types::secret::SecretText;
use vouchsafe_types::spiffe_id::SpiffeId;
use zeroize::{Zeroize, Zeroizing};

use crate::entries::{EntrySlot, WorkloadEntry};
use crate::identities::secret_bytes;
use crate::jwt_issue::JwtError;
use crate::rotation::{Lifetime, Standing};

/// A token, with what makes it the right answer for an entry.
#[derive(Clone, Deserialize, Serialize)]
pub struct Token {
    /// The JWT in compact form.
    pub text: SecretText,
    /// Its subject.
    pub spiffe_id: SpiffeId,
    /// Validity and the stored renewal time.
    pub lifetime: Lifetime,
    /// The key that signed it.
    pub key_id: String,
}

/// A cached [`Token`] as it goes onto the wire.
pub struct CachedToken {
    /// The token.
    pub token: Token,
    /// Entry revision that it was issued under.
    pub issued_for: (i64, i64),
    hint: Box<str>,
    encoded: Bytes,
}

impl fmt::Debug for CachedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedToken")
            .field("spiffe_id", &self.token.spiffe_id.as_str())
            .field("lifetime", &self.token.lifetime)
            .finish_non_exhaustive()
    }
}

impl CachedToken {
    /// Encodes `token` for `entry`.
    #[must_use]
    pub fn new(token: Token, entry: &WorkloadEntry) -> Self {
        Self::restored(token, entry, (entry.revision_number, entry.created_at))
    }

    /// Encodes a token that was issued under an earlier revision of `entry`.
    #[must_use]
    pub fn restored(token: Token, entry: &WorkloadEntry, issued_for: (i64, i64)) -> Self {
        let encoded = encode(&token, &entry.hint);
        Self { token, issued_for, hint: entry.hint.clone(), encoded }
    }

    /// The `svids` field of a `JWTSVIDResponse` with this token. Several of them, one after the other, are a
    /// response with several tokens.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        self.encoded.clone()
    }

    fn answers(&self, entry: &WorkloadEntry, now: i64) -> bool {
        self.token.spiffe_id == entry.spiffe_id
            && self.hint == entry.hint
            && self.token.lifetime.standing(now) != Standing::Unusable
    }
}

/// The `svids` field of a `JWTSVIDResponse`.
pub(crate) fn encode(token: &Token, hint: &str) -> Bytes {
    let svid = workload::Jwtsvid {
        spiffe_id: token.spiffe_id.as_str().to_owned(),
        svid: token.text.as_str().to_owned(),
        hint: hint.to_owned(),
    };
    let mut response = workload::JwtsvidResponse { svids: vec![svid] };
    let encoded = Zeroizing::new(response.encode_to_vec());
    response.svids.iter_mut().for_each(|svid| svid.svid.zeroize());
    secret_bytes(encoded)
}

/// A request that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// What it is for. A caller whose entry is another one by now must not wait for it.
    pub(crate) slot: Arc<EntrySlot>,
    /// What its callers wait for.
    pub(crate) landed: watch::Receiver<Option<Result<Arc<CachedToken>, Arc<JwtError>>>>,
}

/// The place of one (entry, audience).
pub struct JwtSlot {
    /// The entry.
    pub entry_id: EntryId,
    /// Sorted.
    pub audience: Box<[String]>,
    token: ArcSwapOption<CachedToken>,
    used: AtomicI64,
    /// The request that is under way, and when a failed renewal may be tried again.
    pub(crate) state: Mutex<SlotState>,
}

/// See [`JwtSlot`].
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    pub(crate) flight: Option<Flight>,
    pub(crate) failures: u32,
    pub(crate) not_before: Option<Instant>,
}

impl fmt::Debug for JwtSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSlot")
            .field("entry_id", &self.entry_id)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

impl JwtSlot {
    /// The token, if it answers for `entry` at `now`.
    #[must_use]
    pub fn token(&self, entry: &WorkloadEntry, now: i64) -> Option<Arc<CachedToken>> {
        self.token.load().as_ref().filter(|token| token.answers(entry, now)).cloned()
    }

    /// The token, whatever its state.
    #[must_use]
    pub fn held(&self) -> Option<Arc<CachedToken>> {
        self.token.load_full()
    }

    /// Holds `token` from now on.
    pub fn set(&self, token: Arc<CachedToken>) {
        self.token.store(Some(token));
    }

    fn used(&self, now: i64) {
        self.used.store(now, Ordering::Relaxed);
    }

    fn is_for(&self, entry_id: &EntryId, audience: &[String]) -> bool {
        self.entry_id == *entry_id && *self.audience == *audience
    }
}

/// All tokens.
#[derive(Debug)]
pub struct JwtCache {
    hasher: RandomState,
    slots: RwLock<HashMap<u64, Vec<Arc<JwtSlot>>>>,
    limit: usize,
}

impl JwtCache {
    /// Holds at most `limit` tokens.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { hasher: RandomState::new(), slots: RwLock::default(), limit: limit.max(1) }
    }

    /// The token of `entry` for `audience` (sorted), if a valid one is held.
    #[must_use]
    pub fn token(&self, entry: &WorkloadEntry, audience: &[String], now: i64) -> Option<Bytes> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots
            .get(&self.hash(&entry.id, audience))?
            .iter()
            .find(|slot| slot.is_for(&entry.id, audience))?;
        let token = slot.token.load();
        let token = token.as_ref().filter(|token| token.answers(entry, now))?;
        slot.used(now);
        Some(token.encoded())
    }

    /// The place for `audience` (sorted) of an entry; makes room for it if there is none yet.
    #[must_use]
    pub fn slot(&self, entry_id: &EntryId, audience: &[String], now: i64) -> Arc<JwtSlot> {
        let hash = self.hash(entry_id, audience);
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) =
            slots.get(&hash).into_iter().flatten().find(|slot| slot.is_for(entry_id, audience))
        {
            slot.used(now);
            return Arc::clone(slot);
        }
        if slots.values().map(Vec::len).sum::<usize>() >= self.limit {
            evict(&mut slots, self.limit);
        }
        let slot = Arc::new(JwtSlot {
            entry_id: entry_id.clone(),
            audience: audience.into(),
            token: ArcSwapOption::empty(),
            used: AtomicI64::new(now),
            state: Mutex::default(),
        });
        slots.entry(hash).or_default().push(Arc::clone(&slot));
        slot
    }

    /// The places whose token should be renewed at `now`, soonest to end first. `entry` gives the entry as it is now.
    #[must_use]
    pub fn due<'a>(
        &self,
        now: i64,
        entry: impl Fn(&EntryId) -> Option<&'a WorkloadEntry>,
    ) -> Vec<Arc<JwtSlot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut due: Vec<_> = slots
            .values()
            .flatten()
            .filter_map(|slot| {
                let token = slot.held()?;
                let entry = entry(&slot.entry_id)?;
                let lifetime = token.token.lifetime;
                let outdated = token.issued_for != (entry.revision_number, entry.created_at);
                let wanted =
                    slot.used.load(Ordering::Relaxed) >= lifetime.received_at && !lifetime.expired(now);
                (wanted && (outdated || lifetime.standing(now) != Standing::Good))
                    .then(|| (lifetime.not_after, Arc::clone(slot)))
            })
            .collect();
        due.sort_by_key(|(end, _)| *end);
        due.into_iter().map(|(_, slot)| slot).collect()
    }

    /// When the next token falls due (unix seconds).
    #[must_use]
    pub fn next_due(&self, now: i64) -> Option<i64> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let times =
            slots.values().flatten().filter_map(|slot| slot.held()).map(|held| held.token.lifetime.renew_at);
        times.filter(|due| *due > now).min()
    }

    /// Drops what has ended, what belongs to no entry any more, and what `distrusted` says of.
    pub fn prune<'a>(
        &self,
        now: i64,
        entry: impl Fn(&EntryId) -> Option<&'a WorkloadEntry>,
        distrusted: impl Fn(&Token) -> bool,
    ) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        for list in slots.values_mut() {
            list.retain(|slot| {
                let Some(entry) = entry(&slot.entry_id) else { return false };
                match slot.held() {
                    Some(held) => {
                        held.token.spiffe_id == entry.spiffe_id
                            && !held.token.lifetime.expired(now)
                            && !distrusted(&held.token)
                    }
                    // Nothing issued yet: somebody waits, or gave up a while ago.
                    None => now.saturating_sub(slot.used.load(Ordering::Relaxed)) < EMPTY_SLOT_LIFETIME,
                }
            });
        }
        slots.retain(|_, list| !list.is_empty());
    }

    /// All places, for saving.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<JwtSlot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.values().flatten().cloned().collect()
    }

    /// How many tokens are held.
    #[must_use]
    pub fn len(&self) -> usize {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.values().flatten().filter(|slot| slot.token.load().is_some()).count()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, entry_id: &EntryId, audience: &[String]) -> u64 {
        self.hasher.hash_one((entry_id.as_str(), audience))
    }
}

/// Makes room by letting go of the oldest tokens of whoever holds most: a workload that asks for ever new audiences
/// pushes out its own tokens and not its neighbours'.
fn evict(slots: &mut HashMap<u64, Vec<Arc<JwtSlot>>>, limit: usize) {
    let mut by_entry: HashMap<&EntryId, Vec<(i64, *const JwtSlot)>> = HashMap::new();
    for slot in slots.values().flatten() {
        by_entry
            .entry(&slot.entry_id)
            .or_default()
            .push((slot.used.load(Ordering::Relaxed), Arc::as_ptr(slot)));
    }
    let mut holders: Vec<_> = by_entry.into_values().collect();
    holders.iter_mut().for_each(|tokens| tokens.sort_unstable_by(|a, b| b.cmp(a)));
    let count: usize = holders.iter().map(Vec::len).sum();
    // A tenth at once, so that a full cache is not searched for every new token.
    let surplus = (count + 1).saturating_sub(limit) + limit / 10;
    let mut gone = HashSet::new();
    for _ in 0..surplus {
        let most = holders
            .iter_mut()
            .max_by_key(|tokens| (tokens.len(), Reverse(tokens.last().map(|(used, _)| *used))));
        gone.extend(most.and_then(Vec::pop).map(|(_, slot)| slot));
    }
    for list in slots.values_mut() {
        list.retain(|slot| !gone.contains(&Arc::as_ptr(slot)));
    }
    slots.retain(|_, list| !list.is_empty());
}

/// Seconds for which a place without token is kept.
const EMPTY_SLOT_LIFETIME: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::tests::entry;

    fn audience(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn token(entry: &WorkloadEntry, text: &str, issued: i64, end: i64) -> Arc<CachedToken> {
        let lifetime = Lifetime::new(issued, end, issued, b"key");
        let token =
            Token { text: text.into(), spiffe_id: entry.spiffe_id.clone(), lifetime, key_id: "k1".into() };
        Arc::new(CachedToken::new(token, entry))
    }

    fn texts(encoded: &[u8]) -> Vec<String> {
        workload::JwtsvidResponse::decode(encoded).unwrap().svids.into_iter().map(|svid| svid.svid).collect()
    }

    #[test]
    fn a_valid_token_is_found_by_entry_and_audience() {
        let (cache, a) = (JwtCache::new(10), entry("a", &["unix:uid:1"]));
        let aud = audience(&["x", "y"]);
        cache.slot(&a.id, &aud, 100).set(token(&a, "t", 100, 200));
        assert_eq!(texts(&cache.token(&a, &aud, 150).unwrap()), ["t"]);
        assert!(cache.token(&a, &audience(&["x"]), 150).is_none());
        assert!(cache.token(&entry("b", &["unix:uid:1"]), &aud, 150).is_none());
        assert!(cache.token(&a, &aud, 200).is_none(), "ended");
    }

    #[test]
    fn encoded_tokens_one_after_the_other_are_one_response() {
        let a = entry("a", &["unix:uid:1"]);
        let both = [token(&a, "one", 0, 9).encoded(), token(&a, "two", 0, 9).encoded()].concat();
        assert_eq!(texts(&both), ["one", "two"]);
    }

    #[test]
    fn a_token_of_an_entry_that_changed_its_name_or_hint_is_not_handed_out() {
        let (cache, a) = (JwtCache::new(10), entry("a", &["unix:uid:1"]));
        let aud = audience(&["x"]);
        cache.slot(&a.id, &aud, 100).set(token(&a, "t", 100, 200));
        assert!(cache.token(&WorkloadEntry { hint: "web".into(), ..a.clone() }, &aud, 150).is_none());
        assert!(
            cache
                .token(&WorkloadEntry { id: a.id.clone(), ..entry("z", &["unix:uid:1"]) }, &aud, 150)
                .is_none()
        );
    }

    #[test]
    fn only_a_used_token_is_renewed_and_the_soonest_to_end_first() {
        let (cache, a) = (JwtCache::new(10), entry("a", &["unix:uid:1"]));
        let place = |name: &str, used: i64, end: i64| {
            let aud = audience(&[name]);
            cache.slot(&a.id, &aud, used).set(token(&a, name, 100, end));
        };
        place("unused", 50, 190);
        place("later", 120, 200);
        place("sooner", 120, 180);
        let due = |now| -> Vec<String> {
            cache.due(now, |_| Some(&a)).iter().map(|slot| slot.audience[0].clone()).collect()
        };
        assert!(due(120).is_empty());
        assert_eq!(due(170), ["sooner", "later"]);
        assert_eq!(due(185), ["later"], "what has ended is not renewed but fetched when asked for");
    }

    #[test]
    fn a_full_cache_lets_the_least_recently_used_go() {
        let (cache, a) = (JwtCache::new(3), entry("a", &["unix:uid:1"]));
        for (at, name) in ["one", "two", "three"].iter().enumerate() {
            let aud = audience(&[name]);
            cache.slot(&a.id, &aud, at as i64).set(token(&a, name, 0, 1_000));
        }
        assert!(cache.token(&a, &audience(&["one"]), 50).is_some());
        let _new = cache.slot(&a.id, &audience(&["four"]), 60);
        assert!(cache.token(&a, &audience(&["one"]), 70).is_some());
        assert!(cache.token(&a, &audience(&["two"]), 70).is_none());
    }

    #[test]
    fn a_workload_with_ever_new_audiences_pushes_out_its_own_tokens_only() {
        let cache = JwtCache::new(10);
        let (quiet, noisy) = (entry("quiet", &["unix:uid:1"]), entry("noisy", &["unix:uid:2"]));
        cache.slot(&quiet.id, &audience(&["x"]), 0).set(token(&quiet, "t", 0, 1_000));
        for n in 0..100 {
            let aud = audience(&[&format!("aud-{n}")]);
            cache.slot(&noisy.id, &aud, n).set(token(&noisy, "n", 0, 1_000));
        }
        assert!(cache.token(&quiet, &audience(&["x"]), 200).is_some());
        assert!(cache.len() <= 10);
    }

    #[test]
    fn what_ended_or_lost_its_entry_or_was_signed_by_a_tainted_key_is_dropped() {
        let (a, aud) = (entry("a", &["unix:uid:1"]), audience(&["x"]));
        let check = |now, entry: Option<&WorkloadEntry>, tainted: &str, kept: usize| {
            let cache = JwtCache::new(3);
            cache.slot(&a.id, &aud, 0).set(token(&a, "t", 0, 100));
            cache.prune(now, |_| entry, |token| token.key_id == tainted);
            assert_eq!(cache.len(), kept);
        };
        check(50, Some(&a), "other", 1);
        check(100, Some(&a), "other", 0);
        check(50, None, "other", 0);
        check(50, Some(&a), "k1", 0);
    }
}
