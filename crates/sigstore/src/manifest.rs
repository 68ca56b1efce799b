//! The manifest under which signatures or attestations are stored.

use std::collections::HashMap;

use serde::Deserialize;

/// One signature or attestation, as the manifest lists it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(crate) struct Layer {
    /// `sha256:…` of the payload.
    pub(crate) digest: String,
    /// Bytes of the payload.
    pub(crate) size: u64,
    /// What cosign keeps beside the payload.
    #[serde(default)]
    pub(crate) annotations: HashMap<String, String>,
}

impl Layer {
    /// An annotation that is there and not empty.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }
}

/// The newest layers of a manifest, [`MAX_LAYERS`] at most, in its order, and how many older ones there are. cosign adds
/// at the end.
pub(crate) fn layers(json: &[u8]) -> Result<(Vec<Layer>, usize), ManifestError> {
    let mut manifest: Manifest = serde_json::from_slice(json).map_err(|_| ManifestError::Unreadable)?;
    let older = manifest.layers.len().saturating_sub(MAX_LAYERS);
    Ok((manifest.layers.split_off(older), older))
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

/// Signatures, or attestations, of one image that are looked at. cosign reads 1,000; each can be a request to the
/// registry.
pub(crate) const MAX_LAYERS: usize = 100;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the registry's answer is no image manifest")]
    Unreadable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_signatures_the_newest_are_looked_at() {
        for (listed, first, older) in
            [(0, None, 0), (100, Some(0), 0), (101, Some(1), 1), (5000, Some(4900), 4900)]
        {
            let all: Vec<String> =
                (0..listed).map(|number| format!(r#"{{"digest":"{number}","size":1}}"#)).collect();
            let (layers, left_out) =
                layers(format!(r#"{{"layers":[{}]}}"#, all.join(",")).as_bytes()).unwrap();
            assert_eq!(layers.first().map(|layer| layer.digest.clone()), first.map(|n: usize| n.to_string()));
            assert_eq!((layers.len(), left_out), (listed.min(100), older));
        }
    }
}
