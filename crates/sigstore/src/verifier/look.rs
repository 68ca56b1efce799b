//! One look at what is beside an image in its registry.

use std::sync::Arc;

use vouchsafe_runtime::blocking;

use super::{Deps, Refusals, Shared, SigstoreError};
use crate::excerpt::excerpt;
use crate::image::ImageId;
use crate::registry::{Beside, RegistryError, Session};
use crate::verify::{self, Context, Verified};

impl Shared {
    /// The selectors of `image`.
    pub(super) async fn look(self: &Arc<Self>, image: &ImageId) -> Result<Vec<String>, SigstoreError> {
        let mut session = Session::new(&*self.deps.web, image, self.config.logins.get(image.registry()));
        let away = |source: RegistryError| SigstoreError::Registry {
            image: image.to_string(),
            class: source.class(),
            problem: excerpt(source),
        };
        let (signatures, refusals) = self.signatures(&mut session, image).await.map_err(away)?;
        if signatures.is_empty() {
            let image = image.to_string();
            return Err(match refusals {
                refusals if refusals.is_empty() => SigstoreError::Unsigned { image },
                refusals => SigstoreError::NotVerified { image, refusals },
            });
        }
        let mut selectors = vec![SIGNATURE_VERIFIED.to_owned()];
        if self.config.attestations {
            if let Some(refusals) = self.attested(&mut session, image).await.map_err(away)? {
                return Err(SigstoreError::NotAttested { image: image.to_string(), refusals });
            }
            selectors.push(ATTESTATIONS_VERIFIED.to_owned());
        }
        selectors.extend(signatures.iter().flat_map(Verified::selectors));
        Ok(selectors)
    }

    /// All signatures that count, and why the others do not.
    async fn signatures(
        &self,
        session: &mut Session<'_>,
        image: &ImageId,
    ) -> Result<(Vec<Verified>, Refusals), RegistryError> {
        let (mut verified, mut refusals) = (Vec::new(), Refusals::default());
        for layer in session.layers(image, Beside::Signatures).await? {
            let payload = match session.payload(image, Beside::Signatures, &layer).await {
                Ok(payload) => payload,
                Err(error) => {
                    refusals.add_or_fail(error)?;
                    continue;
                }
            };
            match verify::signature(&layer, &payload, self.context(image)) {
                Ok(signature) => verified.push(signature),
                Err(refusal) => refusals.add(&refusal),
            }
            tokio::task::yield_now().await;
        }
        Ok((verified, refusals))
    }

    /// `None` when one attestation counts, else why none does.
    async fn attested(
        self: &Arc<Self>,
        session: &mut Session<'_>,
        image: &ImageId,
    ) -> Result<Option<Refusals>, RegistryError> {
        let mut refusals = Refusals::default();
        for layer in session.layers(image, Beside::Attestations).await? {
            let payload = match session.payload(image, Beside::Attestations, &layer).await {
                Ok(payload) => payload,
                Err(error) => {
                    refusals.add_or_fail(error)?;
                    continue;
                }
            };
            let (shared, about) = (Arc::clone(self), image.clone());
            // Megabytes of JSON.
            let verified = blocking::run(move || {
                verify::attestation(&layer, &payload, shared.context(&about))
                    .map_err(|refusal| refusal.to_string())
            });
            match verified.await {
                Ok(Ok(())) => return Ok(None),
                Ok(Err(refusal)) => refusals.add(refusal),
                Err(_) => refusals.add("the look at it failed"),
            }
        }
        Ok(Some(refusals))
    }

    fn context<'a>(&'a self, image: &'a ImageId) -> Context<'a> {
        let Deps { trust, clock, .. } = &self.deps;
        Context { digest: image.digest(), policy: &self.config.policy, trust, now: clock.unix_now() }
    }
}

const SIGNATURE_VERIFIED: &str = "image-signature:verified";
const ATTESTATIONS_VERIFIED: &str = "image-attestations:verified";
