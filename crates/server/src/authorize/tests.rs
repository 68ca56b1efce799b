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
    promoted: RefCell<Vec<String>>,
}

impl Registry for Fake {
    fn agent(&self, _: &SpiffeId) -> Option<Agent> {
        self.agent.clone()
    }
    fn is_admin(&self, _: &SpiffeId) -> bool {
        self.admin
    }
    fn promote(&self, _: &SpiffeId, serial: &str) {
        self.promoted.borrow_mut().push(serial.to_owned());
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
fn every_denial_of_an_agent_carries_the_reason_it_acts_on() {
    let check = |registry: &Fake, now: i64, expected: Reason| {
        let outcome = refused(SYNC, &Peer::Svid(svid("7")), registry, now);
        assert_eq!(outcome, (Code::PermissionDenied, Some(expected)));
    };
    check(&Fake::default(), NOW, Reason::AgentNotAttested);
    check(&agent("", ""), NOW, Reason::AgentBanned);
    check(&agent("8", "9"), NOW, Reason::AgentNotActive);
    check(&agent("7", ""), NOW + 61, Reason::AgentExpired);
    check(&agent("7", ""), NOW - 61, Reason::AgentExpired);
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
