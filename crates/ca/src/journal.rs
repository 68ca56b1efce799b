//! What survives a restart: which authority was in which slot, and what it was.
//!
//! The bytes are the reference's protobuf, so that a server that takes over from it keeps its authorities. The
//! keys stay in the key manager; a journal belongs to the server whose key manager has the keys of its entries.

use std::collections::{BTreeSet, VecDeque};

use prost::Message;

use crate::authority::rotation::Change;
use crate::authority::{Authority, AuthorityKind, SlotId, Status};
use crate::jwt::JwtKey;
use crate::key_manager::{KeyManager, KeyManagerError};
use crate::public_key::subject_key_id;
use crate::x509::X509Ca;
use vouchsafe_runtime::class::Class;

mod load;

pub use load::{load_jwt, load_x509};

/// Entries kept per kind; older ones are dropped.
pub const MAX_ENTRIES: usize = 10;

/// Largest journal that is read, in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The authorities of one server, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    x509: VecDeque<X509Entry>,
    jwt: VecDeque<JwtEntry>,
    /// WIT authorities of the reference, kept as they are.
    wit: Vec<JwtEntry>,
}

/// An entry of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Of an X.509 authority.
    X509(X509Entry),
    /// Of a JWT authority.
    Jwt(JwtEntry),
}

/// An X.509 authority.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "named by the reference")]
pub struct X509Entry {
    #[prost(string, tag = "1")]
    pub slot_id: String,
    #[prost(int64, tag = "2")]
    pub issued_at: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub certificate: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub upstream_chain: Vec<Vec<u8>>,
    #[prost(enumeration = "WireStatus", tag = "5")]
    pub status: i32,
    #[prost(string, tag = "6")]
    pub authority_id: String,
    #[prost(int64, tag = "7")]
    pub not_after: i64,
    #[prost(string, tag = "8")]
    pub upstream_authority_id: String,
}

/// A JWT authority.
#[derive(Clone, PartialEq, Message)]
#[expect(missing_docs, reason = "named by the reference")]
pub struct JwtEntry {
    #[prost(string, tag = "1")]
    pub slot_id: String,
    #[prost(int64, tag = "2")]
    pub issued_at: i64,
    #[prost(int64, tag = "3")]
    pub not_after: i64,
    #[prost(string, tag = "4")]
    pub kid: String,
    #[prost(bytes = "vec", tag = "5")]
    pub public_key: Vec<u8>,
    #[prost(enumeration = "WireStatus", tag = "6")]
    pub status: i32,
    #[prost(string, tag = "7")]
    pub authority_id: String,
}

/// [`Status`] in the journal's bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
#[expect(missing_docs, reason = "as in Status")]
pub enum WireStatus {
    Unknown = 0,
    Prepared = 2,
    Active = 3,
    Old = 4,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(message, repeated, tag = "1")]
    x509: Vec<X509Entry>,
    #[prost(message, repeated, tag = "2")]
    jwt: Vec<JwtEntry>,
    #[prost(message, repeated, tag = "3")]
    wit: Vec<JwtEntry>,
}

/// The bytes are no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Too many bytes.
    #[error("CA journal has {0} bytes: at most {MAX_BYTES} are read")]
    TooLarge(usize),
    /// Not protobuf of this schema.
    #[error("CA journal is damaged; new authorities are made in its place")]
    Malformed(#[source] prost::DecodeError),
}

impl JournalError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::Permanent
    }
}

impl Journal {
    /// No entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a journal; of each kind the newest [`MAX_ENTRIES`].
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalError> {
        if bytes.len() > MAX_BYTES {
            return Err(JournalError::TooLarge(bytes.len()));
        }
        let wire = Wire::decode(bytes).map_err(JournalError::Malformed)?;
        let mut journal = Self { x509: wire.x509.into(), jwt: wire.jwt.into(), wit: wire.wit };
        journal.trim();
        Ok(journal)
    }

