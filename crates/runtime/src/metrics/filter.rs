//! Which metrics and labels an operator wants.

use super::render;

/// Which metrics and labels are kept. All, unless lists say otherwise.
///
/// A prefix is matched against the whole name with its own prefix (`spire_agent.rpc`, `.` and `_` being the same here). The
/// longest prefix that matches decides, and of two that are the same the blocked one; without a match the metric is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Beginnings of names that are kept.
    pub allowed_prefixes: Vec<String>,
    /// Beginnings of names that are not.
    pub blocked_prefixes: Vec<String>,
    /// If there are any: the only labels that are kept.
    pub allowed_labels: Vec<String>,
    /// Labels that are not.
    pub blocked_labels: Vec<String>,
}

impl Filter {
    /// Whether the metric is kept.
    pub(super) fn keeps(&self, name: &str) -> bool {
        longest(&self.allowed_prefixes, name) > longest(&self.blocked_prefixes, name)
            || longest(&self.blocked_prefixes, name).is_none()
    }

    /// Whether the label is kept.
    pub(super) fn keeps_label(&self, name: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|label| render::label_name(label) == name);
        !named(&self.blocked_labels) && (self.allowed_labels.is_empty() || named(&self.allowed_labels))
    }
}

/// Length of the longest prefix of `name`.
fn longest(prefixes: &[String], name: &str) -> Option<usize> {
    let matching = prefixes.iter().map(|prefix| render::name(prefix));
    matching.filter(|prefix| name.starts_with(prefix.as_str())).map(|prefix| prefix.len()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_longest_prefix_decides_and_what_matches_none_is_kept() {
        let filter = Filter {
            allowed_prefixes: list(&["spire_agent.rpc.workload_api", "spire_agent.same"]),
            blocked_prefixes: list(&["spire_agent.rpc", "spire_agent.same"]),
            ..Filter::default()
        };
        for (name, kept) in [
            ("spire_agent_rpc_workload_api_fetch_x509svid", true),
            ("spire_agent_rpc_sds_v3_stream_secrets", false),
            ("spire_agent_same", false),
            ("spire_agent_started", true),
        ] {
            assert_eq!(filter.keeps(name), kept, "{name}");
        }
    }

    #[test]
    fn labels_are_kept_unless_blocked_or_not_among_the_allowed() {
        assert!(Filter::default().keeps_label("host"));
        let blocked = Filter { blocked_labels: list(&["host"]), ..Filter::default() };
        assert!(!blocked.keeps_label("host") && blocked.keeps_label("status"));
        let allowed = Filter { allowed_labels: list(&["status"]), ..Filter::default() };
        assert!(!allowed.keeps_label("host") && allowed.keeps_label("status"));
    }
}
