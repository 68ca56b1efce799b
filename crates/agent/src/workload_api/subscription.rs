//! What the caller of a stream may have, for as long as the stream is open.

use std::sync::Arc;

use tonic::Status;

use super::request::{Api, Known};
use crate::callers::Attested;
use crate::identities::Identities;
use crate::identity_set::IdentitySet;

/// Follows a caller's identities. While it lives its entries count as used, so their SVIDs are never let go and are
/// issued before anything else.
#[derive(Debug)]
pub struct Subscription {
    api: Arc<Api>,
    attested: Arc<Attested>,
    set: Arc<IdentitySet>,
}

impl Subscription {
    /// For a caller that was admitted.
    #[must_use]
    pub fn new(api: Arc<Api>, known: Known) -> Self {
        let Known { attested, set } = known;
        opened(&api, &set);
        Self { api, attested, set }
    }

    /// What it is answered from.
    #[must_use]
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Entries, SVIDs and bundles of everyone.
    #[must_use]
    pub fn identities(&self) -> &Identities {
        &self.api.identities
    }

    /// Wall time, Unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.api.clock.unix_now()
    }

    /// The caller's identities as of the last look.
    #[must_use]
    pub fn set(&self) -> &Arc<IdentitySet> {
        &self.set
    }

    /// Looks again. Returns whether anything is different.
    pub fn refresh(&mut self) -> bool {
        let set = self.api.identities_of(&self.attested);
        if Arc::ptr_eq(&set, &self.set) {
            return false;
        }
        // Counted before the old ones are let go: what is in both is in use throughout.
        opened(&self.api, &set);
        let before = std::mem::replace(&mut self.set, set);
        closed(&before);
        true
    }

    /// See [`Api::no_identity`].
    #[must_use]
    pub fn no_identity(&self) -> Status {
        self.api.no_identity(&self.attested)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        closed(&self.set);
    }
}

fn opened(api: &Api, set: &IdentitySet) {
    let now = u64::try_from(api.clock.unix_now()).unwrap_or(0);
    set.members.iter().for_each(|member| member.slot.usage.opened(now));
}

fn closed(set: &IdentitySet) {
    set.members.iter().for_each(|member| member.slot.usage.closed());
}
