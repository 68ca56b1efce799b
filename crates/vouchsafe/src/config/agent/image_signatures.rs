//! The block `sigstore` of a workload attestor.

use std::path::PathBuf;

use vouchsafe_agent::attest::image_signatures::{RegistryLogin, Settings};

use crate::config::section::Section;

/// What is set, checked. `None` without the block, or with a problem in it.
pub(super) fn read(data: &Section<'_>) -> Option<Settings> {
    let block = data.section("sigstore")?;
    let logins = block.named_sections("registry_credentials").into_iter().map(|(registry, login)| {
        let read = RegistryLogin {
            username: login.text("username").unwrap_or_default(),
            password: login.text("password").unwrap_or_default().into(),
        };
        login.finish();
        (registry, read)
    });
    let settings = Settings {
        allowed_identities: block.named_texts("allowed_identities"),
        skipped_images: block.strings("skipped_images"),
        rekor_url: block.text("rekor_url"),
        ignore_sct: block.flag("ignore_sct").unwrap_or(false),
        ignore_tlog: block.flag("ignore_tlog").unwrap_or(false),
        ignore_attestations: block.flag("ignore_attestations").unwrap_or(false),
        registry_credentials: logins.collect(),
        trusted_root: block.text("trusted_root").map(PathBuf::from),
    };
    let checked = settings.clone().check();
    let everybody = checked.as_ref().is_ok_and(|config| config.allows_everybody());
    if everybody && settings.trusted_root.is_none() {
        block.warn(format!(
            "{} is empty: everybody on the Internet can make signatures that count; entries must select \
             image-signature-subject and image-signature-issuer",
            block.name("allowed_identities")
        ));
    }
    let problems = checked.err().unwrap_or_default();
    for problem in &problems {
        block.refuse(problem.key(), format!("sigstore: {problem}"));
    }
    block.finish();
    problems.is_empty().then_some(settings)
}
