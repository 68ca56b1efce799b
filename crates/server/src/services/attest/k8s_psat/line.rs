//! A line in which addresses take turns: one that sends many waits behind itself, not before everybody else.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use vouchsafe_transport::listener::PeerKey;

/// Who waits. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Line(Arc<Mutex<Waiting>>);

/// An address; those that are not known share one.
type Key = Option<PeerKey>;

#[derive(Default)]
struct Waiting {
    has_head: bool,
    by_address: HashMap<Key, VecDeque<oneshot::Sender<Head>>>,
    /// The addresses of which somebody waits. The first has the next turn.
    turns: VecDeque<Key>,
}

/// A place in the line.
pub(super) enum Place {
    /// Nobody was there.
    First(Head),
    /// The turn comes.
    Behind(oneshot::Receiver<Head>),
}

/// Whoever has it is first in line. Dropped, the next one is.
pub(super) struct Head(Option<Line>);

impl Line {
    /// Lines up behind the own address, unless more than `most` would be served before.
    pub(super) fn join(&self, address: Key, most: usize) -> Option<Place> {
        let mut waiting = self.lock();
        if !waiting.has_head {
            waiting.has_head = true;
            return Some(Place::First(Head(Some(self.clone()))));
        }
        let own = waiting.by_address.get(&address).map_or(0, VecDeque::len);
        // Of each address as many as are in front of this one in its own, and one more.
        let before: usize = waiting.by_address.values().map(|others| others.len().min(own + 1)).sum();
        if before >= most {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let others = waiting.by_address.entry(address).or_default();
        others.push_back(sender);
        if others.len() == 1 {
            waiting.turns.push_back(address);
        }
        Some(Place::Behind(receiver))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn next(&mut self) -> Option<oneshot::Sender<Head>> {
        let address = self.turns.pop_front()?;
        let others = self.by_address.get_mut(&address)?;
        let next = others.pop_front();
        if others.is_empty() {
            self.by_address.remove(&address);
        } else {
            self.turns.push_back(address);
        }
        next
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let Some(line) = self.0.take() else { return };
        loop {
            let next = {
                let mut waiting = line.lock();
                let next = waiting.next();
                waiting.has_head = next.is_some();
                next
            };
            let Some(next) = next else { return };
            match next.send(Head(Some(line.clone()))) {
                Ok(()) => return,
                // That one has left. What it was sent must not do the same as this again.
                Err(mut unsent) => unsent.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Key {
        Some(PeerKey::address([10, 0, 0, last].into()))
    }

    fn behind(line: &Line, last: u8) -> oneshot::Receiver<Head> {
        match line.join(address(last), 100) {
            Some(Place::Behind(receiver)) => receiver,
            _ => panic!("first, or refused"),
        }
    }

    #[test]
    fn addresses_take_turns_and_who_left_is_passed_over() {
        let line = Line::default();
        let Some(Place::First(mut head)) = line.join(address(1), 0) else { panic!("somebody is there") };
        let mut flood: Vec<_> = (0..3).map(|_| behind(&line, 1)).collect();
        let mut node = behind(&line, 2);
        drop(flood.remove(1));
        drop(head);
        head = flood[0].try_recv().unwrap();
        assert!(node.try_recv().is_err());
        drop(head);
        head = node.try_recv().unwrap();
        drop(head);
        // Sent to one that leaves before it looks: it is not lost.
        let mut last = behind(&line, 3);
        drop(flood);
        drop(last.try_recv().unwrap());
        assert!(matches!(line.join(address(4), 0), Some(Place::First(_))));
    }

    #[test]
    fn a_flood_is_refused_where_a_newcomer_is_not() {
        let line = Line::default();
        let head = line.join(address(1), 2);
        let flood: Vec<_> = (0..4).map(|_| line.join(address(1), 2)).collect();
        assert_eq!(flood.iter().flatten().count(), 2);
        assert!(line.join(address(2), 2).is_some());
        drop(head);
    }
}
