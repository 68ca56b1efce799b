//! What the objects should hold: a pure function of the bundle.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vouchsafe_types::bundle::Bundle;
use vouchsafe_types::bundle::format::{FormatError, to_jwks, to_pem, to_spiffe_json};

use super::eyes::Shape;
use super::sight::Digest;
use crate::config::publication::{Format, Publication};

/// A text for an object, and what it is known by.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) text: Arc<str>,
    pub(super) digest: Digest,
}

impl Wanted {
    fn of(text: String) -> Self {
        Self { digest: Digest::of(&text), text: text.into() }
    }
}

/// Why there is nothing to write.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lacking {
    #[error("there is no trust bundle yet")]
    Bundle,
    #[error("the trust bundle has no X.509 authority")]
    Authority,
    #[error("the trust bundle cannot be written in this form")]
    Form(#[from] FormatError),
}

/// The bundle in each form that an object of a publication has it in.
#[derive(Debug, Default)]
pub(super) struct Texts(Vec<(Shape, Result<Wanted, Lacking>)>);

impl Texts {
    /// The bundle in one form.
    ///
    /// # Errors
    ///
    /// Why there is nothing to write. What an object has stays: half a bundle would withdraw trust.
    pub(super) fn of(&self, shape: Shape) -> Result<&Wanted, &Lacking> {
        let found = self.0.iter().find(|(known, _)| *known == shape);
        found.map_or(Err(&Lacking::Bundle), |(_, wanted)| wanted.as_ref())
    }

    /// Why forms are missing that this bundle should have.
    pub(super) fn malformed(&self) -> impl Iterator<Item = &Lacking> {
        let lacking = self.0.iter().filter_map(|(_, wanted)| wanted.as_ref().err());
        lacking.filter(|lacking| matches!(lacking, Lacking::Form(_)))
    }
}

/// What the objects of `publication` should hold.
pub(super) fn texts(bundle: &Bundle, publication: &Publication) -> Texts {
    let formats = publication.config_maps.iter().map(|key| key.format).chain([Format::Pem]);
    let texts = formats.map(|format| (Shape::Text(format), text(bundle, format)));
    Texts(texts.chain([(Shape::CaBundle, ca_bundle(bundle))]).collect())
}

/// The bundle as a text in `format`.
///
/// A bundle without X.509 authorities is never written: nobody could be verified with it, and it is what a server has
/// before it has read anything.
fn text(bundle: &Bundle, format: Format) -> Result<Wanted, Lacking> {
    if bundle.x509_authorities.is_empty() {
        return Err(Lacking::Authority);
    }
    let text = match format {
        Format::Pem => to_pem(bundle),
        Format::Jwks => to_jwks(bundle)?,
        Format::Spiffe { refresh_hint: None } => to_spiffe_json(bundle)?,
        Format::Spiffe { refresh_hint: Some(hint) } => {
            let refresh_hint = i64::try_from(hint.as_secs()).unwrap_or(i64::MAX);
            to_spiffe_json(&Bundle { refresh_hint, ..bundle.clone() })?
        }
    };
    Ok(Wanted::of(text))
}

/// The bundle as a `caBundle`: PEM, in base64 as JSON has it.
fn ca_bundle(bundle: &Bundle) -> Result<Wanted, Lacking> {
    let pem = text(bundle, Format::Pem)?;
    Ok(Wanted::of(STANDARD.encode(pem.text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vouchsafe_types::trust_domain::TrustDomain;

    #[test]
    fn a_bundle_without_authorities_is_never_written() {
        let empty = Bundle::new(TrustDomain::parse("example.org").unwrap());
        for format in [Format::Pem, Format::Jwks, Format::Spiffe { refresh_hint: None }] {
            assert!(matches!(text(&empty, format), Err(Lacking::Authority)));
        }
        assert!(matches!(ca_bundle(&empty), Err(Lacking::Authority)));
        assert!(matches!(Texts::default().of(Shape::CaBundle), Err(Lacking::Bundle)));
    }
}
