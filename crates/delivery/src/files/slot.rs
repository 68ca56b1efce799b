//! What belongs together: asked for, rendered and written at once.

use super::folder::Folder;
use super::render::{self, RenderError, Rendered};
use super::settings::Settings;
use super::source::Answer;

/// What belongs together and is written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    X509,
    JwtBundles,
    JwtSvid(usize),
}

/// All that the settings ask for, in the order in which it is written.
pub(super) fn slots(settings: &Settings) -> impl Iterator<Item = Slot> + use<> {
    let x509 = settings.x509.is_some().then_some(Slot::X509);
    let bundles = settings.jwt_bundle.is_some().then_some(Slot::JwtBundles);
    x509.into_iter().chain(bundles).chain((0..settings.jwt_svids.len()).map(Slot::JwtSvid))
}

/// The folder with the names of all files.
pub(super) fn folder(settings: &Settings) -> Folder {
    let mut names = Vec::new();
    if let Some(x509) = &settings.x509 {
        names.extend([&x509.key, &x509.certificates, &x509.bundle].map(Clone::clone));
    }
    names.extend(settings.jwt_bundle.iter().map(|file| file.name.clone()));
    names.extend(settings.jwt_svids.iter().map(|file| file.name.clone()));
    Folder::new(settings.folder.clone(), settings.replacement, names)
}

/// What an answer comes to on disk, and whose place it takes.
pub(super) fn render(
    answer: &Answer,
    settings: &Settings,
    now: i64,
) -> (Slot, Result<Rendered, RenderError>) {
    let unasked = Err(RenderError::Nothing);
    match answer {
        Answer::X509(answer) => {
            let files = settings.x509.as_ref();
            (Slot::X509, files.map_or(unasked, |files| render::x509(answer, files, &settings.hint, now)))
        }
        Answer::JwtBundles(answer) => {
            let file = settings.jwt_bundle.as_ref();
            (Slot::JwtBundles, file.map_or(unasked, |file| render::jwt_bundles(answer, file)))
        }
        Answer::JwtSvids(number, answer) => {
            let file = settings.jwt_svids.get(*number);
            (
                Slot::JwtSvid(*number),
                file.map_or(unasked, |file| render::jwt_svid(answer, file, &settings.hint)),
            )
        }
    }
}
