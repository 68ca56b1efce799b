//! Who may call what: one table of method × caller kind, and the decision over it. Pure.
//!
//! The order is SPIRE's: anyone, local, admin, downstream, agent. Only the denial of an agent carries a reason, because agents act
//! on it; the text of every denial is the same, and the log has the detail. An agent is judged by what memory holds,
//! so a slow database delays nobody.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use vouchsafe_proto::denial::{Reason, denied};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::spiffe_id::SpiffeId;
use vouchsafe_types::x509_svid::X509Svid;

use crate::model::Entries;
use crate::model::is_live;

/// Whom a method serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Allow(u8);

const ANY: u8 = 1;
const LOCAL: u8 = 2;
const ADMIN: u8 = 4;
const AGENT: u8 = 8;
const DOWNSTREAM: u8 = 16;
const OPERATOR: u8 = LOCAL | ADMIN;

/// Every method that is served, and whom it serves. A method that is not here is not served.
const METHODS: &[(&str, u8)] = &[
    ("/spire.api.server.agent.v1.Agent/AttestAgent", ANY),
    ("/spire.api.server.agent.v1.Agent/BanAgent", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/CountAgents", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/CreateJoinToken", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/DeleteAgent", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/GetAgent", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/ListAgents", OPERATOR),
    ("/spire.api.server.agent.v1.Agent/PostStatus", AGENT),
    (RENEW_AGENT, AGENT),
    ("/spire.api.server.bundle.v1.Bundle/AppendBundle", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/BatchCreateFederatedBundle", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/BatchDeleteFederatedBundle", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/BatchSetFederatedBundle", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/BatchUpdateFederatedBundle", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/CountBundles", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/GetBundle", ANY),
    ("/spire.api.server.bundle.v1.Bundle/GetFederatedBundle", OPERATOR | AGENT),
    ("/spire.api.server.bundle.v1.Bundle/ListFederatedBundles", OPERATOR),
    ("/spire.api.server.bundle.v1.Bundle/PublishJWTAuthority", DOWNSTREAM),
    ("/spire.api.server.bundle.v1.Bundle/PublishWITAuthority", DOWNSTREAM),
    ("/spire.api.server.debug.v1.Debug/GetInfo", LOCAL),
    ("/spire.api.server.entry.v1.Entry/BatchCreateEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/BatchDeleteEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/BatchUpdateEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/CountEntries", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/GetAuthorizedEntries", AGENT),
    ("/spire.api.server.entry.v1.Entry/GetEntry", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/ListEntries", OPERATOR),
    ("/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries", AGENT),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateJWTAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateWITAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/ActivateX509Authority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetJWTAuthorityState", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetWITAuthorityState", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/GetX509AuthorityState", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareJWTAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareWITAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/PrepareX509Authority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeJWTAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeWITAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509Authority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/RevokeX509UpstreamAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintJWTAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintWITAuthority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509Authority", OPERATOR),
    ("/spire.api.server.localauthority.v1.LocalAuthority/TaintX509UpstreamAuthority", OPERATOR),
    ("/spire.api.server.logger.v1.Logger/GetLogger", LOCAL),
    ("/spire.api.server.logger.v1.Logger/ResetLogLevel", LOCAL),
    ("/spire.api.server.logger.v1.Logger/SetLogLevel", LOCAL),
    ("/spire.api.server.svid.v1.SVID/BatchNewWITSVID", AGENT),
    ("/spire.api.server.svid.v1.SVID/BatchNewX509SVID", AGENT),
    ("/spire.api.server.svid.v1.SVID/MintJWTSVID", OPERATOR),
    ("/spire.api.server.svid.v1.SVID/MintWITSVID", OPERATOR),
    ("/spire.api.server.svid.v1.SVID/MintX509SVID", OPERATOR),
    ("/spire.api.server.svid.v1.SVID/NewDownstreamX509CA", DOWNSTREAM),
    ("/spire.api.server.svid.v1.SVID/NewJWTSVID", AGENT),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchCreateFederationRelationship", OPERATOR),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchDeleteFederationRelationship", OPERATOR),
    ("/spire.api.server.trustdomain.v1.TrustDomain/BatchUpdateFederationRelationship", OPERATOR),
    ("/spire.api.server.trustdomain.v1.TrustDomain/GetFederationRelationship", OPERATOR),
    ("/spire.api.server.trustdomain.v1.TrustDomain/ListFederationRelationships", OPERATOR),
    ("/spire.api.server.trustdomain.v1.TrustDomain/RefreshBundle", OPERATOR),
    (WATCH, AGENT),
    ("/vouchsafe.server.v1.Contacts/ListContacts", OPERATOR),
    ("/grpc.health.v1.Health/Check", LOCAL),
    ("/grpc.health.v1.Health/List", LOCAL),
    ("/grpc.health.v1.Health/Watch", LOCAL),
];

/// The stream of changes; it asks again while it is open.
pub(crate) const WATCH: &str = "/vouchsafe.server.v1.Revisions/Watch";

const RENEW_AGENT: &str = "/spire.api.server.agent.v1.Agent/RenewAgent";

/// How long after its certificate expired (or before it becomes valid) an agent may still renew it, and nothing else.
///
/// Covers a clock that jumps by three days in either direction on every machine at once: the agent is known, its
/// serial number is the last one issued, and a ban or an eviction still stops it.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(96 * 3600);

/// How far the clock of the server that issued an SVID may be ahead of this one.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection, before any question of rights.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// A process that could open the admin socket.
    Local,
    /// A holder of an X.509-SVID of the trust domain.
    Svid(Arc<X509Svid>),
    /// A TLS client without certificate.
    Anonymous,
}

