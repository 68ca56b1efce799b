//! How often one address may ask for what costs a signature or lets it guess. Who is too fast waits for its turn.
//!
//! A wait instead of a refusal, because stock agents back off exponentially when they are refused. It is bounded: by the
//! caller's own deadline, by [`MAX_WAIT`], and by [`MAX_WAITING`] calls of one address; beyond that a call is refused with
//! the time after which it makes sense. Callers on the admin socket are not limited. Attestations have rules of their
//! own ([`attestation`]). Whose turn it is when the processor is behind is another question ([`processor`]).

pub(crate) mod attestation;
pub(crate) mod processor;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use vouchsafe_runtime::budget::{Denied, KeyedBudgets};
use vouchsafe_runtime::metrics::{Call, Registry};
use vouchsafe_transport::listener::PeerKey;
use vouchsafe_transport::rpc_metrics::{STATUS_NAMES, names};

use crate::config::admission::RateLimits;
use attestation::Attestations;

/// Longest wait for a turn.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);
/// Most calls of one address that wait at a time for one kind of turn.
pub(crate) const MAX_WAITING: usize = 1_000;
/// Addresses that are told apart; further ones share one budget.
pub(crate) const MAX_ADDRESSES: usize = 65_536;

/// Signatures per second and address, and as many at once.
pub(crate) const SIGN: u32 = 500;
const PUSH_KEY: u32 = 500;
const POST_STATUS: u32 = 10;

/// Every limit of the server.
pub(crate) struct Limits {
    by_method: HashMap<&'static str, (Group, Call)>,
    groups: Vec<(Group, Option<PerAddress>)>,
    /// `None`: attestations are not limited.
    pub(crate) attestations: Option<Attestations>,
    attestation_waits: Call,
}

/// Methods that share a budget.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Group {
    Certificates,
    Tokens,
    Keys,
    Status,
}

const AGENT: &str = "/spire.api.server.agent.v1.Agent/";
/// The one method that asks for many at once, and takes its turns itself.
pub(crate) const BATCH_NEW_X509_SVID: &str = "/spire.api.server.svid.v1.SVID/BatchNewX509SVID";

/// Each limited method, and how SPIRE names its limit when it refuses.
const METHODS: [(&str, Group, &str); 8] = [
    (BATCH_NEW_X509_SVID, Group::Certificates, "certificate signing"),
    ("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", Group::Certificates, "certificate signing"),
    ("/spire.api.server.agent.v1.Agent/RenewAgent", Group::Certificates, "renew agent"),
    ("/spire.api.server.svid.v1.SVID/NewJWTSVID", Group::Tokens, "JWT signing request"),
    ("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", Group::Tokens, "certificate signing"),
    ("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", Group::Keys, "key publishing"),
    ("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority", Group::Keys, "key publishing"),
    ("/spire.api.server.agent.v1.Agent/PostStatus", Group::Status, "post status"),
];

impl Limits {
    pub(crate) fn new(config: RateLimits, metrics: &Registry) -> Self {
        let waits = |method: &str| metrics.call(&format!("rateLimit_{}", names::words(method)));
        let group = |group, rate, on: bool| (group, on.then(|| PerAddress::new(rate)));
        Self {
            by_method: METHODS.iter().map(|(method, group, _)| (*method, (*group, waits(method)))).collect(),
            groups: vec![
                group(Group::Certificates, SIGN, config.signing),
                group(Group::Tokens, SIGN, config.signing),
                group(Group::Keys, PUSH_KEY, true),
                group(Group::Status, POST_STATUS, true),
            ],
            attestations: config.attestation.then(Attestations::new),
            attestation_waits: waits(&format!("{AGENT}AttestAgent")),
        }
    }

    /// Whether calls of `method` take one turn each before they are handled.
    pub(crate) fn takes_a_turn(&self, method: &str) -> bool {
        method != BATCH_NEW_X509_SVID && self.by_method.contains_key(method)
    }

