//! What has become of one agent since the database last heard of it. Pure.
//!
//! An update must reach its agent whatever part of its history the database has seen, and must leave an agent alone
//! that was attested anew meanwhile. So it knows every serial number that the database may have: the one that it had,
//! and those that it was offered and that may have been written although no answer said so.

use serde::{Deserialize, Serialize};
use vouchsafe_types::agent::Agent;

/// An update that the database does not have yet.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct AgentUpdate {
    serials: Option<Serials>,
    /// The version that the agent reported.
    version: Option<String>,
}

/// The SVIDs that an agent may use, as memory has them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Serials {
    /// Serial numbers that the database may have, oldest first; any other one means that the agent was attested anew.
    known: Vec<String>,
    serial: String,
    expires_at: i64,
    new_serial: String,
    new_expires_at: i64,
}

/// An agent that proved itself anew, and that the database does not have so yet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Attested {
    /// The agent as it was attested.
    pub(crate) agent: Agent,
    /// Whether nobody knew it. If somebody did and the database does not, it was evicted since, and stays so.
    pub(crate) first: bool,
    /// Whether the read model had it at that time; not known of what an earlier run left.
    #[serde(skip)]
    seen: bool,
    /// Whether the database has had it: if it has it no more, it was evicted since.
    pub(super) written: bool,
    /// Serial numbers that are older than this attestation, whatever the clocks of several servers say.
    replaces: Vec<String>,
}

impl Attested {
    /// `agent` in place of what memory had before: `stored` in the read model, `before` and `update` on top.
    pub(super) fn new(
        agent: Agent,
        stored: Option<&Agent>,
        (before, update): (Option<&Self>, Option<&AgentUpdate>),
    ) -> Self {
        let mut replaces = before.map(|before| before.replaces.clone()).unwrap_or_default();
        replaces.extend(before.map(|before| before.agent.serial_number.clone()));
        replaces.extend(update.and_then(|update| update.serials.as_ref()).into_iter().flat_map(|serials| {
            serials.known.iter().cloned().chain([serials.serial.clone(), serials.new_serial.clone()])
        }));
        replaces
            .extend(stored.into_iter().flat_map(|s| [s.serial_number.clone(), s.new_serial_number.clone()]));
        replaces.retain(|serial| !serial.is_empty());
        replaces.drain(..replaces.len().saturating_sub(MAX_KNOWN));
        let first = stored.is_none() && before.is_none_or(|before| before.first);
        let seen = stored.is_some();
        Self { agent, first, seen, written: before.is_some_and(|before| before.written), replaces }
    }

    /// The agent as it is, given what is `stored`; `None` when it is gone.
    ///
    /// An agent of an earlier run may be younger than the last good state that this run began with.
    pub(super) fn over(&self, stored: Option<&Agent>) -> Option<Agent> {
        let Some(stored) = stored else { return (self.first || !self.seen).then(|| self.agent.clone()) };
        let serial = &stored.serial_number;
        let newer = self.replaces.contains(serial) || latest_expiry(&self.agent) > latest_expiry(stored);
        let wins = !stored.is_banned() && *serial != self.agent.serial_number && newer;
        let mut agent = if wins { &self.agent } else { stored }.clone();
        agent.agent_version.clone_from(&stored.agent_version);
        Some(agent)
    }
}

impl Attested {
    /// The agent, if a database that does not have it should get it: nobody knew it, and it was not evicted since.
    pub(super) fn new_to_all(&self) -> Option<&Agent> {
        (self.first && !self.written).then_some(&self.agent)
    }
}

/// When the last of the SVIDs that an agent may use ends.
pub(crate) fn latest_expiry(agent: &Agent) -> i64 {
    agent.expires_at.max(agent.new_expires_at)
}

/// Most serial numbers of which it is open whether the database has them. Each takes a renewal (half an hour) and a
/// write whose answer was lost; beyond it the oldest but one is forgotten.
const MAX_KNOWN: usize = 16;

