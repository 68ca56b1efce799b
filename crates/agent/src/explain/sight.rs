//! Who may ask, and what about.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use vouchsafe_runtime::budget::KeyedBudgets;
use vouchsafe_transport::peer::PeerProcess;

use super::subject::in_our_pid_namespace;

/// How much a caller may know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sight {
    /// Everything.
    Everything,
    /// What concerns itself.
    Itself,
}

/// What of a caller decides how much it may know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    uid: u32,
    agent_uid: u32,
    /// It is in the agent's PID namespace: root of a container is not root of the machine. `None`: that cannot be seen.
    same_machine: Option<bool>,
}

impl Standing {
    pub(super) fn of(peer: &PeerProcess) -> Self {
        let same_machine = in_our_pid_namespace(peer.pid);
        Self {
            uid: peer.uid,
            agent_uid: nix::unistd::geteuid().as_raw(),
            // Read by number: it counts only if the number still is that process.
            same_machine: same_machine.map(|same| same && peer.still_same()),
        }
    }

    fn is_privileged(self) -> bool {
        self.uid == 0 || self.uid == self.agent_uid
    }

    pub(super) fn sight(self) -> Sight {
        let sees = self.is_privileged() && self.same_machine == Some(true);
        if sees { Sight::Everything } else { Sight::Itself }
    }

    /// Why it may ask about nothing but itself.
    pub(super) fn refusal(self) -> String {
        if self.is_privileged() && self.same_machine.is_none() {
            let agent = self.agent_uid;
            return format!(
                "the agent, which runs as user {agent}, cannot see in /proc whether this caller is on its machine or in a container; ask as user {agent}"
            );
        }
        "only root and the agent's own user, on the agent's machine, may ask about anything but themselves"
            .to_owned()
    }
}

/// Explanations that are under way. Those who may see everything do not wait for anybody else (the root of a container has the
/// same number as theirs), and of the others each user has one at a time.
#[derive(Debug, Default)]
pub(super) struct Turns {
    privileged: Places,
    others: Places,
    users: Mutex<HashSet<u32>>,
}

#[derive(Debug)]
struct Places {
    at_once: Semaphore,
    asks: KeyedBudgets<u32>,
}

impl Default for Places {
    fn default() -> Self {
        let asks = KeyedBudgets::new(ASKS_PER_SEC, ASKS_AT_ONCE, MAX_USERS);
        Self { at_once: Semaphore::new(MAX_AT_ONCE), asks }
    }
}

/// Why nothing is explained now.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum NotNow {
    #[error("the agent is explaining something already; try again")]
    Busy,
    #[error("rate limit exceeded, try again in {0:?}")]
    TooOften(Duration),
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _place: SemaphorePermit<'a>,
    user: Option<(&'a Turns, u32)>,
}

impl Turns {
    pub(super) fn take(&self, uid: u32, sight: Sight) -> Result<Turn<'_>, NotNow> {
        let places = match sight {
            Sight::Everything => &self.privileged,
            Sight::Itself => &self.others,
        };
        let mut turn = Turn { _place: places.at_once.try_acquire().map_err(|_| NotNow::Busy)?, user: None };
        if sight == Sight::Itself {
            if !self.users().insert(uid) {
                return Err(NotNow::Busy);
            }
            turn.user = Some((self, uid));
        }
        places.asks.try_take(&uid, 1).map_err(NotNow::TooOften)?;
        Ok(turn)
    }

    fn users(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((turns, uid)) = self.user {
            turns.users().remove(&uid);
        }
    }
}

/// Explanations at one time of those who may see everything, and as many of all others together. One costs an attestation and a
/// look at every entry.
pub const MAX_AT_ONCE: usize = 4;

/// Explanations per second and user,
pub const ASKS_PER_SEC: f64 = 10.0;

/// and how many at once.
const ASKS_AT_ONCE: u32 = 20;

/// Users that are counted one by one; further ones share one budget.
const MAX_USERS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_agents_user_see_everything_unless_they_are_those_of_a_container() {
        let sight = |uid, same| Standing { uid, agent_uid: 990, same_machine: same }.sight();
        assert_eq!([sight(0, Some(true)), sight(990, Some(true))], [Sight::Everything; 2]);
        let itself =
            [sight(0, Some(false)), sight(990, Some(false)), sight(1000, Some(true)), sight(0, None)];
        assert_eq!(itself, [Sight::Itself; 4]);
    }

    #[test]
    fn root_that_the_agent_cannot_place_is_told_whom_to_ask_as() {
        let said = |uid, same| Standing { uid, agent_uid: 990, same_machine: same }.refusal();
        assert!(said(0, None).contains("ask as user 990"));
        assert!(!said(0, Some(false)).contains("990") && !said(1000, None).contains("990"));
    }

    #[test]
    fn no_user_takes_all_turns_and_none_takes_those_of_root() {
        let turns = Turns::default();
        let first = turns.take(1000, Sight::Itself).unwrap();
        assert!(turns.take(1000, Sight::Itself).is_err());
        let others: Vec<_> = (1001..1004).map(|uid| turns.take(uid, Sight::Itself).unwrap()).collect();
        assert!(turns.take(2000, Sight::Itself).is_err(), "as many as there may be");
        let roots: Vec<_> = (0..4).map(|_| turns.take(0, Sight::Everything).unwrap()).collect();
        assert!(turns.take(0, Sight::Everything).is_err());
        drop((first, others, roots));
        assert!(turns.take(1000, Sight::Itself).is_ok());
    }

    #[test]
    fn the_root_of_a_container_uses_up_nothing_of_the_machines_root() {
        let turns = Turns::default();
        let refused = (0..1_000).find_map(|_| turns.take(0, Sight::Itself).err());
        assert!(matches!(refused, Some(NotNow::TooOften(_))), "{refused:?}");
        assert!(turns.take(0, Sight::Everything).is_ok());
    }
}
