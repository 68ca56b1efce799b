//! Why an image has no selectors, for the log and for `vouchsafe explain`.

use std::fmt::{self, Display};

use vouchsafe_runtime::class::Class;

use super::{DEADLINE, MAX_OF_REGISTRY, MAX_WAITING};
use crate::excerpt::excerpt;
use crate::image::ImageError;
use crate::registry::RegistryError;

/// Why an image has no selectors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigstoreError {
    /// There is nothing to look for.
    #[error("signatures of the image {image:?} cannot be looked for: {source}")]
    Image {
        /// The image ID.
        image: String,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The registry does not tell.
    #[error("signatures of the image {image} cannot be read: {problem}")]
    Registry {
        /// Which.
        image: String,
        /// Whose fault it is.
        class: Class,
        /// Why.
        problem: String,
    },
    /// There is no signature in the registry.
    #[error(
        "the image {image} has no signature in its registry (cosign sign --new-bundle-format=false makes them)"
    )]
    Unsigned {
        /// Which.
        image: String,
    },
    /// None of the signatures counts.
    #[error("no signature of the image {image} counts: {refusals}")]
    NotVerified {
        /// Which.
        image: String,
        /// Why not.
        refusals: Refusals,
    },
    /// There is a signature, but no attestation that counts.
    #[error(
        "no attestation of the image {image} counts: {refusals}; without attestations set ignore_attestations"
    )]
    NotAttested {
        /// Which.
        image: String,
        /// Why not.
        refusals: Refusals,
    },
    /// It takes too long.
    #[error("the registry did not tell within {DEADLINE:?} who has signed the image {image}")]
    TimedOut {
        /// Which.
        image: String,
    },
    /// It took too long for images of the same owner.
    #[error(
        "signatures of the image {image} are not looked for: its registry took too long, and is asked again in {seconds} s"
    )]
    Slow {
        /// Which.
        image: String,
        /// Until then.
        seconds: u64,
    },
    /// Too many images wait.
    #[error(
        "the signatures of {MAX_WAITING} images, or {MAX_OF_REGISTRY} of one registry, are waited for already"
    )]
    Busy,
    /// The agent stops.
    #[error("signatures are not looked at: the agent is stopping, or the look at them failed")]
    Stopped,
}

impl SigstoreError {
    /// Whose fault it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Image { .. }
            | Self::Unsigned { .. }
            | Self::NotVerified { .. }
            | Self::NotAttested { .. } => Class::Caller,
            Self::Registry { class, .. } => *class,
            Self::TimedOut { .. } | Self::Slow { .. } | Self::Busy | Self::Stopped => Class::Transient,
        }
    }
}

/// Why signatures, or attestations, of an image do not count, one by one.
#[derive(Debug, Default)]
pub struct Refusals {
    /// The first [`MAX_SHOWN`].
    shown: Vec<String>,
    more: usize,
}

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    pub(super) fn add(&mut self, refusal: impl Display) {
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(excerpt(refusal));
        } else {
            self.more += 1;
        }
    }

    /// A payload that is bad, or not there, does not spoil the other ones. One that cannot be had may be a good one, so
    /// that without it nothing is known.
    pub(super) fn add_or_fail(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if !error.is_about_content() {
            return Err(error);
        }
        self.add(error);
        Ok(())
    }
}

impl Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, more } = self;
        if shown.is_empty() {
            return f.write_str("there is none");
        }
        for (number, refusal) in shown.iter().enumerate() {
            write!(f, "{}({}) {refusal}", if number == 0 { "" } else { "; " }, number + 1)?;
        }
        if *more > 0 { write!(f, "; and {more} more") } else { Ok(()) }
    }
}

/// Refusals in an error's text.
const MAX_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::WebError;

    #[test]
    fn what_others_wrote_is_cut_and_counted() {
        let mut refusals = Refusals::default();
        for number in 0..100 {
            refusals.add(format_args!("{number}{}", "x".repeat(1_000_000)));
        }
        let text = refusals.to_string();
        assert!(text.starts_with("(1) 0xx") && text.ends_with("; and 95 more"), "{text}");
        assert!(text.len() < 3000, "{}", text.len());
    }

    #[test]
    fn only_bad_content_is_passed_over() {
        let what = || "/v2/a/blobs/b".to_owned();
        let web = |class| RegistryError::Web {
            what: what(),
            source: WebError { message: "connection reset".to_owned(), class },
        };
        let status = |status| RegistryError::Status { what: what(), status };
        for error in [
            RegistryError::Layer { digest: what(), max: 1 },
            RegistryError::Digest { what: what() },
            status(404),
            status(410),
        ] {
            assert!(Refusals::default().add_or_fail(error).is_ok());
        }
        for error in [
            web(Class::Peer),
            web(Class::Transient),
            status(401),
            status(403),
            status(408),
            status(429),
            status(500),
            RegistryError::Denied { status: 403 },
            RegistryError::Challenge,
            RegistryError::Redirect { what: what(), problem: "to nowhere" },
        ] {
            assert!(Refusals::default().add_or_fail(error).is_err());
        }
    }
}
