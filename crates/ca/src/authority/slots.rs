//! The slot machine: two slots, and what may be done to them. Pure; [`mod@super::plan`] says what is due.

use std::fmt;
use std::sync::Arc;

use super::Authority;

mod operator;

pub use operator::SlotError;

/// One of the two slots.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SlotId {
    /// The first.
    A,
    /// The second.
    B,
}

impl SlotId {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Reads `A` or `B`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "A" => Some(Self::A),
            "B" => Some(Self::B),
            _ => None,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// What an authority is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Nothing is known.
    Unknown,
    /// Made and published, signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signed once.
    Old,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "UNKNOWN",
            Self::Prepared => "PREPARED",
            Self::Active => "ACTIVE",
            Self::Old => "OLD",
        })
    }
}

/// Two slots of one kind. At most one authority is active and at most one is prepared. Clones are snapshots.
#[derive(Debug)]
pub struct Slots<A> {
    slots: [State<A>; 2],
}

#[derive(Debug)]
enum State<A> {
    Empty,
    Prepared { authority: Arc<A>, tainted: bool },
    Active { authority: Arc<A>, tainted: bool },
    Old(Summary),
}

/// What operators are told of an authority.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Authority id.
    pub id: String,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// Subject key id of the upstream authority; empty if there is none.
    pub upstream_id: String,
    /// Whether what it signed must be replaced.
    pub tainted: bool,
}

/// All that operators are told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overview {
    /// The one that signs.
    pub active: Option<Summary>,
    /// The one that will.
    pub prepared: Option<Summary>,
    /// The one that did.
    pub old: Option<Summary>,
}

