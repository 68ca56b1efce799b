use std::cell::RefCell;

use super::*;
use tonic::Code;
use vouchsafe_proto::denial::reason;
use vouchsafe_types::selector::SelectorSet;

const LIST: &str = "/spire.api.server.entry.v1.Entry/ListEntries";
const SYNC: &str = "/spire.api.server.entry.v1.Entry/SyncAuthorizedEntries";
const FEDERATED: &str = "/spire.api.server.bundle.v1.Bundle/GetFederatedBundle";
const NOW: i64 = 1_000_000;

#[derive(Default)]
struct Fake {
    agent: Option<Agent>,
    admin: bool,
    downstream: bool,
    promoted: RefCell<Vec<String>>,
    replaced: &'static str,
}

impl Registry for Fake {
    fn agent(&self, _: &SpiffeId) -> Option<Agent> {
        self.agent.clone()
    }
    fn is_admin(&self, _: &SpiffeId) -> bool {
        self.admin
    }
    fn is_downstream(&self, _: &SpiffeId) -> bool {
        self.downstream
    }
    fn promote(&self, _: &SpiffeId, serial: &str) {
        self.promoted.borrow_mut().push(serial.to_owned());
    }
    fn adopt(&self, _: &SpiffeId, serial: &str, expires_at: i64) {
        self.promoted.borrow_mut().push(format!("{serial} until {expires_at}"));
    }
    fn has_replaced(&self, _: &SpiffeId, serial: &str) -> bool {
        self.replaced == serial
    }
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap()
}

fn svid(serial: &str) -> Arc<X509Svid> {
    let (not_before, not_after) = (NOW - 60, NOW + 60);
    Arc::new(X509Svid { id: id(), chain: Vec::new(), serial: serial.into(), not_before, not_after })
}

fn agent(serial: &str, new: &str) -> Fake {
    let agent = Agent {
        id: id(),
        attestation_type: "join_token".into(),
        serial_number: serial.into(),
        expires_at: NOW + 60,
        new_serial_number: new.into(),
        new_expires_at: 0,
        can_reattest: false,
        selectors: SelectorSet::default(),
        agent_version: String::new(),
    };
    Fake { agent: Some(agent), ..Fake::default() }
}

fn refused(method: &str, peer: &Peer, registry: &Fake, now: i64) -> (Code, Option<Reason>) {
    let status = authorize(method, peer, registry, now).unwrap_err().status;
    (status.code(), reason(&status))
}

#[test]
fn the_table_is_sorted_by_service_and_has_no_method_twice() {
    let mut names: Vec<_> = METHODS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), METHODS.len());
}

#[test]
fn each_kind_of_caller_gets_what_the_table_says() {
    let nobody = Fake::default();
    let any = authorize("/spire.api.server.bundle.v1.Bundle/GetBundle", &Peer::Anonymous, &nobody, NOW);
    assert_eq!(any.unwrap(), Caller::Anyone);
    assert_eq!(authorize(LIST, &Peer::Local, &nobody, NOW).unwrap(), Caller::Local);
    assert_eq!(refused(LIST, &Peer::Anonymous, &nobody, NOW), (Code::PermissionDenied, None));
    assert_eq!(refused(SYNC, &Peer::Local, &nobody, NOW), (Code::PermissionDenied, None));
    assert_eq!(refused(SYNC, &Peer::Anonymous, &nobody, NOW), (Code::PermissionDenied, None));

    let peer = Peer::Svid(svid("7"));
    assert_eq!(authorize(SYNC, &peer, &agent("7", ""), NOW).unwrap(), Caller::Agent(id()));
    assert_eq!(refused(LIST, &peer, &agent("7", ""), NOW), (Code::PermissionDenied, None));
    let admin = Fake { admin: true, ..Fake::default() };
    assert_eq!(authorize(LIST, &peer, &admin, NOW).unwrap(), Caller::Admin(id()));
    assert_eq!(authorize(FEDERATED, &peer, &agent("7", ""), NOW).unwrap(), Caller::Agent(id()));
}

#[test]
fn a_method_that_is_not_in_the_table_is_not_served() {
    let outcome = refused("/spire.api.server.debug.v1.Debug/Nothing", &Peer::Local, &Fake::default(), NOW);
    assert_eq!(outcome, (Code::Unimplemented, None));
}

#[test]
fn the_answer_to_an_unknown_name_says_what_is_unknown_as_grpc_servers_do() {
    let text = |method| {
        authorize(method, &Peer::Anonymous, &Fake::default(), NOW).unwrap_err().status.message().to_owned()
    };
    assert_eq!(text("/no.such.Service/Get"), "unknown service no.such.Service");
    assert_eq!(
        text("/spire.api.server.entry.v1.Entry/Nothing"),
        "unknown method Nothing for service spire.api.server.entry.v1.Entry"
    );
}

#[test]
fn what_serves_this_machine_only_is_not_there_for_others() {
    let method = "/spire.api.server.debug.v1.Debug/GetInfo";
    assert_eq!(authorize(method, &Peer::Local, &Fake::default(), NOW).unwrap(), Caller::Local);
    let admin = Fake { admin: true, ..Fake::default() };
    for peer in [Peer::Anonymous, Peer::Svid(svid("7"))] {
        assert_eq!(refused(method, &peer, &admin, NOW), (Code::Unimplemented, None));
    }
}

