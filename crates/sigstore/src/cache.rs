//! What is known of images. Pure: time is a parameter.
//!
//! What was verified once stays true: the digest, what was signed and the time of signing do not change. So an error
//! never replaces a verified result, and a verified result that is older than [`REFRESH`] is given at once and looked at
//! again, because there may be more signatures by now. Errors are kept for a short time, so that a process that asks
//! again and again is no load for the registry.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_runtime::class::Class;

use crate::verifier::SigstoreError;

/// The selectors of an image, or why there are none.
pub(crate) type Outcome = Result<Arc<[String]>, Arc<SigstoreError>>;

/// Outcomes by image ID. Above [`MAX_BYTES`] what was not asked for the longest goes.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    held: HashMap<String, Held>,
    bytes: usize,
    looks: u64,
}

#[derive(Debug)]
struct Held {
    outcome: Outcome,
    /// When it is to be looked at again.
    due: Instant,
    /// Number of the last look.
    looked: u64,
    bytes: usize,
}

/// What the cache says.
#[derive(Debug)]
pub(crate) enum Look {
    /// This is it.
    Fresh(Outcome),
    /// This is it for now.
    Refresh(Outcome),
    /// Nothing is known.
    Unknown,
}

impl Cache {
    pub(crate) fn look(&mut self, now: Instant, image_id: &str) -> Look {
        self.looks += 1;
        let Some(held) = self.held.get_mut(image_id) else { return Look::Unknown };
        held.looked = self.looks;
        match (&held.outcome, now < held.due) {
            (outcome, true) => Look::Fresh(outcome.clone()),
            (outcome @ Ok(_), false) => Look::Refresh(outcome.clone()),
            (Err(_), false) => Look::Unknown,
        }
    }

    pub(crate) fn put(&mut self, now: Instant, image_id: &str, outcome: Outcome) {
        let kept = match &outcome {
            Ok(_) => REFRESH,
            Err(error) if error.class() == Class::Transient => TRANSIENT,
            Err(_) => REFUSED,
        };
        if let (Err(_), Some(held)) = (&outcome, self.held.get_mut(image_id))
            && held.outcome.is_ok()
        {
            held.due = now + kept;
            return;
        }
        let weight = match &outcome {
            Ok(selectors) => selectors.iter().map(|text| OVERHEAD + text.len()).sum::<usize>(),
            Err(error) => OVERHEAD + error.to_string().len(),
        };
        let bytes = OVERHEAD + image_id.len() + weight;
        let held = Held { outcome, due: now + kept, looked: self.looks, bytes };
        self.bytes += bytes;
        if let Some(before) = self.held.insert(image_id.to_owned(), held) {
            self.bytes -= before.bytes;
        }
        while self.bytes > MAX_BYTES {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.looked);
            let Some(oldest) = oldest.map(|(image_id, _)| image_id.clone()) else { return };
            self.bytes -= self.held.remove(&oldest).map_or(0, |held| held.bytes);
        }
    }
}

/// For so long a verified result is not looked at again.
const REFRESH: Duration = Duration::from_secs(3600);
/// For so long an image is refused without looking again.
const REFUSED: Duration = Duration::from_secs(60);
/// For so long a registry that is away is not asked again about an image.
const TRANSIENT: Duration = Duration::from_secs(5);

/// Bytes of all results: more than a thousand images.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that an entry or text costs besides its characters.
const OVERHEAD: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(text: &str) -> Outcome {
        Ok(Arc::from([text.to_owned()]))
    }

    fn failed(error: SigstoreError) -> Outcome {
        Err(Arc::new(error))
    }

    #[tokio::test(start_paused = true)]
    async fn a_verified_image_is_never_forgotten_for_an_error() {
        let mut cache = Cache::default();
        let start = Instant::now();
        cache.put(start, "image", verified("one"));
        assert!(matches!(cache.look(start + REFRESH / 2, "image"), Look::Fresh(Ok(_))));
        assert!(matches!(cache.look(start + REFRESH, "image"), Look::Refresh(Ok(_))));
        for error in [SigstoreError::Busy, SigstoreError::Unsigned { image: "image".to_owned() }] {
            cache.put(start + REFRESH, "image", failed(error));
            assert!(matches!(cache.look(start + REFRESH + TRANSIENT / 2, "image"), Look::Fresh(Ok(_))));
            assert!(matches!(cache.look(start + REFRESH + REFUSED, "image"), Look::Refresh(Ok(_))));
        }
        cache.put(start + REFRESH * 2, "image", verified("two"));
        let Look::Fresh(Ok(selectors)) = cache.look(start + REFRESH * 2, "image") else { panic!() };
        assert_eq!(*selectors, ["two"]);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_kept_for_as_long_as_a_retry_makes_no_sense() {
        let mut cache = Cache::default();
        let start = Instant::now();
        for (error, kept) in [
            (SigstoreError::Busy, TRANSIENT),
            (SigstoreError::Unsigned { image: "image".to_owned() }, REFUSED),
        ] {
            cache.put(start, "image", failed(error));
            assert!(matches!(
                cache.look(start + kept - Duration::from_millis(1), "image"),
                Look::Fresh(Err(_))
            ));
            assert!(matches!(cache.look(start + kept, "image"), Look::Unknown));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_asked_for_goes_first_and_the_size_is_bounded() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let large = "x".repeat(100_000);
        cache.put(now, "used", verified(&large));
        for number in 0..100 {
            cache.look(now, "used");
            cache.put(now, &number.to_string(), verified(&large));
            assert!(cache.bytes <= MAX_BYTES);
        }
        let before = cache.bytes;
        cache.put(now, "refused", failed(SigstoreError::Unsigned { image: "i".repeat(10_000) }));
        assert!(cache.bytes > before + 10_000);
        assert!(matches!(cache.look(now, "used"), Look::Fresh(_)));
        assert!(matches!(cache.look(now, "1"), Look::Unknown));
        assert_eq!(cache.bytes, cache.held.values().map(|held| held.bytes).sum::<usize>());
    }
}
