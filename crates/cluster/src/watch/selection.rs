//! Which objects of a kind are followed.

/// Which objects of a kind are followed: all, unless narrowed.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Selection {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only what this label selector matches, such as `app=web,tier!=test`.
    pub labels: Option<String>,
    /// Only what this field selector matches, such as `spec.nodeName=node-1`.
    pub fields: Option<String>,
}

impl Selection {
    /// All objects of the kind.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// All objects of the kind in `namespace`.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Narrowed to what a label selector matches.
    #[must_use]
    pub fn with_labels(self, selector: impl Into<String>) -> Self {
        Self { labels: Some(selector.into()), ..self }
    }

    /// Narrowed to what a field selector matches.
    #[must_use]
    pub fn with_fields(self, selector: impl Into<String>) -> Self {
        Self { fields: Some(selector.into()), ..self }
    }
}