#[test]
fn a_downstream_server_gets_what_is_for_it_and_nothing_else() {
    let method = "/spire.api.server.svid.v1.SVID/NewDownstreamX509CA";
    let peer = Peer::Svid(svid("7"));
    let downstream = Fake { downstream: true, ..Fake::default() };
    assert_eq!(authorize(method, &peer, &downstream, NOW).unwrap(), Caller::Downstream(id()));
    assert_eq!(refused(LIST, &peer, &downstream, NOW), (Code::PermissionDenied, None));
    assert_eq!(refused(method, &peer, &downstream, NOW + 61), (Code::PermissionDenied, None), "expired");
    let admin = Fake { admin: true, ..Fake::default() };
    assert_eq!(refused(method, &peer, &admin, NOW), (Code::PermissionDenied, None), "an admin is no server");
    assert_eq!(refused(method, &Peer::Local, &downstream, NOW), (Code::PermissionDenied, None));
}

#[test]
fn every_denial_of_an_agent_carries_the_reason_it_acts_on() {
    let check = |registry: &Fake, now: i64, expected: Reason| {
        let outcome = refused(SYNC, &Peer::Svid(svid("7")), registry, now);
        assert_eq!(outcome, (Code::PermissionDenied, Some(expected)));
    };
    check(&Fake::default(), NOW, Reason::AgentNotAttested);
    check(&agent("", ""), NOW, Reason::AgentBanned);
    let mut renewed = agent("8", "9");
    renewed.agent.as_mut().unwrap().new_expires_at = NOW + 120;
    check(&renewed, NOW, Reason::AgentNotActive);
    check(&agent("7", ""), NOW + 61, Reason::AgentExpired);
    check(&agent("7", ""), NOW - 121, Reason::AgentExpired);
}

#[test]
fn the_first_use_of_a_renewed_svid_promotes_it() {
    let registry = agent("6", "7");
    authorize(SYNC, &Peer::Svid(svid("7")), &registry, NOW).unwrap();
    assert_eq!(*registry.promoted.borrow(), ["7"]);
    authorize(SYNC, &Peer::Svid(svid("6")), &registry, NOW).unwrap();
    assert_eq!(registry.promoted.borrow().len(), 1, "the old one stays valid until then");
}

#[test]
fn an_agent_whose_certificate_expired_may_renew_it_for_a_while_and_nothing_else() {
    let peer = Peer::Svid(svid("7"));
    let three_days = 72 * 3600;
    for now in [NOW + three_days, NOW - three_days] {
        assert_eq!(authorize(RENEW_AGENT, &peer, &agent("7", ""), now).unwrap(), Caller::Agent(id()));
        assert_eq!(refused(SYNC, &peer, &agent("7", ""), now).1, Some(Reason::AgentExpired));
        assert_eq!(refused(RENEW_AGENT, &peer, &agent("", ""), now).1, Some(Reason::AgentBanned));
        assert_eq!(refused(RENEW_AGENT, &peer, &Fake::default(), now).1, Some(Reason::AgentNotAttested));
    }
    let late = NOW + 60 + 97 * 3600;
    assert_eq!(refused(RENEW_AGENT, &peer, &agent("7", ""), late).1, Some(Reason::AgentExpired));
}

#[test]
fn an_expired_administrator_is_nobody() {
    let admin = Fake { admin: true, ..Fake::default() };
    assert_eq!(refused(LIST, &Peer::Svid(svid("7")), &admin, NOW + 61), (Code::PermissionDenied, None));
}

/// Another server renewed it, and the feed has not said so yet.
#[test]
fn an_svid_that_is_newer_than_all_that_is_known_of_its_agent_is_adopted() {
    let newer = Arc::new(X509Svid { not_after: NOW + 61, ..X509Svid::clone(&svid("9")) });
    let known = agent("1", "2");
    assert_eq!(authorize(SYNC, &Peer::Svid(newer.clone()), &known, NOW).unwrap(), Caller::Agent(id()));
    assert_eq!(*known.promoted.borrow(), [format!("9 until {}", NOW + 61)]);

    let not_active = (Code::PermissionDenied, Some(Reason::AgentNotActive));
    let of_a_clock_behind =
        Peer::Svid(Arc::new(X509Svid { not_after: NOW + 45, ..X509Svid::clone(&svid("9")) }));
    assert!(
        authorize(SYNC, &of_a_clock_behind, &agent("1", "2"), NOW).is_ok(),
        "a quarter of its life at most"
    );
    let seen = Fake { replaced: "9", ..agent("1", "2") };
    assert_eq!(refused(SYNC, &of_a_clock_behind, &seen, NOW), not_active, "it was replaced here");
    let mut renewed = agent("1", "2");
    renewed.agent.as_mut().unwrap().new_expires_at = NOW + 120;
    assert_eq!(
        refused(SYNC, &Peer::Svid(newer.clone()), &renewed, NOW),
        not_active,
        "replaced, or stolen before"
    );
    let banned = (Code::PermissionDenied, Some(Reason::AgentBanned));
    assert_eq!(refused(SYNC, &Peer::Svid(newer.clone()), &agent("", ""), NOW), banned);
    let gone = (Code::PermissionDenied, Some(Reason::AgentNotAttested));
    assert_eq!(refused(SYNC, &Peer::Svid(newer.clone()), &Fake::default(), NOW), gone);
    let late = refused(RENEW_AGENT, &Peer::Svid(newer), &known, NOW + 62);
    assert_eq!(late, not_active, "the grace of renewals is for SVIDs that are known");
}

#[test]
fn a_server_whose_clock_is_behind_serves_agents_of_one_that_is_ahead() {
    let peer = Peer::Svid(svid("1"));
    assert!(authorize(SYNC, &peer, &agent("1", ""), NOW - 120).is_ok());
    let expired = (Code::PermissionDenied, Some(Reason::AgentExpired));
    assert_eq!(refused(SYNC, &peer, &agent("1", ""), NOW - 121), expired);
}
