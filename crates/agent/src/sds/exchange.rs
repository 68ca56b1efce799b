//! The conversation of one stream: what was asked for, what was sent, and what is owed. Pure.
//!
//! A client asks, gets an answer with a version and a nonce, and acknowledges both in its next request; one that
//! rejected the answer names the version before. A request with another nonce answers something that has been replaced
//! since, so it is ignored. A request that asks for other names gets an answer at once, others get the next change.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use vouchsafe_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use zeroize::Zeroizing;

use super::asked::{Asked, Validator, names};
use super::resources::Resources;
use crate::identities::secret_bytes;

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    /// Whether configuration turns the validator off.
    validator_disabled: bool,
    asked: Option<Asked>,
    type_url: String,
    /// That of the last answer; 0 before the first.
    version: u64,
    nonce: Option<String>,
    sent: Option<Arc<Resources>>,
    /// An answer is owed.
    owed: bool,
    /// The identities may differ from those of the last answer.
    changed: bool,
}

/// What a request says about the last answer.
#[derive(Debug, Eq, PartialEq)]
pub enum Heard {
    /// Nothing, or that it was taken.
    Fine,
    /// It is about an earlier one, so it was ignored.
    Stale {
        /// The nonce of the last answer.
        expected: String,
    },
    /// The client did not take it.
    Rejected {
        /// The version of the last answer.
        expected: String,
    },
    /// The type is longer than any that exists. The stream must end.
    TypeTooLong,
}

impl Exchange {
    /// Nobody asked for anything yet.
    #[must_use]
    pub fn new(validator_disabled: bool) -> Self {
        Self {
            validator_disabled,
            asked: None,
            type_url: String::new(),
            version: 0,
            nonce: None,
            sent: None,
            owed: false,
            changed: true,
        }
    }

    /// Takes a request. A node is named in the first one and holds until another is named.
    pub fn hear(&mut self, request: DiscoveryRequest) -> Heard {
        if request.type_url.len() > MAX_TYPE_URL {
            return Heard::TypeTooLong;
        }
        let mut heard = Heard::Fine;
        if let Some(expected) = &self.nonce {
            if *expected != request.response_nonce {
                return Heard::Stale { expected: expected.clone() };
            }
            let expected = self.version.to_string();
            if request.version_info != expected {
                heard = Heard::Rejected { expected };
            }
        }
        let validator = match (&request.node, &self.asked) {
            (None, Some(before)) => before.validator,
            (node, _) => Validator::of(&node.clone().unwrap_or_default(), self.validator_disabled),
        };
        let asked = Asked { names: names(request.resource_names), validator };
        if self.asked.as_ref() != Some(&asked) {
            (self.asked, self.sent, self.owed) = (Some(asked), None, true);
        }
        self.type_url = request.type_url;
        heard
    }

    /// The caller's identities changed.
    pub fn changed(&mut self) {
        self.changed = true;
        self.owed = self.asked.is_some();
    }

    /// What an answer is owed to.
    #[must_use]
    pub fn owed(&self) -> Option<&Asked> {
        self.asked.as_ref().filter(|_| self.owed)
    }

    /// Whether the client has an answer to what it asks for now.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.sent.is_some()
    }

    /// The version of the last answer.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The answer that is owed, unless the client has it. Without a nonce it is one of its own, outside of a stream.
    pub fn answer(&mut self, resources: Arc<Resources>, nonce: Option<String>) -> Option<Bytes> {
        let changed = std::mem::take(&mut self.changed);
        self.owed = false;
        if self.sent.as_ref().is_some_and(|sent| sent.encoded == resources.encoded) {
            return None;
        }
        self.version += u64::from(changed);
        let head = DiscoveryResponse {
            version_info: nonce.as_ref().map(|_| self.version.to_string()).unwrap_or_default(),
            ..DiscoveryResponse::default()
        };
        let tail = DiscoveryResponse {
            type_url: self.type_url.clone(),
            nonce: nonce.clone().unwrap_or_default(),
            ..DiscoveryResponse::default()
        };
        let length = head.encoded_len() + resources.encoded.len() + tail.encoded_len();
        let mut response = Zeroizing::new(Vec::with_capacity(length));
        // Messages that follow each other are one message.
        response.extend_from_slice(&head.encode_to_vec());
        response.extend_from_slice(&resources.encoded);
        response.extend_from_slice(&tail.encode_to_vec());
        self.nonce = nonce;
        self.sent = Some(resources);
        Some(secret_bytes(response))
    }
}

/// Bytes of a type's URL; the one of secrets has 68.
const MAX_TYPE_URL: usize = 256;

#[cfg(test)]
mod tests;