/// Who calls, once the call is allowed. Handlers find it in the request's extensions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// Anyone; the method does not care.
    Anyone,
    /// A process on this machine that may open the admin socket.
    Local,
    /// A workload whose entry is marked `admin`.
    Admin(SpiffeId),
    /// A server of this trust domain whose entry is marked `downstream`.
    Downstream(SpiffeId),
    /// An attested agent.
    Agent(SpiffeId),
}

/// What the decision needs to know of the server's state.
pub(crate) trait Registry {
    /// The agent with `id` as it is now, renewals included that are not yet in the database.
    fn agent(&self, id: &SpiffeId) -> Option<Agent>;
    /// Whether an entry with `admin` gives `id` to a workload.
    fn is_admin(&self, id: &SpiffeId) -> bool;
    /// Whether an entry with `downstream` gives `id` to a server.
    fn is_downstream(&self, id: &SpiffeId) -> bool;
    /// Notes that `agent` uses the SVID that it was last issued.
    fn promote(&self, agent: &SpiffeId, serial: &str);
    /// Notes that `agent` uses an SVID that another server issued to it, which ends at `expires_at`.
    fn adopt(&self, agent: &SpiffeId, serial: &str, expires_at: i64);
    /// Whether this server has seen `agent` use another SVID after the one with `serial`.
    fn has_replaced(&self, agent: &SpiffeId, serial: &str) -> bool;
}

/// Whether `entries` make `id` an administrator at `now`.
pub(crate) fn is_admin(entries: &Entries, id: &SpiffeId, now: i64) -> bool {
    entries.with_spiffe_id(id).any(|entry| entry.admin && is_live(entry, now))
}

/// Whether `entries` make `id` a downstream server at `now`.
pub(crate) fn is_downstream(entries: &Entries, id: &SpiffeId, now: i64) -> bool {
    entries.with_spiffe_id(id).any(|entry| entry.downstream && is_live(entry, now))
}

/// Decides whether `peer` may call `method` at `now` (Unix seconds).
///
/// # Errors
///
/// `UNIMPLEMENTED` for a method that is not served; `PERMISSION_DENIED` otherwise, with a [`Reason`] when the method
/// serves agents and the peer claims to be one.
pub(crate) fn authorize(
    method: &str,
    peer: &Peer,
    registry: &dyn Registry,
    now: i64,
) -> Result<Caller, Denial> {
    let Some((_, allow)) = METHODS.iter().find(|(name, _)| *name == method) else {
        return Err(Denial::unimplemented(method));
    };
    let allow = Allow(*allow);
    if allow.has(ANY) {
        return Ok(Caller::Anyone);
    }
    if allow.0 == LOCAL && !matches!(peer, Peer::Local) {
        // Not there for a remote caller, as in SPIRE.
        return Err(Denial::unknown_service(method));
    }
    match peer {
        Peer::Local if allow.has(LOCAL) => Ok(Caller::Local),
        Peer::Svid(svid) if allow.has(ADMIN) && is_valid(svid, now) && registry.is_admin(&svid.id) => {
            Ok(Caller::Admin(svid.id.clone()))
        }
        Peer::Svid(svid)
            if allow.has(DOWNSTREAM) && is_valid(svid, now) && registry.is_downstream(&svid.id) =>
        {
            Ok(Caller::Downstream(svid.id.clone()))
        }
        Peer::Svid(svid) if allow.has(AGENT) => authorize_agent(method, svid, registry, now),
        Peer::Local | Peer::Svid(_) | Peer::Anonymous => Err(Denial {
            status: Status::permission_denied(text(method)),
            detail: "caller has no right to it".into(),
        }),
    }
}