    /// Takes `count` turns of `method` for a caller at `address`, waiting for them. A caller that leaves meanwhile
    /// gives them back.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED`.
    pub(crate) async fn wait(
        &self,
        method: &str,
        address: Option<PeerKey>,
        count: usize,
    ) -> Result<(), Status> {
        let Some((group, waits)) = self.by_method.get(method) else { return Ok(()) };
        let budget =
            self.groups.iter().find(|(each, _)| each == group).and_then(|(_, budget)| budget.as_ref());
        let Some(budget) = budget else { return Ok(()) };
        let began = Instant::now();
        let outcome = match address {
            Some(address) => budget.take(address, count).await,
            None => Ok(()),
        };
        let code = outcome.as_ref().map_or(Code::ResourceExhausted, |()| Code::Ok);
        waits.observe(&[], STATUS_NAMES[code as usize], began.elapsed());
        outcome.map_err(|refusal| {
            let name = METHODS.iter().find(|(each, ..)| *each == method).map_or("", |(_, _, name)| *name);
            refusal.status(name)
        })
    }

    /// Notes how an attestation came to its turn.
    pub(crate) fn attestation_waited(&self, code: Code, elapsed: Duration) {
        self.attestation_waits.observe(&[], STATUS_NAMES[code as usize], elapsed);
    }
}

/// One budget per address, and how many wait for it.
struct PerAddress {
    rate: u32,
    budgets: KeyedBudgets<PeerKey>,
    waiting: Mutex<HashMap<PeerKey, usize>>,
}

impl PerAddress {
    fn new(rate: u32) -> Self {
        let budgets = KeyedBudgets::new(f64::from(rate), rate, MAX_ADDRESSES);
        Self { rate, budgets, waiting: Mutex::default() }
    }

    async fn take(&self, address: PeerKey, count: usize) -> Result<(), Refusal> {
        let exceeds = || Refusal::ExceedsBurst { asked: count, burst: self.rate };
        let count = u32::try_from(count).map_err(|_| exceeds())?;
        let _waiting = Waiting::begin(self, address).ok_or(Refusal::Crowded { wait: SECOND })?;
        match self.budgets.take(&address, count, MAX_WAIT).await {
            Ok(()) => Ok(()),
            Err(Denied::ExceedsBurst { .. }) => Err(exceeds()),
            Err(Denied::Spent { wait }) => Err(Refusal::Crowded { wait: wait.saturating_sub(MAX_WAIT) }),
            Err(_) => Err(Refusal::Crowded { wait: SECOND }),
        }
    }
}

/// A call between its arrival and its turn.
struct Waiting<'a>(&'a PerAddress, PeerKey);

impl<'a> Waiting<'a> {
    fn begin(of: &'a PerAddress, address: PeerKey) -> Option<Self> {
        let mut waiting = of.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.entry(address).or_insert(0);
        if *count >= MAX_WAITING {
            return None;
        }
        *count += 1;
        Some(Self(of, address))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.1);
            }
        }
    }
}

/// Why there is no turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// More at once than there ever is.
    ExceedsBurst { asked: usize, burst: u32 },
    /// Too many of this address wait already.
    Crowded { wait: Duration },
}

impl Refusal {
    /// What the caller is told. `limit` is SPIRE's name of the limit.
    pub(crate) fn status(self, limit: &str) -> Status {
        let prefix = format!("rejecting request due to {limit} rate limiting: ");
        match self {
            Self::ExceedsBurst { asked, burst } => {
                Status::resource_exhausted(format!("{prefix}rate ({asked}) exceeds burst size ({burst})"))
            }
            Self::Crowded { wait } => {
                let wait = wait.max(SECOND);
                let text = format!("{prefix}too many calls of this address wait; try again in {wait:.0?}");
                let details = ErrorDetails::with_retry_info(Some(wait));
                Status::with_error_details(Code::ResourceExhausted, text, details)
            }
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Takes the turns of one call; in the extensions of each request.
#[derive(Clone)]
pub(crate) struct Turn {
    pub(crate) limits: Arc<Limits>,
    /// Whose budget. `None`: a caller on this machine.
    pub(crate) address: Option<PeerKey>,
}

impl Turn {
    /// Waits for `count` turns of `method`.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED`.
    pub(crate) async fn take(&self, method: &str, count: usize) -> Result<(), Status> {
        self.limits.wait(method, self.address, count).await
    }
}

/// Counts what is under way.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Count {
    /// One more, unless there are `most`.
    fn enter(&self, most: usize) -> Option<Entered<'_>> {
        let add = |count: usize| (count < most).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Entered(self))
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

struct Entered<'a>(&'a Count);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
