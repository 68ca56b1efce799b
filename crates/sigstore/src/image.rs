//! An image ID: which repository of which registry, and the digest.

use std::fmt;

/// An image by digest, as `repository@sha256:…` of the kubelet names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageId {
    registry: String,
    repository: String,
    digest: String,
}

impl ImageId {
    /// Takes `text` apart, by the rules of Docker: without a registry it is Docker Hub's, and there a repository without
    /// a folder is in `library`. A tag before the digest is left out.
    ///
    /// # Errors
    ///
    /// [`ImageError`] when `text` names no repository or no SHA-256 digest.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        if text.len() > MAX_LENGTH {
            return Err(ImageError::TooLong);
        }
        // What dockershim put before it.
        let text = text.strip_prefix("docker-pullable://").unwrap_or(text);
        let (name, digest) = text.split_once('@').ok_or(ImageError::NoDigest)?;
        let hexadecimal = digest.strip_prefix("sha256:").ok_or(ImageError::Digest)?;
        if hexadecimal.len() != 64 || !hexadecimal.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ImageError::Digest);
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DOCKER_HUB, name),
        };
        let registry = canonical_registry(registry);
        // A colon can only be that of a tag: the one of a port is in the registry.
        let repository = repository.split_once(':').map_or(repository, |(repository, _tag)| repository);
        let repository = if registry == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if !is_registry(registry) || !is_repository(&repository) {
            return Err(ImageError::Name);
        }
        Ok(Self { registry: registry.to_owned(), repository, digest: digest.to_owned() })
    }

    /// `host` or `host:port` of the registry.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the repository in its registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `sha256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The tag beside the image under which cosign stores something: `sha256-<digest>.<suffix>`.
    pub(crate) fn tag_beside(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.digest.replace(':', "-"))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

/// The name that Docker Hub's API goes by, for the names that people use.
pub(crate) fn canonical_registry(name: &str) -> &str {
    if name == "docker.io" { DOCKER_HUB } else { name }
}

/// What goes into a URL as host and port, and nothing else.
fn is_registry(name: &str) -> bool {
    let bracketed = name.starts_with('[');
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    !name.is_empty()
        && name.bytes().all(|b| fits(b) || (bracketed && matches!(b, b'[' | b']')))
        && (bracketed || name.matches(':').count() <= 1)
}

fn is_repository(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    name.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.bytes().all(fits))
}

const DOCKER_HUB: &str = "index.docker.io";

/// Bytes of an image ID; registries allow fewer.
const MAX_LENGTH: usize = 1024;

/// Why a text is no image ID whose signatures can be looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImageError {
    /// No runtime writes so much.
    #[error("it is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// A tag, or the ID of an image that was never in a registry.
    #[error(
        "it has no repository and digest (repository@sha256:…): the image was not pulled from a registry"
    )]
    NoDigest,
    /// Another kind of digest, or none.
    #[error("its digest is not sha256: and 64 lower-case hexadecimal digits")]
    Digest,
    /// Characters that registries do not have in names.
    #[error("its registry or repository has characters that do not belong there")]
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parsed(name: &str) -> (String, String) {
        let image = ImageId::parse(&format!("{name}@{DIGEST}")).unwrap();
        assert_eq!(image.digest(), DIGEST);
        (image.registry, image.repository)
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        for (name, registry, repository) in [
            ("ghcr.io/a/b", "ghcr.io", "a/b"),
            ("localhost:5000/a", "localhost:5000", "a"),
            ("localhost/a", "localhost", "a"),
            ("nginx", "index.docker.io", "library/nginx"),
            ("a/nginx", "index.docker.io", "a/nginx"),
            ("docker.io/library/nginx", "index.docker.io", "library/nginx"),
            ("docker.io/nginx", "index.docker.io", "library/nginx"),
            ("ghcr.io/a/b:v1.2", "ghcr.io", "a/b"),
            ("docker-pullable://quay.io/a", "quay.io", "a"),
        ] {
            assert_eq!(parsed(name), (registry.to_owned(), repository.to_owned()), "{name}");
        }
    }

    #[test]
    fn what_is_no_image_by_digest_is_refused() {
        for (text, error) in [
            ("sha256:0123", ImageError::NoDigest),
            ("ghcr.io/a:latest", ImageError::NoDigest),
            ("ghcr.io/a@sha256:0123", ImageError::Digest),
            ("ghcr.io/a@sha512:0123", ImageError::Digest),
        ] {
            assert_eq!(ImageId::parse(text), Err(error), "{text}");
        }
        for name in [
            "",
            "ghcr.io/",
            "ghcr.io/a/../b",
            "u@ghcr.io/a",
            "ghcr.io/a?x",
            "ghcr.io/a#",
            "ghcr.io/A",
            "a.b:1:2/c",
            "x.y/a b",
        ] {
            assert!(ImageId::parse(&format!("{name}@{DIGEST}")).is_err(), "{name}");
        }
        assert_eq!(ImageId::parse(&"a".repeat(2000)), Err(ImageError::TooLong));
    }

    #[test]
    fn signatures_are_beside_the_image() {
        let image = ImageId::parse(&format!("nginx@{DIGEST}")).unwrap();
        assert_eq!(image.tag_beside("sig"), format!("sha256-{}.sig", &DIGEST[7..]));
    }
}
