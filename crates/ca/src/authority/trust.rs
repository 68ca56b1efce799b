//! What operators and upstream authorities do to the bundle. Pure; the caller stores the result.
//!
//! An authority is tainted first (who was certified by it moves on, and is still believed) and revoked then (it leaves
//! the bundle, and nothing that it signed is believed any more).

use vouchsafe_types::bundle::{Bundle, X509Authority};

use super::AuthorityKind;

/// Marks the authority `id` as tainted.
///
/// # Errors
///
/// [`TrustError::Unknown`], [`TrustError::Tainted`]; the bundle is unchanged.
pub fn taint(bundle: &mut Bundle, kind: AuthorityKind, id: &str) -> Result<(), TrustError> {
    let found = flags(bundle, kind, id);
    if found.is_empty() {
        return Err(TrustError::Unknown(Text::taint(kind)));
    }
    if found.iter().all(|tainted| **tainted) {
        return Err(TrustError::Tainted(Text::taint(kind)));
    }
    found.into_iter().for_each(|tainted| *tainted = true);
    Ok(())
}

/// Removes the authority `id`, which must be tainted.
///
/// # Errors
///
/// [`TrustError::Unknown`], [`TrustError::Untainted`]; the bundle is unchanged.
pub fn revoke(bundle: &mut Bundle, kind: AuthorityKind, id: &str) -> Result<(), TrustError> {
    let found = flags(bundle, kind, id);
    if found.is_empty() {
        return Err(TrustError::Unknown(Text::revoke(kind)));
    }
    if found.iter().any(|tainted| !**tainted) {
        return Err(TrustError::Untainted(Text::revoke(kind)));
    }
    match kind {
        AuthorityKind::X509 => bundle.x509_authorities.retain(|held| !is(held, id)),
        AuthorityKind::Jwt => bundle.jwt_authorities.retain(|held| held.key_id != id),
    }
    Ok(())
}

/// The X.509 authorities of `held` that are tainted in `above`, the upstream authority's bundle, and not yet here. What
/// they certified must be replaced before they are marked here.
#[must_use]
pub fn newly_tainted(held: &Bundle, above: &Bundle) -> Vec<String> {
    let tainted = above.x509_authorities.iter().filter(|authority| authority.tainted);
    let new = tainted.filter(|root| {
        held.x509_authorities.iter().any(|authority| authority.der == root.der && !authority.tainted)
    });
    new.filter_map(authority_id).collect()
}

/// Brings the roots of `held` up to date with those of the upstream authority. New ones are added, with their taint; tainted
/// ones that are gone there are removed. What is held is not tainted here ([`newly_tainted`]).
///
/// Authorities that are not tainted stay although they are gone above: they expire.
pub fn follow_roots(held: &mut Bundle, above: &[X509Authority]) {
    let is_above = |authority: &X509Authority| above.iter().any(|root| root.der == authority.der);
    held.x509_authorities.retain(|authority| !authority.tainted || is_above(authority));
    held.append(above.iter().cloned(), []);
}

/// Brings `held` up to date with `above`, the upstream authority's bundle: the roots as [`follow_roots`] does, JWT
/// authorities likewise, and with their taint.
pub fn follow(held: &mut Bundle, above: &Bundle) {
    follow_roots(held, &above.x509_authorities);
    held.jwt_authorities
        .retain(|authority| !authority.tainted || above.jwt_authority(&authority.key_id).is_some());
    for authority in &mut held.jwt_authorities {
        authority.tainted |= above.jwt_authority(&authority.key_id).is_some_and(|a| a.tainted);
    }
    held.append([], above.jwt_authorities.iter().cloned());
}

/// Why the bundle was not changed, in the words of the reference.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TrustError {
    /// It is not in the bundle.
    #[error("no {} found with provided {}", .0.what, .0.name)]
    Unknown(Text),
    /// It is tainted already.
    #[error("{} is already tainted", .0.short)]
    Tainted(Text),
    /// It must be tainted first.
    #[error("it is not possible to revoke an untainted {}", .0.short)]
    Untainted(Text),
}

/// How the reference speaks of an authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Text {
    what: &'static str,
    name: &'static str,
    short: &'static str,
}

impl Text {
    fn taint(kind: AuthorityKind) -> Self {
        match kind {
            AuthorityKind::X509 => Self { what: "ca", name: "subject key ID", short: "root CA" },
            AuthorityKind::Jwt => Self { what: "JWT Key", name: "key ID", short: "key" },
        }
    }

    fn revoke(kind: AuthorityKind) -> Self {
        match kind {
            AuthorityKind::X509 => Self { what: "root CA", ..Self::taint(kind) },
            AuthorityKind::Jwt => Self::taint(kind),
        }
    }
}

/// The taint of each authority called `id`. Several certificates may share a key, and so an id.
fn flags<'a>(bundle: &'a mut Bundle, kind: AuthorityKind, id: &str) -> Vec<&'a mut bool> {
    match kind {
        AuthorityKind::X509 => {
            let found = bundle.x509_authorities.iter_mut().filter(|held| is(held, id));
            found.map(|held| &mut held.tainted).collect()
        }
        AuthorityKind::Jwt => {
            let found = bundle.jwt_authorities.iter_mut().filter(|held| held.key_id == id);
            found.map(|held| &mut held.tainted).collect()
        }
    }
}

fn is(authority: &X509Authority, id: &str) -> bool {
    !id.is_empty() && authority_id(authority).as_deref() == Some(id)
}

/// Subject key id of an X.509 authority, in hex.
#[must_use]
pub fn authority_id(authority: &X509Authority) -> Option<String> {
    authority.parsed().ok().map(|parsed| parsed.authority_id())
}

#[cfg(test)]
mod tests;
