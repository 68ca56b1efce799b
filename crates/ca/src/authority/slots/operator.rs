//! What operators may ask of the slots, with the reference's answers. Checks only: the bundle is changed first.

use super::{SlotId, Slots, State, Status, Summary};
use crate::authority::Authority;
use vouchsafe_runtime::class::Class;

impl<A: Authority> Slots<A> {
    /// Finds the slot of the authority that an operator wants to activate.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoId`], [`SlotError::UnexpectedId`], [`SlotError::NotPrepared`].
    pub fn check_activation(&self, id: &str) -> Result<SlotId, SlotError> {
        let (slot, status, _) = self.next(id)?;
        match status {
            Status::Prepared if !self.is_tainted(slot) => Ok(slot),
            Status::Prepared => Err(SlotError::Tainted),
            other => Err(SlotError::NotPrepared(other)),
        }
    }

    /// Checks that an operator may taint this authority. The bundle is changed first, then
    /// [`Slots::note_tainted`] is called.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoId`], [`SlotError::TaintActive`], [`SlotError::UnexpectedId`], [`SlotError::TaintNotOld`].
    pub fn check_taint(&self, id: &str) -> Result<Summary, SlotError> {
        if !id.is_empty() && self.active().is_some_and(|active| active.id() == id) {
            return Err(SlotError::TaintActive);
        }
        match self.next(id)? {
            (_, Status::Old, summary) => Ok(summary),
            (_, other, _) => Err(SlotError::TaintNotOld(other)),
        }
    }

    /// Checks that an operator may revoke this authority. The bundle is changed first (it must have it as
    /// tainted), then [`Slots::forget`] is called.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoId`], [`SlotError::RevokeActive`], [`SlotError::RevokePrepared`],
    /// [`SlotError::RevokeNotOld`].
    pub fn check_revocation(&self, id: &str) -> Result<Summary, SlotError> {
        if !id.is_empty() && self.active().is_some_and(|active| active.id() == id) {
            return Err(SlotError::RevokeActive);
        }
        match self.next(id) {
            Ok((_, Status::Old, summary)) => Ok(summary),
            Ok((_, Status::Prepared, _)) => Err(SlotError::RevokePrepared),
            Err(SlotError::NoId) => Err(SlotError::NoId),
            _ => Err(SlotError::RevokeNotOld),
        }
    }

    /// The authority with this id, which must not be the active one.
    fn next(&self, id: &str) -> Result<(SlotId, Status, Summary), SlotError> {
        if id.is_empty() {
            return Err(SlotError::NoId);
        }
        for slot in [SlotId::A, SlotId::B] {
            let state = &self.slots[slot.index()];
            let summary = match state {
                State::Prepared { authority, tainted } => Summary::of(&**authority, *tainted),
                State::Old(summary) => summary.clone(),
                State::Empty | State::Active { .. } => continue,
            };
            if summary.id == id {
                return Ok((slot, state.status(), summary));
            }
        }
        Err(SlotError::UnexpectedId)
    }
}

/// The slots do not allow it. The texts are those of the reference.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SlotError {
    #[error("no authority ID provided")]
    NoId,
    #[error("unexpected authority ID")]
    UnexpectedId,
    #[error("only Prepared authorities can be activated: unsupported local authority status: {0}")]
    NotPrepared(Status),
    #[error("only Prepared authorities can be activated: this one is tainted; prepare another one")]
    Tainted,
    #[error("unable to taint current local authority")]
    TaintActive,
    #[error("only Old local authorities can be tainted: unsupported local authority status: {0}")]
    TaintNotOld(Status),
    #[error("unable to use current authority")]
    RevokeActive,
    #[error("unable to use a prepared key")]
    RevokePrepared,
    #[error("only Old local authority can be revoked")]
    RevokeNotOld,
    #[error("the slot holds the active authority")]
    InUse,
}

impl SlotError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::InUse => Class::Bug,
            _ => Class::Caller,
        }
    }
}
