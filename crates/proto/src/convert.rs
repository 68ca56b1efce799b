//! Messages to and from values.
//!
//! `*_to_proto` cannot fail. `*_from_proto` validates: a value that comes out is well-formed, and the error names
//! the field. Masks follow SPIRE: an absent mask means every field, and `id` is always present.

mod bundle;
mod entry;
mod federation;
mod identity;

pub use bundle::{
    bundle_from_proto, bundle_to_proto, jwt_authority_from_proto, jwt_authority_to_proto,
    x509_authority_from_proto, x509_authority_to_proto,
};
pub use entry::{EntryPatch, entry_from_proto, entry_patch_from_proto, entry_to_proto};
pub use federation::{federation_from_proto, federation_to_proto};
pub use identity::{
    agent_to_proto, selector_to_proto, selectors_from_proto, spiffe_id_from_proto, spiffe_id_to_proto,
};

/// Why a message is not a value. The texts are those that SPIRE's tools show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The entry itself is absent.
    #[error("missing entry")]
    MissingEntry,
    /// A SPIFFE ID is absent.
    #[error("request must specify SPIFFE ID")]
    MissingSpiffeId,
    /// A SPIFFE ID does not parse.
    #[error(transparent)]
    SpiffeId(vouchsafe_types::spiffe_id::SpiffeIdError),
    /// A field holds a value that cannot be used.
    #[error("invalid {field}: {source}")]
    Field {
        /// Name of the field, as SPIRE's errors have it.
        field: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An entry needs at least one selector.
    #[error("selector list is empty")]
    NoSelectors,
    /// A selector has no type, no value, or a type with a colon.
    #[error("{0}")]
    Selector(&'static str),
    /// The same value stands twice in a list that is a set.
    #[error("duplicate {field} {value:?}; name it once")]
    Duplicate {
        /// Which list.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// A number is out of its range.
    #[error("{field} must not be negative (got {value})")]
    Negative {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: i64,
    },
    /// A bundle authority lacks its key or identifier.
    #[error("{0}")]
    Authority(&'static str),
    /// The URL of a bundle endpoint cannot be one.
    #[error(transparent)]
    EndpointUrl(vouchsafe_types::federation::EndpointUrlError),
    /// A federation relationship without a profile, or with one that is not known.
    #[error("unsupported bundle endpoint profile type: <nil>")]
    EndpointProfile,
    /// A federation relationship with the bundle of another trust domain.
    #[error(
        "trust domain bundle ({bundle:?}) must match the trust domain of the federation relationship (\"{trust_domain}\")"
    )]
    BundleOfAnother {
        /// Whose bundle it is, as it was given.
        bundle: String,
        /// Whose it should be.
        trust_domain: vouchsafe_types::trust_domain::TrustDomain,
    },
    /// A part does not parse.
    #[error("{what}: {source}")]
    Part {
        /// What failed, in SPIRE's words.
        what: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ConvertError {
    fn field(
        field: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ConvertError {
        Self::Field { field, source: source.into() }
    }

    fn unparsed(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ConvertError {
        Self::Part { what, source: source.into() }
    }
}
