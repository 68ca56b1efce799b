//! The names of findings. They are interface: scripts and pages go by them.

/// One of two clocks is wrong.
pub const CLOCK_SKEW: &str = "clock-skew";
/// The server has banned the agent.
pub const AGENT_BANNED: &str = "agent-banned";
/// The server does not know the agent.
pub const AGENT_EVICTED: &str = "agent-evicted";
/// The server denies the agent everything, for another reason.
pub const AGENT_DENIED: &str = "agent-denied";
/// The agent's own SVID has expired.
pub const AGENT_SVID_EXPIRED: &str = "agent-svid-expired";
/// The agent has no SVID.
pub const AGENT_NOT_ATTESTED: &str = "agent-not-attested";
/// The agent knows no entries.
pub const AGENT_NOT_SYNCHRONIZED: &str = "agent-not-synchronized";
/// The agent is about to end.
pub const AGENT_REFUSED: &str = "agent-refused";
/// The server does not answer.
pub const SERVER_UNREACHABLE: &str = "server-unreachable";
/// The server is not the one that the agent knows.
pub const SERVER_UNTRUSTED: &str = "server-untrusted";
/// The server answers `ResourceExhausted`.
pub const SERVER_RATE_LIMITED: &str = "server-rate-limited";
/// The server answers with other errors.
pub const SYNC_FAILING: &str = "sync-failing";
/// Nothing in the held bundle is valid.
pub const BUNDLE_EXPIRED: &str = "bundle-expired";
/// There is no such process.
pub const PROCESS_GONE: &str = "process-gone";
/// No process here is of that Pod.
pub const POD_NOT_HERE: &str = "pod-not-here";
/// A workload attestor has no answer.
pub const ATTESTOR_FAILED: &str = "attestor-failed";
/// No entry has anything in common with the process.
pub const NO_ENTRY: &str = "no-entry";
/// The nearest entry wants another value.
pub const SELECTOR_DIFFERS: &str = "selector-differs";
/// There was an entry.
pub const ENTRY_REMOVED: &str = "entry-removed";
/// The entry is not for workloads.
pub const ENTRY_FOR_STORE: &str = "entry-for-store";
/// Two identities of one process have the same hint.
pub const HINT_TAKEN: &str = "hint-taken";
/// An identity of another trust domain.
pub const FOREIGN_TRUST_DOMAIN: &str = "foreign-trust-domain";
/// The SVID has not come yet.
pub const SVID_NOT_SIGNED: &str = "svid-not-signed";
/// The server refuses this one.
pub const ISSUE_REFUSED: &str = "issue-refused";
/// The SVID comes with the first request.
pub const SVID_ON_DEMAND: &str = "svid-on-demand";
/// The SVID comes with the first request, since there is no room.
pub const SVID_CACHE_FULL: &str = "svid-cache-full";
/// The SVID has ended.
pub const SVID_EXPIRED: &str = "svid-expired";
/// The SVID is of the future.
pub const SVID_NOT_YET_VALID: &str = "svid-not-yet-valid";
/// The SVID should have been renewed.
pub const RENEWAL_OVERDUE: &str = "renewal-overdue";
/// The SVID is replaced soon.
pub const SVID_DISTRUSTED: &str = "svid-distrusted";
/// The caller asks too often.
pub const CALLER_RATE_LIMITED: &str = "caller-rate-limited";
/// All is well.
pub const IDENTITY_HELD: &str = "identity-held";
