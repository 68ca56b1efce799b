use vouchsafe_store::store::MAX_AGENT_WRITES;
use vouchsafe_store::{AgentWrite, AgentsWritten, Error, Kind, Rejected, Snapshot};
use vouchsafe_types::agent::Agent;
use vouchsafe_types::entry::Entry;
use vouchsafe_types::selector::SelectorSet;

use super::Bed;
use crate::samples::{agent, alias_entry, entry, selectors, spiffe_id};

pub(super) async fn an_agent_reads_back_whole_and_is_replaced_as_a_whole(bed: Bed) {
    let store = bed.store();
    let first = agent("a");
    store.put_agent(first.clone()).await.unwrap();
    store.put_agent(agent("b")).await.unwrap();
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents, [first.clone(), agent("b")]);
    let second = Agent {
        attestation_type: "x509pop".into(),
        serial_number: "1".into(),
        expires_at: -1,
        new_serial_number: String::new(),
        new_expires_at: 0,
        can_reattest: true,
        selectors: SelectorSet::default(),
        agent_version: String::new(),
        ..first
    };
    let position = store.put_agent(second.clone()).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert_eq!(all.agents, [second, agent("b")]);
    assert_eq!(all.position, position);
}

pub(super) async fn a_ban_ends_by_eviction_only(bed: Bed) {
    let store = bed.store();
    store.put_agent(agent("a")).await.unwrap();
    let ban = |agent: &mut Agent| {
        agent.serial_number.clear();
        agent.new_serial_number.clear();
        Ok(())
    };
    let (banned, _) = store.update_agent(&agent("a").id, Box::new(ban)).await.unwrap();
    assert!(banned.is_banned());
    let error = store.put_agent(agent("a")).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected(why) if why.reason() == "agent is banned"), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents, std::slice::from_ref(&banned));

    let (evicted, _) = store.delete_agent(&agent("a").id).await.unwrap();
    assert_eq!(evicted, banned);
    store.put_agent(agent("a")).await.unwrap();
}

pub(super) async fn an_update_keeps_the_id_and_can_be_rejected(bed: Bed) {
    let store = bed.store();
    store.put_agent(agent("a")).await.unwrap();
    let change = |held: &mut Agent| {
        *held = Agent { agent_version: "2".into(), ..agent("b") };
        Ok(())
    };
    let (updated, _) = store.update_agent(&agent("a").id, Box::new(change)).await.unwrap();
    assert_eq!(updated, Agent { agent_version: "2".into(), ..agent("a") });
    let refuse = |held: &mut Agent| {
        held.agent_version = "3".into();
        Err(Rejected::new("no"))
    };
    let error = store.update_agent(&agent("a").id, Box::new(refuse)).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
    assert_eq!(Snapshot::load(&*store).await.unwrap().agents, [updated]);
}

pub(super) async fn an_update_that_changes_nothing_writes_nothing(bed: Bed) {
    let store = bed.store();
    let before = store.put_agent(agent("a")).await.unwrap();
    let (same, position) = store.update_agent(&agent("a").id, Box::new(|_| Ok(()))).await.unwrap();
    assert_eq!((same, position), (agent("a"), before));
    assert!(store.changes_after(before, 10).await.unwrap().changes.is_empty());
}

fn write(id: &str, version: &'static str, otherwise: Option<Agent>) -> AgentWrite {
    let change = move |held: &mut Agent| {
        if held.is_banned() {
            return Err(Rejected::new("agent is banned"));
        }
        held.agent_version = version.into();
        Ok(())
    };
    AgentWrite { id: agent(id).id, change: Box::new(change), otherwise }
}

pub(super) async fn updates_of_many_are_one_write_and_one_that_is_refused_holds_up_no_other(bed: Bed) {
    let store = bed.store();
    for name in ["a", "c", "same"] {
        store.put_agent(agent(name)).await.unwrap();
    }
    let banned = Agent { serial_number: String::new(), ..agent("banned") };
    let before = store.put_agent(banned.clone()).await.unwrap();
    let writes = vec![
        write("a", "2", None),
        write("banned", "2", None),
        write("missing", "2", None),
        write("new", "2", Some(agent("new"))),
        write("same", "1.15.0", None),
        write("c", "2", Some(agent("b"))),
    ];
    let AgentsWritten { outcomes, position } = store.update_agents(writes).await.unwrap();
    let told = outcomes.iter().map(|outcome| match outcome {
        Ok(()) => "written",
        Err(Error::Rejected(_)) => "rejected",
        Err(Error::NotFound { what: Kind::Agent, .. }) => "not found",
        Err(_) => "failed",
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["written", "rejected", "not found", "written", "written", "written"]
    );
    let second = |name| Agent { agent_version: "2".into(), ..agent(name) };
    let mut held = Snapshot::load(&*store).await.unwrap().agents;
    held.sort_by(|a, b| a.id.cmp(&b.id));
    let mut expected = vec![second("a"), banned, second("c"), agent("new"), agent("same")];
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(held, expected);

    let read = store.changes_after(before, 10).await.unwrap();
    assert_eq!((read.position, read.changes.len()), (position, 3), "what is the same is not written");
    let nothing = store.update_agents(vec![write("a", "2", None)]).await.unwrap();
    assert_eq!(nothing.position, position);
    assert_eq!(store.update_agents(Vec::new()).await.unwrap().position, position);
    let many = (0..=MAX_AGENT_WRITES).map(|number| write(&number.to_string(), "2", None)).collect();
    let error = store.update_agents(many).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(_)), "{error:?}");
}

pub(super) async fn what_is_missing_is_not_found(bed: Bed) {
    let store = bed.store();
    let id = agent("a").id;
    let update = store.update_agent(&id, Box::new(|_| Ok(()))).await.unwrap_err();
    let delete = store.delete_agent(&id).await.unwrap_err();
    for error in [update, delete] {
        assert!(
            matches!(&error, Error::NotFound { what: Kind::Agent, key } if key == id.as_str()),
            "{error:?}"
        );
    }
}

pub(super) async fn evicting_takes_the_alias_of_a_join_token_and_nothing_else(bed: Bed) {
    let store = bed.store();
    let id = agent("a").id;
    let own = selectors(&[&format!("spiffe_id:{id}")]);
    let both = selectors(&[&format!("spiffe_id:{id}"), "unix:uid:1"]);
    store.put_agent(agent("a")).await.unwrap();
    store.create_entry(alias_entry("alias", "a")).await.unwrap();
    store.create_entry(alias_entry("neighbour", "b")).await.unwrap();
    store.create_entry(Entry { parent_id: id.clone(), ..entry("workload") }).await.unwrap();
    store.create_entry(Entry { parent_id: id.clone(), selectors: both, ..entry("narrow") }).await.unwrap();
    store
        .create_entry(Entry { parent_id: spiffe_id("/elsewhere"), selectors: own, ..entry("elsewhere") })
        .await
        .unwrap();
    store.delete_agent(&id).await.unwrap();
    let all = Snapshot::load(&*store).await.unwrap();
    assert!(all.agents.is_empty());
    let left: Vec<_> = all.entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(left, ["neighbour", "workload", "narrow", "elsewhere"]);
}

pub(super) async fn evicting_an_agent_of_another_attestor_takes_no_entry(bed: Bed) {
    let store = bed.store();
    store.put_agent(Agent { attestation_type: "x509pop".into(), ..agent("a") }).await.unwrap();
    store.create_entry(alias_entry("alias", "a")).await.unwrap();
    store.delete_agent(&agent("a").id).await.unwrap();
    assert_eq!(Snapshot::load(&*store).await.unwrap().entries.len(), 1);
}
