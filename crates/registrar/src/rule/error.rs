//! What is wrong with a declaration.

use vouchsafe_runtime::chain::Chain;
use vouchsafe_types::TrustDomain;
use vouchsafe_types::entry::EntryError;
use vouchsafe_types::selector::SelectorError as EntrySelectorError;
use vouchsafe_types::spiffe_id::SpiffeIdError;

use crate::duration::DurationError;
use crate::label_selector::SelectorError;
use crate::template::TemplateError;

/// What is wrong with a declaration, by the field that it stands in.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Fields of the wrong kind.
    #[error("the spec cannot be read: {0}")]
    Malformed(String),
    /// A field that must be set.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A template that does not parse.
    #[error("invalid {field}: {source}")]
    Template {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// A selector of Pods or namespaces.
    #[error("invalid {field}: {source}")]
    Labels {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        source: SelectorError,
    },
    /// A lifetime.
    #[error("invalid {field}: {source}")]
    Lifetime {
        /// Where.
        field: &'static str,
        /// What is wrong with it.
        source: DurationError,
    },
    /// A SPIFFE ID or trust domain.
    #[error("invalid {field} {text:?}: {source}")]
    Id {
        /// Where.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// A SPIFFE ID of somebody else.
    #[error("invalid {field} {text:?}: expected trust domain \"{expected}\"")]
    Foreign {
        /// Where.
        field: &'static str,
        /// What it says.
        text: String,
        /// Where it should belong.
        expected: TrustDomain,
    },
    /// A selector of the entry.
    #[error("invalid {field} {text:?}: {source}")]
    Selector {
        /// Where.
        field: &'static str,
        /// What it says.
        text: String,
        /// What is wrong with it.
        source: EntrySelectorError,
    },
    /// An entry that no server would take.
    #[error("the entry cannot be: {}", Chain(.0))]
    Entry(EntryError),
    /// A template that gave nothing for this Pod.
    #[error("failed to render {field}: {source}")]
    Render {
        /// Where.
        field: &'static str,
        /// What happened.
        source: TemplateError,
    },
    /// The Pod's node is not known (yet).
    #[error("node {0:?} is not known")]
    NoNode(String),
}
