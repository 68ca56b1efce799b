//! Which plugins an agent uses.

use std::path::Path;

use super::{KeyManager, UnixAttestor};
use crate::config::plugins;
use crate::config::problems::Problems;
use crate::config::section::Section;

/// Reads the `plugins` section.
pub(super) fn read(section: Section<'_>, problems: &Problems) -> (KeyManager, Option<UnixAttestor>) {
    let nodes = plugins::enabled(&section, "NodeAttestor");
    if nodes.len() != 1 {
        let count = nodes.len();
        let text = format!(
            "plugins: exactly one NodeAttestor must be configured and enabled, not {count}; use \"join_token\""
        );
        problems.at(section.position(), text);
    }
    for node in nodes {
        if node.name != "join_token" {
            plugins::unsupported("NodeAttestor", &node.name, &["join_token"], node.position(), problems);
        }
        node.read_data(problems, |_| ());
        plugins::finish_if_supported(node, &["join_token"]);
    }
    let workloads = plugins::enabled(&section, "WorkloadAttestor");
    if workloads.is_empty() {
        let text = "plugins: at least one WorkloadAttestor must be configured and enabled; use \"unix\"";
        problems.at(section.position(), text);
    }
    let mut unix = None;
    for workload in workloads {
        if workload.name == "unix" {
            unix = Some(workload.read_data(problems, |data| UnixAttestor {
                discover_workload_path: data.flag("discover_workload_path").unwrap_or(false),
                workload_size_limit: data.integer("workload_size_limit", i64::MIN, i64::MAX).unwrap_or(0),
            }));
        } else {
            plugins::unsupported(
                "WorkloadAttestor",
                &workload.name,
                &["unix"],
                workload.position(),
                problems,
            );
        }
        plugins::finish_if_supported(workload, &["unix"]);
    }
    let keys_file = |directory: String| Path::new(&directory).join("keys.json");
    let key_manager = plugins::key_manager(&section, problems, "directory", keys_file);
    plugins::refuse_kind(&section, "SVIDStore", "remove it", problems);
    section.finish();
    (key_manager, unix)
}