impl AgentUpdate {
    /// Brings `agent` up to date. Applying it twice does no harm; an agent that was attested anew keeps its SVID.
    ///
    /// # Errors
    ///
    /// The agent is banned: it stays as it is.
    pub(super) fn apply(&self, agent: &mut Agent) -> Result<(), &'static str> {
        if agent.is_banned() {
            return Err("agent is banned");
        }
        if let Some(now) = &self.serials
            && (now.known.contains(&agent.serial_number) || agent.serial_number == now.serial)
        {
            agent.serial_number.clone_from(&now.serial);
            agent.expires_at = now.expires_at;
            agent.new_serial_number.clone_from(&now.new_serial);
            agent.new_expires_at = now.new_expires_at;
        }
        if let Some(version) = &self.version {
            agent.agent_version.clone_from(version);
        }
        Ok(())
    }

    /// This update and `change` after it, for an agent of which the read model has `stored`.
    pub(super) fn after(self, stored: &Agent, change: impl FnOnce(&mut Agent)) -> Self {
        let mut now = stored.clone();
        // Refused for a banned agent only, which the caller has excluded.
        self.apply(&mut now).unwrap_or_default();
        let before = now.clone();
        change(&mut now);
        let moved =
            now.serial_number != before.serial_number || now.new_serial_number != before.new_serial_number;
        let serials = Serials {
            known: self.known(stored),
            serial: now.serial_number,
            expires_at: now.expires_at,
            new_serial: now.new_serial_number,
            new_expires_at: now.new_expires_at,
        };
        Self {
            serials: if moved { Some(serials) } else { self.serials },
            version: (now.agent_version != stored.agent_version).then_some(now.agent_version),
        }
    }

    /// From now on the database may have this update. Returns whether that is news.
    pub(super) fn offer(&mut self) -> bool {
        let Some(now) = &mut self.serials else { return false };
        let news = !now.known.contains(&now.serial);
        if news {
            now.known.push(now.serial.clone());
        }
        if now.known.len() > MAX_KNOWN {
            now.known.remove(1);
        }
        news
    }

    /// The database does not have what it was offered last, and that was news.
    pub(super) fn withdraw(&mut self) {
        if let Some(now) = &mut self.serials
            && now.known.len() > 1
        {
            now.known.pop();
        }
    }

    /// The serial numbers that the database may have, given what the read model has seen of it.
    fn known(&self, stored: &Agent) -> Vec<String> {
        let known = self.serials.as_ref().map(|held| held.known.as_slice()).unwrap_or_default();
        match known.iter().position(|serial| *serial == stored.serial_number) {
            Some(at) => known[at..].to_vec(),
            // Nothing is held, or the agent was attested anew.
            None => vec![stored.serial_number.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_types::selector::SelectorSet;
    use vouchsafe_types::spiffe_id::SpiffeId;

    fn agent(serial: &str) -> Agent {
        Agent {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x").unwrap(),
            attestation_type: "join_token".into(),
            serial_number: serial.into(),
            expires_at: 10,
            new_serial_number: String::new(),
            new_expires_at: 0,
            can_reattest: false,
            selectors: SelectorSet::default(),
            agent_version: String::new(),
        }
    }

    fn renew(serial: &'static str) -> impl Fn(&mut Agent) + Clone {
        move |agent| agent.new_serial_number = serial.into()
    }

    fn promote(agent: &mut Agent) {
        agent.serial_number = std::mem::take(&mut agent.new_serial_number);
    }

    /// Whatever it was offered and has taken, with or without an answer, the last update brings it up to date.
    #[test]
    fn an_update_reaches_a_database_that_has_seen_any_part_of_the_history() {
        type Change = Box<dyn Fn(&mut Agent)>;
        let steps: [Change; 5] = [
            Box::new(renew("2")),
            Box::new(promote),
            Box::new(renew("3")),
            Box::new(promote),
            Box::new(renew("4")),
        ];
        let stored = agent("1");
        let (mut expected, mut update) = (stored.clone(), AgentUpdate::default());
        let mut databases = vec![stored.clone()];
        for step in steps {
            step(&mut expected);
            update = update.after(&stored, step);
            update.offer();
            let taken = databases.iter().cloned().map(|mut database| {
                update.apply(&mut database).unwrap();
                database
            });
            let taken: Vec<_> = taken.collect();
            assert!(taken.iter().all(|database| *database == expected), "{taken:?}");
            databases.extend(taken);
        }
        assert_eq!((expected.serial_number.as_str(), expected.new_serial_number.as_str()), ("3", "4"));
    }

    #[test]
    fn an_agent_that_was_attested_anew_keeps_its_svid() {
        let update = AgentUpdate::default().after(&agent("1"), renew("2"));
        let mut anew = agent("7");
        update.apply(&mut anew).unwrap();
        assert_eq!(anew, agent("7"));
    }

    #[test]
    fn a_reported_version_leaves_the_serials_alone() {
        let update = AgentUpdate::default().after(&agent("1"), |it| it.agent_version = "v".into());
        assert_eq!(update, AgentUpdate { serials: None, version: Some("v".into()) });
    }

    #[test]
    fn a_banned_agent_stays_banned() {
        let update = AgentUpdate::default().after(&agent("1"), renew("2"));
        let mut it = agent("");
        assert!(update.apply(&mut it).is_err());
        assert_eq!(it, agent(""));
    }

    fn issued(serial: &str, expires_at: i64) -> Agent {
        Agent { expires_at, ..agent(serial) }
    }

    #[test]
    fn an_attestation_replaces_what_it_was_made_over_and_what_is_older() {
        let stored = issued("1", 10);
        let anew = Attested::new(issued("2", 5), Some(&stored), (None, None));
        assert_eq!(anew.over(Some(&stored)).unwrap().serial_number, "2", "whatever the clocks say");
        assert_eq!(anew.over(Some(&issued("0", 4))).unwrap().serial_number, "2");
        assert_eq!(anew.over(Some(&issued("7", 6))).unwrap().serial_number, "7", "attested elsewhere, later");
        let third = Attested::new(issued("3", 5), Some(&stored), (Some(&anew), None));
        assert_eq!(third.over(Some(&issued("2", 5))).unwrap().serial_number, "3");
    }

    #[test]
    fn an_attestation_undoes_no_ban_and_no_eviction() {
        let stored = issued("1", 10);
        let known = Attested::new(issued("2", 20), Some(&stored), (None, None));
        assert_eq!(known.over(None), None, "evicted since");
        let restored = Attested { seen: false, ..known.clone() };
        assert!(restored.over(None).is_some() && restored.new_to_all().is_none(), "nobody can tell yet");
        assert!(known.over(Some(&agent(""))).unwrap().is_banned());
        let new = Attested::new(issued("2", 20), None, (None, None));
        assert_eq!(new.over(None), Some(issued("2", 20)));
        assert!(new.over(Some(&agent(""))).unwrap().is_banned());
        let again = Attested::new(issued("3", 20), None, (Some(&new), None));
        assert!(again.over(None).is_some(), "it was new, and still is");
    }

    #[test]
    fn what_was_surely_not_written_is_not_kept_in_mind() {
        let mut update = AgentUpdate::default();
        for _ in 0..100 {
            update = update.after(&agent("1"), renew("2")).after(&agent("1"), promote);
            assert!(update.offer());
            update.withdraw();
        }
        assert_eq!(update.serials.unwrap().known, ["1"]);
    }

    #[test]
    fn what_the_database_may_have_is_bounded_and_begins_with_what_it_had() {
        let mut update = AgentUpdate::default();
        for serial in 2..100 {
            update = update.after(&agent("1"), |agent| agent.serial_number = serial.to_string());
            update.offer();
        }
        let known = update.serials.unwrap().known;
        assert_eq!((known.len(), &*known[0], &*known[1], &*known[15]), (MAX_KNOWN, "1", "85", "99"));
    }
}
