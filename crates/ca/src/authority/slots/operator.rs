//! What operators may ask of the slots, with the reference's answers. Checks only: the bundle is changed first.

use super::{SlotId, Slots, State, Status, Summary};
use crate::authority::{Authority, AuthorityKind};
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

    /// Checks that an operator may revoke this authority, which `is_listed` in the bundle or not. The bundle is changed
    /// then; it must have the authority as tainted. An old X.509 authority of ours can be revoked, and any JWT
    /// authority that does not sign and will not.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoId`], [`SlotError::RevokeActive`], [`SlotError::RevokePrepared`],
    /// [`SlotError::RevokeNotOld`], [`SlotError::RevokeUnknown`].
    pub fn check_revocation(&self, id: &str, is_listed: bool) -> Result<(), SlotError> {
        if !id.is_empty() && self.active().is_some_and(|active| active.id() == id) {
            return Err(SlotError::RevokeActive);
        }
        match (A::KIND, self.next(id)) {
            (_, Ok((_, Status::Old, _))) => Ok(()),
            (_, Err(SlotError::NoId)) => Err(SlotError::NoId),
            (AuthorityKind::X509, _) => Err(SlotError::RevokeNotOld),
            (AuthorityKind::Jwt, Ok((_, Status::Prepared, _))) => Err(SlotError::RevokePrepared),
            (AuthorityKind::Jwt, _) if is_listed => Ok(()),
            (AuthorityKind::Jwt, _) => Err(SlotError::RevokeUnknown),
        }
    }

    /// Checks that an operator may taint or revoke the upstream authority with this subject key id: it certified our old
    /// authority, and not the one that signs.
    ///
    /// # Errors
    ///
    /// [`SlotError::NoSubjectKeyId`], [`SlotError::UpstreamOfActive`], [`SlotError::UpstreamOfNone`],
    /// [`SlotError::UpstreamOfPrepared`].
    pub fn check_upstream(&self, subject_key_id: &str) -> Result<(), SlotError> {
        if subject_key_id.is_empty() {
            return Err(SlotError::NoSubjectKeyId);
        }
        let overview = self.overview();
        let by_it = |found: Option<Summary>| found.is_some_and(|found| found.upstream_id == subject_key_id);
        if by_it(overview.active) {
            return Err(SlotError::UpstreamOfActive);
        }
        match (by_it(overview.prepared), by_it(overview.old)) {
            (true, _) => Err(SlotError::UpstreamOfPrepared),
            (false, true) => Ok(()),
            (false, false) => Err(SlotError::UpstreamOfNone),
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
    #[error("no JWT authority found with provided authority ID")]
    RevokeUnknown,
    #[error("no subject key ID provided")]
    NoSubjectKeyId,
    // The reference's word.
    #[error("unable to use upstream authority singing current authority")]
    UpstreamOfActive,
    #[error("upstream authority didn't sign the old local authority")]
    UpstreamOfNone,
    #[error("only upstream authorities signing an old authority can be used")]
    UpstreamOfPrepared,
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
