//! Renews tokens ahead of their end, and lets go of what tainted keys signed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;
use vouchsafe_types::entry::EntryId;

use super::JwtIssuer;
use crate::metrics::{Metrics, Retry};
use crate::status::StatusBoard;
use crate::taint::JwtKeys;

impl JwtIssuer {
    /// Renews tokens ahead of their end until `cancel`.
    ///
    /// # Errors
    ///
    /// Never; the signature is that of a supervised task.
    pub async fn run(
        self,
        metrics: Metrics,
        board: StatusBoard,
        cancel: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let mut issued = self.issued();
        let mut changes = self.inner.identities.watch();
        let mut counted = HashSet::new();
        while !cancel.is_cancelled() {
            changes.mark_unchanged();
            let now = self.inner.clock.unix_now();
            let snapshot = self.inner.identities.load();
            let entry = |id: &EntryId| snapshot.index.get(id.as_str()).map(|slot| &slot.entry);
            let keys = JwtKeys::of(snapshot.bundles.as_ref().map(|bundles| &bundles.own.bundle));
            self.count_tainted(&keys, &mut counted, &metrics);
            let confirmed = board.watch().borrow().last_sync.map_or(i64::MIN, unix_seconds);
            self.inner.cache.prune(now, entry, |token| {
                // A key that is newer than the bundle is missing too.
                keys.is_tainted(&token.key_id)
                    || keys.is_missing(&token.key_id) && token.lifetime.received_at < confirmed
            });
            self.inner.forget_idle_turns();
            let held = self.inner.cache.len();
            metrics.jwt_svids_held(held);
            board.set(|status| status.jwt_svids = held);
            for place in self.inner.cache.due(now, entry) {
                let Some(slot) = snapshot.index.get(place.entry_id.as_str()) else { continue };
                let Ok(turn) = Arc::clone(&self.inner.renewing).try_acquire_owned() else { break };
                if place.may_renew() {
                    if place.has_failed() {
                        metrics.retried(Retry::IssueJwt);
                    }
                    self.start(slot, &place, turn);
                }
            }
            let next = self.inner.cache.next_due(now).map_or(TICK, |due| {
                Duration::from_secs(u64::try_from(due - now).unwrap_or(1))
                    .clamp(Duration::from_millis(500), TICK)
            });
            tokio::select! {
                () = cancel.cancelled() => {}
                _ = issued.changed() => {}
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
        self.inner.tasks.close();
        Ok(())
    }

    /// Reports what newly tainted keys signed; it is dropped right after.
    fn count_tainted(&self, keys: &JwtKeys<'_>, counted: &mut HashSet<String>, metrics: &Metrics) {
        counted.retain(|key_id| keys.is_tainted(key_id));
        let new: Vec<_> = keys.tainted().filter(|key_id| !counted.contains(*key_id)).collect();
        if new.is_empty() {
            return;
        }
        let start = Instant::now();
        let held = self.inner.cache.all().into_iter().filter_map(|slot| slot.held());
        let count = held.filter(|held| new.contains(&held.token.key_id.as_str())).count();
        let jwt_authority_key_ids = new.join(",");
        info!(
            jwt_authority_key_ids,
            tainted_jwt_svids = count,
            "JWT-SVIDs were removed from the JWT cache because they were issued by a tainted authority"
        );
        metrics.tainted_jwt_svids(count);
        metrics.process_tainted_jwt_svids().observe(&[], "OK", start.elapsed());
        counted.extend(new.into_iter().map(str::to_owned));
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The clock is looked at this often even if nothing is due: it may jump.
const TICK: Duration = Duration::from_secs(5);