    /// The journal as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire {
            x509: self.x509.iter().cloned().collect(),
            jwt: self.jwt.iter().cloned().collect(),
            wit: self.wit.clone(),
        };
        wire.encode_to_vec()
    }

    /// Takes a change in. Its bytes are then to be written.
    pub fn record<A: Authority>(&mut self, change: &Change<'_, A>) {
        match change {
            Change::Prepared { slot, authority } => match authority.entry(*slot) {
                Entry::X509(entry) => self.x509.push_back(entry),
                Entry::Jwt(entry) => self.jwt.push_back(entry),
            },
            Change::Activated { id, old } => {
                if let Some(old) = old {
                    self.set_status(A::KIND, old, WireStatus::Old);
                }
                self.set_status(A::KIND, id, WireStatus::Active);
            }
        }
        self.trim();
    }

    /// Id of the X.509 authority that was activated last; journals are stored under it, and only once there is
    /// one.
    #[must_use]
    pub fn active_x509_authority_id(&self) -> Option<&str> {
        let active = self.x509.iter().rev().find(|entry| entry.status() == WireStatus::Active);
        active.map(|entry| entry.authority_id.as_str())
    }

    /// Whether the journal belongs to the key manager that has these authority ids ([`own_authority_ids`]).
    #[must_use]
    pub fn belongs_to(&self, own: &BTreeSet<String>) -> bool {
        self.x509.iter().any(|entry| own.contains(&entry.authority_id))
    }

    /// When the newest entry was made, in seconds since 1970: the newest of several journals is the one to load.
    #[must_use]
    pub fn newest(&self) -> i64 {
        let x509 = self.x509.iter().map(|entry| entry.issued_at);
        x509.chain(self.jwt.iter().map(|entry| entry.issued_at)).max().unwrap_or(i64::MIN)
    }

    /// When the last of its authorities ends, in seconds since 1970; `None` if there is none.
    #[must_use]
    pub fn ends(&self) -> Option<i64> {
        let x509 = self.x509.iter().map(|entry| entry.not_after);
        x509.chain(self.jwt.iter().chain(&self.wit).map(|entry| entry.not_after)).max()
    }

    fn set_status(&mut self, kind: AuthorityKind, id: &str, status: WireStatus) {
        match kind {
            AuthorityKind::X509 => {
                if let Some(entry) = self.x509.iter_mut().rev().find(|entry| entry.authority_id == id) {
                    entry.set_status(status);
                }
            }
            AuthorityKind::Jwt => {
                if let Some(entry) = self.jwt.iter_mut().rev().find(|entry| entry.authority_id == id) {
                    entry.set_status(status);
                }
            }
        }
    }

    fn trim(&mut self) {
        self.x509.drain(..self.x509.len().saturating_sub(MAX_ENTRIES));
        self.jwt.drain(..self.jwt.len().saturating_sub(MAX_ENTRIES));
        self.wit.drain(..self.wit.len().saturating_sub(MAX_ENTRIES));
    }
}

/// Finds this server's journal among those that are stored. Damaged ones are skipped with a warning.
pub fn find<'a>(stored: impl IntoIterator<Item = &'a [u8]>, own: &BTreeSet<String>) -> Option<Journal> {
    let read = stored.into_iter().filter_map(|bytes| match Journal::decode(bytes) {
        Ok(journal) => Some(journal),
        Err(error) => {
            tracing::warn!(%error, "Skipping a CA journal that cannot be read");
            None
        }
    });
    read.filter(|journal| journal.belongs_to(own)).max_by_key(Journal::newest)
}

/// Authority ids that the keys of a key manager can have.
///
/// # Errors
///
/// [`KeyManagerError`].
pub async fn own_authority_ids(keys: &dyn KeyManager) -> Result<BTreeSet<String>, KeyManagerError> {
    let held = keys.list().await?;
    let ids = held.iter().filter_map(|(_, signer)| subject_key_id(signer.public_key_der()).ok());
    Ok(ids.map(hex::encode).collect())
}

impl X509Entry {
    pub(crate) fn of(ca: &X509Ca, slot: SlotId) -> Self {
        Self {
            slot_id: slot.to_string(),
            issued_at: ca.issued_at(),
            certificate: ca.cert_der().to_vec(),
            upstream_chain: ca.chain().iter().map(|der| der.to_vec()).collect(),
            status: WireStatus::Prepared.into(),
            authority_id: ca.authority_id().to_owned(),
            not_after: ca.not_after(),
            upstream_authority_id: ca.upstream_authority_id().to_owned(),
        }
    }
}

impl JwtEntry {
    pub(crate) fn of(key: &JwtKey, slot: SlotId) -> Self {
        Self {
            slot_id: slot.to_string(),
            issued_at: key.issued_at(),
            not_after: key.not_after(),
            kid: key.kid().to_owned(),
            public_key: key.signer().public_key_der().to_vec(),
            status: WireStatus::Prepared.into(),
            authority_id: key.kid().to_owned(),
        }
    }
}

impl From<WireStatus> for Status {
    fn from(status: WireStatus) -> Self {
        match status {
            WireStatus::Unknown => Self::Unknown,
            WireStatus::Prepared => Self::Prepared,
            WireStatus::Active => Self::Active,
            WireStatus::Old => Self::Old,
        }
    }
}

#[cfg(test)]
mod tests;