fn authorize_agent(
    method: &str,
    svid: &X509Svid,
    registry: &dyn Registry,
    now: i64,
) -> Result<Caller, Denial> {
    let denial = |reason, detail: String| Denial { status: denied(reason, text(method)), detail };
    let id = &svid.id;
    let grace = if method == RENEW_AGENT { RENEWAL_GRACE } else { Duration::ZERO };
    if !is_valid_within(svid, now, grace) {
        return Err(denial(Reason::AgentExpired, format!("agent {:?} SVID is expired", id.as_str())));
    }
    let Some(agent) = registry.agent(id) else {
        return Err(denial(Reason::AgentNotAttested, format!("agent {:?} is not attested", id.as_str())));
    };
    if agent.is_banned() {
        return Err(denial(Reason::AgentBanned, format!("agent {:?} is banned", id.as_str())));
    }
    if agent.serial_number != svid.serial {
        if agent.owns_serial(&svid.serial) {
            registry.promote(id, &svid.serial);
        } else if is_valid(svid, now) && is_latest(svid, &agent) && !registry.has_replaced(id, &svid.serial) {
            // Issued by another server, and not before what is known here: see docs/decisions/0007.
            registry.adopt(id, &svid.serial, svid.not_after);
        } else {
            let detail = format!(
                "agent {:?} expected to have serial number {:?}; has {:?}",
                id.as_str(),
                agent.serial_number,
                svid.serial
            );
            return Err(denial(Reason::AgentNotActive, detail));
        }
    }
    Ok(Caller::Agent(id.clone()))
}

/// A call that is refused: what the caller is told, and what the log says.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) status: Status,
    pub(crate) detail: String,
}

impl Denial {
    fn unimplemented(method: &str) -> Self {
        let (service, name) = service_and_name(method);
        if !METHODS.iter().any(|(known, _)| service_and_name(known).0 == service) {
            return Self::unknown_service(method);
        }
        Self {
            status: Status::unimplemented(format!("unknown method {name} for service {service}")),
            detail: "not served".into(),
        }
    }

    fn unknown_service(method: &str) -> Self {
        let (service, _) = service_and_name(method);
        let status = Status::unimplemented(format!("unknown service {service}"));
        Self { status, detail: "not served".into() }
    }
}

fn service_and_name(method: &str) -> (&str, &str) {
    let method = method.strip_prefix('/').unwrap_or(method);
    method.rsplit_once('/').unwrap_or((method, ""))
}

impl Allow {
    fn has(self, kind: u8) -> bool {
        self.0 & kind != 0
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Svid(svid) => f.write_str(svid.id.as_str()),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

/// Every method that is served.
pub(crate) fn methods() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|(name, _)| *name)
}

fn is_valid(svid: &X509Svid, now: i64) -> bool {
    is_valid_within(svid, now, Duration::ZERO)
}

fn is_valid_within(svid: &X509Svid, now: i64, grace: Duration) -> bool {
    let secs = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let early = secs(grace.max(CLOCK_SKEW));
    now.saturating_add(early) >= svid.not_before && now.saturating_sub(secs(grace)) <= svid.not_after
}

/// Whether `svid` ends after everything that is known of `agent`, as far as the clocks of two servers can tell: the one that
/// issued it may be behind by [`CLOCK_SKEW`]. What it replaced ends half a life earlier, which is more.
fn is_latest(svid: &X509Svid, agent: &Agent) -> bool {
    let life = svid.not_after.saturating_sub(svid.not_before);
    let behind = i64::try_from(CLOCK_SKEW.as_secs()).unwrap_or(i64::MAX).min(life / 4);
    svid.not_after.saturating_add(behind) > agent.expires_at.max(agent.new_expires_at)
}

fn text(method: &str) -> String {
    format!("authorization denied for method {method}")
}

#[cfg(test)]
mod tests;
