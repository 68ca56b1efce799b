//! Who has signed the image of a container: selectors by [`vouchsafe_sigstore`], for attestors that know the image.

use std::sync::Arc;

use vouchsafe_identity::web::WebRoots;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_runtime::supervisor::Supervisor;
use vouchsafe_sigstore::{Deps, SigstoreError, Trust, TrustError, Verifier};
pub use vouchsafe_sigstore::{RegistryLogin, Settings, SettingsError, TrustFiles};
use vouchsafe_types::selector::Selector;

use super::image_registry::RegistryWeb;

/// What image signatures are verified by.
#[derive(Clone, Debug)]
pub struct ImageSignaturesConfig {
    /// The block of the configuration.
    pub settings: Settings,
    /// Where roots come from instead of what is built in. [`Settings::trusted_root`] counts before its own.
    pub roots: TrustFiles,
    /// Who may vouch for registries.
    pub registries: WebRoots,
}

/// Verifies signatures, in a task of its own.
#[derive(Clone)]
pub struct ImageSignatures(Verifier);

impl std::fmt::Debug for ImageSignatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ImageSignatures")
    }
}

/// Why image signatures cannot be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageSignaturesError {
    /// The settings.
    #[error("sigstore: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings(Vec<SettingsError>),
    /// The roots.
    #[error("sigstore")]
    Trust(#[source] TrustError),
}

impl ImageSignatures {
    /// Reads the roots, and starts the task in `supervisor`.
    ///
    /// # Errors
    ///
    /// [`ImageSignaturesError`]: what an operator must put right.
    pub fn start(
        config: &ImageSignaturesConfig,
        clock: &Clock,
        supervisor: &mut Supervisor,
    ) -> Result<Self, ImageSignaturesError> {
        let mut roots = config.roots.clone();
        roots.trusted_root = config.settings.trusted_root.clone().or(roots.trusted_root);
        let web = RegistryWeb { roots: config.registries.clone(), clock: clock.clone() };
        let trust = Trust::load(&roots).map_err(ImageSignaturesError::Trust)?;
        let checked = config.settings.clone().check().map_err(ImageSignaturesError::Settings)?;
        let deps = Deps { trust, clock: clock.clone(), web: Arc::new(web) };
        let (verifier, worker) = Verifier::new(checked, deps).map_err(ImageSignaturesError::Trust)?;
        supervisor.start("agent-image-signatures", |cancel| async move {
            worker.run(cancel).await;
            Ok::<_, std::convert::Infallible>(())
        });
        Ok(Self(verifier))
    }

    /// What is said of the image `image_id`, as selectors of `kind`. What is too long for a selector can be in no entry
    /// and is left out.
    ///
    /// # Errors
    ///
    /// [`SigstoreError`]: then nothing may be said of the container at all, as in SPIRE.
    pub async fn selectors(&self, kind: &str, image_id: &str) -> Result<Vec<Selector>, Arc<SigstoreError>> {
        let values = self.0.selectors(image_id).await?;
        Ok(values.iter().filter_map(|value| Selector::new(kind, value).ok()).collect())
    }
}

#[cfg(test)]
mod tests;