impl<A: Authority> Slots<A> {
    /// Two empty slots.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: [State::Empty, State::Empty] }
    }

    /// Slots as they were before a restart, given from oldest to newest; `true` marks what is tainted. Of two
    /// that claim the same, the newer is believed; what is tainted is old, whatever it was.
    #[must_use]
    pub fn restored(held: impl IntoIterator<Item = (SlotId, Status, Arc<A>, bool)>) -> Self {
        let mut slots = Self::new();
        for (slot, status, authority, tainted) in held {
            let state = match status {
                _ if tainted => State::Old(Summary::of(&*authority, true)),
                Status::Old => State::Old(Summary::of(&*authority, false)),
                Status::Active => State::Active { authority, tainted },
                Status::Prepared | Status::Unknown => State::Prepared { authority, tainted },
            };
            let same = |other: &State<A>| std::mem::discriminant(other) == std::mem::discriminant(&state);
            if same(&slots.slots[slot.other().index()]) {
                slots.retire(slot.other());
            }
            slots.slots[slot.index()] = state;
        }
        slots
    }

    /// The authority that signs.
    #[must_use]
    pub fn active(&self) -> Option<&Arc<A>> {
        self.active_slot().map(|(_, authority)| authority)
    }

    /// The authority that signs, with its slot.
    #[must_use]
    pub fn active_slot(&self) -> Option<(SlotId, &Arc<A>)> {
        self.find(|state| match state {
            State::Active { authority, .. } => Some(authority),
            _ => None,
        })
    }

    /// The authority that is prepared, with its slot.
    #[must_use]
    pub fn prepared(&self) -> Option<(SlotId, &Arc<A>)> {
        self.find(|state| match state {
            State::Prepared { authority, .. } => Some(authority),
            _ => None,
        })
    }

    /// Where the next authority is made: never where the active one is, rather where nothing is.
    #[must_use]
    pub fn preparation_slot(&self) -> SlotId {
        let kept = self.active_slot().or_else(|| self.prepared());
        match kept {
            Some((slot, _)) if self.active().is_some() => slot.other(),
            Some((slot, _)) => slot,
            None if matches!(self.slots, [State::Old(_), State::Empty]) => SlotId::B,
            None => SlotId::A,
        }
    }

    /// What operators are told.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let mut overview = Overview::default();
        for state in &self.slots {
            match state {
                State::Empty => {}
                State::Prepared { authority, tainted } => {
                    overview.prepared = Some(Summary::of(&**authority, *tainted));
                }
                State::Active { authority, tainted } => {
                    overview.active = Some(Summary::of(&**authority, *tainted));
                }
                State::Old(summary) => overview.old = Some(summary.clone()),
            }
        }
        overview
    }

    /// Empties a slot because its key is about to be replaced.
    ///
    /// # Errors
    ///
    /// [`SlotError::InUse`] for the slot of the active authority.
    pub fn vacate(&mut self, slot: SlotId) -> Result<(), SlotError> {
        match &self.slots[slot.index()] {
            State::Active { .. } => Err(SlotError::InUse),
            _ => {
                self.slots[slot.index()] = State::Empty;
                Ok(())
            }
        }
    }

    /// Puts an authority that everybody can know now into a slot.
    ///
    /// # Errors
    ///
    /// [`SlotError::InUse`] for the slot of the active authority.
    pub fn fill(&mut self, slot: SlotId, authority: Arc<A>) -> Result<(), SlotError> {
        self.vacate(slot)?;
        if let Some((other, _)) = self.prepared() {
            self.slots[other.index()] = State::Empty;
        }
        self.slots[slot.index()] = State::Prepared { authority, tainted: false };
        Ok(())
    }

    /// Lets the prepared authority of a slot sign; the active one becomes old. Gives the new and the old one.
    ///
    /// # Errors
    ///
    /// [`SlotError::NotPrepared`], [`SlotError::Tainted`].
    pub fn activate(&mut self, slot: SlotId) -> Result<(Arc<A>, Option<Arc<A>>), SlotError> {
        let authority = match &self.slots[slot.index()] {
            State::Prepared { tainted: true, .. } => return Err(SlotError::Tainted),
            State::Prepared { authority, tainted: false } => Arc::clone(authority),
            other => return Err(SlotError::NotPrepared(other.status())),
        };
        let before = self.active().cloned();
        self.retire(slot.other());
        self.slots[slot.index()] = State::Active { authority: Arc::clone(&authority), tainted: false };
        Ok((authority, before))
    }

    /// Takes note that the bundle has this authority, ours or one above ours, as tainted. One that is prepared will not be activated; one
    /// that is active is replaced by the next [`super::plan::plan`]. Says whether it is one of ours.
    pub fn note_tainted(&mut self, id: &str) -> bool {
        let mut found = false;
        for state in &mut self.slots {
            match state {
                State::Prepared { authority, tainted } | State::Active { authority, tainted }
                    if authority.depends_on(id) =>
                {
                    *tainted = true;
                    found = true;
                }
                State::Old(summary) if summary.id == id || summary.upstream_id == id => {
                    summary.tainted = true;
                    found = true;
                }
                _ => {}
            }
        }
        found
    }

    /// Whether the authority that signs is to be left behind.
    #[must_use]
    pub fn active_is_tainted(&self) -> bool {
        self.active_slot().is_some_and(|(slot, _)| self.is_tainted(slot))
    }

    pub(super) fn is_tainted(&self, slot: SlotId) -> bool {
        match &self.slots[slot.index()] {
            State::Prepared { tainted, .. } | State::Active { tainted, .. } => *tainted,
            State::Old(summary) => summary.tainted,
            State::Empty => false,
        }
    }

    fn retire(&mut self, slot: SlotId) {
        let state = &mut self.slots[slot.index()];
        if let State::Prepared { authority, tainted } | State::Active { authority, tainted } = state {
            *state = State::Old(Summary::of(&**authority, *tainted));
        }
    }

    fn find<'a>(&'a self, pick: impl Fn(&'a State<A>) -> Option<&'a Arc<A>>) -> Option<(SlotId, &'a Arc<A>)> {
        [SlotId::A, SlotId::B]
            .into_iter()
            .find_map(|slot| pick(&self.slots[slot.index()]).map(|found| (slot, found)))
    }
}

impl<A> State<A> {
    fn status(&self) -> Status {
        match self {
            Self::Empty => Status::Unknown,
            Self::Prepared { .. } => Status::Prepared,
            Self::Active { .. } => Status::Active,
            Self::Old(_) => Status::Old,
        }
    }
}

impl Summary {
    fn of<A: Authority>(authority: &A, tainted: bool) -> Self {
        Self {
            id: authority.id().to_owned(),
            not_after: authority.not_after(),
            upstream_id: authority.upstream_id().to_owned(),
            tainted,
        }
    }
}

impl<A: Authority> Default for Slots<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A> Clone for Slots<A> {
    fn clone(&self) -> Self {
        Self { slots: self.slots.each_ref().map(Clone::clone) }
    }
}

impl<A> Clone for State<A> {
    fn clone(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Prepared { authority, tainted } => {
                Self::Prepared { authority: Arc::clone(authority), tainted: *tainted }
            }
            Self::Active { authority, tainted } => {
                Self::Active { authority: Arc::clone(authority), tainted: *tainted }
            }
            Self::Old(summary) => Self::Old(summary.clone()),
        }
    }
}
