//! Keys of older versions of spiffe-helper, read under their names of today.

use crate::config::problems::Problems;
use crate::hcl::Body;

/// The same text with today's keys, and a warning for each that was renamed or means nothing any more.
pub(super) fn with_todays_names(body: &Body, problems: &Problems) -> Body {
    let mut body = body.clone();
    body.items.retain(|item| {
        let gone = item.key.eq_ignore_ascii_case("timeout");
        if gone {
            problems.warn("timeout has no effect any more; remove it");
        }
        !gone
    });
    for item in &mut body.items {
        if let Some((old, new)) = RENAMED.iter().find(|(old, _)| *old == item.key) {
            problems.warn(format!("{old} is an old name; write {new} instead"));
            (*new).clone_into(&mut item.key);
        }
    }
    body
}

const RENAMED: [(&str, &str); 9] = [
    ("agentAddress", "agent_address"),
    ("cmdArgs", "cmd_args"),
    ("certDir", "cert_dir"),
    ("renewSignal", "renew_signal"),
    ("svidFileName", "svid_file_name"),
    ("svidKeyFileName", "svid_key_file_name"),
    ("svidBundleFileName", "svid_bundle_file_name"),
    ("addIntermediatesToBundle", "add_intermediates_to_bundle"),
    ("mergeCAWithIntermediates", "add_intermediates_to_bundle"),
];
