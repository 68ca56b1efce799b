//! Which labels a selector of Kubernetes matches.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Labels as objects have them.
pub type Labels = BTreeMap<String, String>;

/// A selector. One without requirements matches everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

/// A selector as manifests have it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Written {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Vec<String>,
}

/// Why a selector means nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// An operator that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// `In` or `NotIn` without values.
    #[error("for {operator} the values of {key:?} must be set")]
    NoValues {
        /// The operator.
        operator: &'static str,
        /// The label.
        key: String,
    },
    /// `Exists` or `DoesNotExist` with values.
    #[error("for {operator} the values of {key:?} must not be set")]
    Values {
        /// The operator.
        operator: &'static str,
        /// The label.
        key: String,
    },
    /// A requirement without a key.
    #[error("a label key is empty")]
    NoKey,
}

impl LabelSelector {
    /// Whether something with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        let value = |key: &str| labels.and_then(|labels| labels.get(key));
        self.requirements.iter().all(|requirement| match (&requirement.test, value(&requirement.key)) {
            (Test::In(values), Some(value)) => values.contains(value),
            (Test::NotIn(values), Some(value)) => !values.contains(value),
            (Test::Exists, value) => value.is_some(),
            (Test::DoesNotExist, value) => value.is_none(),
            (Test::In(_), None) => false,
            (Test::NotIn(_), None) => true,
        })
    }
}

impl TryFrom<Written> for LabelSelector {
    type Error = SelectorError;

    fn try_from(written: Written) -> Result<Self, SelectorError> {
        let labels = written.match_labels.into_iter().map(|(key, value)| (key, Test::In(vec![value])));
        let mut requirements: Vec<_> = labels.map(|(key, test)| Requirement { key, test }).collect();
        for expression in written.match_expressions {
            let (key, values) = (expression.key, expression.values);
            let some = |operator| match values.is_empty() {
                true => Err(SelectorError::NoValues { operator, key: key.clone() }),
                false => Ok(values.clone()),
            };
            let none = |operator| match values.is_empty() {
                true => Ok(()),
                false => Err(SelectorError::Values { operator, key: key.clone() }),
            };
            let test = match expression.operator.as_str() {
                "In" => Test::In(some("In")?),
                "NotIn" => Test::NotIn(some("NotIn")?),
                "Exists" => none("Exists").map(|()| Test::Exists)?,
                "DoesNotExist" => none("DoesNotExist").map(|()| Test::DoesNotExist)?,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            requirements.push(Requirement { key, test });
        }
        match requirements.iter().any(|requirement| requirement.key.is_empty()) {
            true => Err(SelectorError::NoKey),
            false => Ok(Self { requirements }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selector(written: serde_json::Value) -> Result<LabelSelector, SelectorError> {
        serde_json::from_value::<Written>(written).unwrap().try_into()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> serde_json::Value {
        json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] })
    }

    #[test]
    fn a_selector_matches_what_kubernetes_says() {
        let labels: Labels = [("app".to_owned(), "web".to_owned())].into();
        for (written, with, without) in [
            (json!({}), true, true),
            (json!({ "matchLabels": { "app": "web" } }), true, false),
            (json!({ "matchLabels": { "app": "db" } }), false, false),
            (expression("app", "In", &["db", "web"]), true, false),
            (expression("app", "NotIn", &["web"]), false, true),
            (expression("app", "NotIn", &["db"]), true, true),
            (expression("app", "Exists", &[]), true, false),
            (expression("app", "DoesNotExist", &[]), false, true),
        ] {
            let selector = selector(written.clone()).unwrap();
            assert_eq!(
                (selector.matches(Some(&labels)), selector.matches(None)),
                (with, without),
                "{written}"
            );
        }
    }

    #[test]
    fn a_selector_that_means_nothing_is_refused() {
        for (written, expected) in [
            (expression("app", "Is", &["x"]), "\"Is\" is not a valid label selector operator"),
            (expression("app", "In", &[]), "for In the values of \"app\" must be set"),
            (expression("app", "Exists", &["x"]), "for Exists the values of \"app\" must not be set"),
            (expression("", "Exists", &[]), "a label key is empty"),
        ] {
            assert_eq!(selector(written).unwrap_err().to_string(), expected);
        }
    }
}
