//! How an agent and its server come to know each other.

use std::path::Path;

use vouchsafe_types::secret::SecretText;

use super::{Bootstrap, BundleFormat, Overrides, set};
use crate::config::problems::Problems;
use crate::config::read_text;
use crate::config::section::Section;
use crate::go;

/// A flag wins over both keys of the file.
pub(super) fn read_join_token(
    section: &Section<'_>,
    flags: &Overrides,
    problems: &Problems,
) -> Option<SecretText> {
    let flag = flags.join_token.clone().filter(|token| !token.is_empty());
    let (key, key_file) = (section.text("join_token"), section.text("join_token_file"));
    let flag_file = set(&flags.join_token_file);
    let (token, file) = match (flag, flag_file) {
        (None, None) => (key.map(SecretText::from), key_file),
        flags => flags,
    };
    if token.is_some() && file.is_some() {
        problems.add("only one of join_token or join_token_file can be specified, not both");
        return None;
    }
    let Some(path) = file else { return token };
    match read_text(Path::new(&path)) {
        Ok(text) if text.trim().is_empty() => {
            problems.add(format!("join token file {} is empty", go::quote(&path)));
            None
        }
        Ok(text) => Some(SecretText::from(text.trim())),
        Err(error) => {
            problems.add(format!("unable to read join token file {}: {error}", go::quote(&path)));
            None
        }
    }
}

pub(super) fn read_bootstrap(section: &Section<'_>, flags: &Overrides, problems: &Problems) -> Bootstrap {
    let insecure = section.flag("insecure_bootstrap").unwrap_or(false) || flags.insecure_bootstrap;
    let path = set(&flags.trust_bundle).or(section.text("trust_bundle_path"));
    let format = set(&flags.trust_bundle_format).or(section.text("trust_bundle_format"));
    let format = match format.as_deref() {
        None | Some("pem") => BundleFormat::Pem,
        Some("spiffe") => BundleFormat::Spiffe,
        Some(_) => {
            let text = "invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\"";
            section.problem("trust_bundle_format", text);
            BundleFormat::Pem
        }
    };
    let advice = "use trust_bundle_path with what `vouchsafe server bundle show` prints";
    for key in ["trust_bundle_url", "trust_bundle_unix_socket", "trust_bundle_spiffe_workload_api"] {
        section.not_built(key, advice);
    }
    match (path, insecure) {
        (Some(_), true) => {
            problems.add("only one of insecure_bootstrap or trust_bundle_path can be specified, not both");
        }
        (None, false) => problems.add(
            "trust_bundle_path must be configured unless insecure_bootstrap is set; \
             get the bundle with `vouchsafe server bundle show`",
        ),
        (Some(path), false) => return Bootstrap::File { path: path.into(), format },
        (None, true) => {
            problems
                .warn("insecure_bootstrap is set: the first connection believes whichever server answers");
        }
    }
    Bootstrap::Insecure
}
