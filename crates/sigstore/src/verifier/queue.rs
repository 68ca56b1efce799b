//! Which look is next. Pure: time is a parameter.
//!
//! Policy: a slow registry costs its own images their answer, and nobody else's. [`PER_REGISTRY`] of the [`AT_ONCE`]
//! looks are at the same registry; behind them others overtake. Who took too long once is left alone for [`FIRST_PAUSE`],
//! then looked at by one look at a time, and left alone for twice as long each time until a look ends in time. That
//! counts for an owner, the first folder of the repository (`ghcr.io/acme`), and not for the registry: else one image
//! with endless attestations at a public registry would pause everybody's images there.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::image::ImageId;

/// Looks that wait, and where looks are going on.
pub(super) struct Queue<T> {
    waiting: VecDeque<(ImageId, T)>,
    running: Vec<ImageId>,
    slow: HashMap<Owner, Slow>,
}

type Owner = (String, String);

#[derive(Clone, Copy)]
struct Slow {
    times: u32,
    until: Instant,
}

/// What to do now.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next<T> {
    /// Look, and tell [`Queue::ended`].
    Look(ImageId, T),
    /// Do not: it is tried again after this time at the earliest.
    Refuse(T, Duration),
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), running: Vec::new(), slow: HashMap::new() }
    }

    pub(super) fn push(&mut self, image: ImageId, item: T) {
        self.waiting.push_back((image, item));
    }

    /// The first that waits and need not; nothing until [`Self::push`] or [`Self::ended`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Next<T>> {
        let at = self
            .waiting
            .iter()
            .position(|(image, _)| self.pause(now, image).is_some() || self.may_run(image))?;
        let (image, item) = self.waiting.remove(at)?;
        if let Some(pause) = self.pause(now, &image) {
            return Some(Next::Refuse(item, pause));
        }
        self.running.push(image.clone());
        Some(Next::Look(image, item))
    }

    /// A look at `image` has ended.
    pub(super) fn ended(&mut self, now: Instant, image: &ImageId, in_time: bool) {
        if let Some(at) = self.running.iter().position(|running| running == image) {
            self.running.swap_remove(at);
        }
        let owner = owner(image);
        if in_time {
            self.slow.remove(&owner);
            return;
        }
        let times = match self.slow.get(&owner) {
            // Another look that began before the pause.
            Some(slow) if now < slow.until => return,
            Some(slow) => slow.times.saturating_add(1),
            None => 0,
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(MAX_PAUSE);
        self.slow.insert(owner, Slow { times, until: now + pause });
        if self.slow.len() > MAX_SLOW
            && let Some(oldest) = self.slow.iter().min_by_key(|(_, slow)| slow.until)
        {
            let oldest = oldest.0.clone();
            self.slow.remove(&oldest);
        }
    }

    fn pause(&self, now: Instant, image: &ImageId) -> Option<Duration> {
        let slow = self.slow.get(&owner(image))?;
        (now < slow.until).then(|| slow.until - now)
    }

    fn may_run(&self, image: &ImageId) -> bool {
        let own = owner(image);
        let at_registry =
            self.running.iter().filter(|running| running.registry() == image.registry()).count();
        self.running.len() < AT_ONCE
            && at_registry < PER_REGISTRY
            && !(self.slow.contains_key(&own) && self.running.iter().any(|running| owner(running) == own))
    }
}

fn owner(image: &ImageId) -> Owner {
    let folder = image.repository().split('/').next().unwrap_or_default();
    (image.registry().to_owned(), folder.to_owned())
}

/// Images that are looked at at the same time. Each holds one manifest, one payload and the small ones.
const AT_ONCE: usize = 4;
/// Of these at one registry.
const PER_REGISTRY: usize = 2;
/// For so long an owner is left alone after the first look that took too long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// Where doubling ends.
const MAX_PAUSE: Duration = Duration::from_secs(16 * 60);
/// Owners that are left alone. Beyond, the one whose pause ends first is forgotten.
const MAX_SLOW: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> ImageId {
        ImageId::parse(&format!("{name}@sha256:{}", "0".repeat(64))).unwrap()
    }

    fn started(queue: &mut Queue<&'static str>, now: Instant) -> Vec<&'static str> {
        std::iter::from_fn(|| match queue.next(now) {
            Some(Next::Look(_, name)) => Some(name),
            Some(Next::Refuse(name, _)) => panic!("{name} is refused"),
            None => None,
        })
        .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn others_overtake_a_registry_that_has_its_share() {
        let (mut queue, now) = (Queue::new(), Instant::now());
        for name in ["a.io/1/x", "a.io/2/x", "a.io/3/x", "b.io/1/x", "c.io/1/x", "d.io/1/x"] {
            queue.push(image(name), name);
        }
        assert_eq!(started(&mut queue, now), ["a.io/1/x", "a.io/2/x", "b.io/1/x", "c.io/1/x"]);
        queue.ended(now, &image("b.io/1/x"), true);
        assert_eq!(started(&mut queue, now), ["d.io/1/x"]);
        queue.ended(now, &image("a.io/2/x"), true);
        assert_eq!(started(&mut queue, now), ["a.io/3/x"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_took_too_long_pauses_twice_as_long_each_time_and_alone() {
        let (mut queue, mut now) = (Queue::new(), Instant::now());
        for seconds in [60, 120, 240, 480, 960, 960] {
            queue.push(image("a.io/slow/1"), "1");
            queue.push(image("a.io/slow/2"), "2");
            let looks = started(&mut queue, now);
            assert_eq!(
                looks.len(),
                if seconds == 60 { 2 } else { 1 },
                "one look to see whether it is better"
            );
            for look in &looks {
                queue.ended(now, &image(&format!("a.io/slow/{look}")), false);
            }
            let pause = Duration::from_secs(seconds);
            while !queue.waiting.is_empty() {
                assert_eq!(queue.next(now), Some(Next::Refuse("2", pause)));
            }
            queue.push(image("a.io/slow/1"), "again");
            assert_eq!(queue.next(now), Some(Next::Refuse("again", pause)));
            queue.push(image("a.io/other/1"), "other");
            assert_eq!(started(&mut queue, now), ["other"], "its neighbours go on");
            queue.ended(now, &image("a.io/other/1"), true);
            now += pause;
        }
        queue.push(image("a.io/slow/1"), "1");
        assert_eq!(started(&mut queue, now), ["1"]);
        queue.ended(now, &image("a.io/slow/1"), true);
        assert!(queue.slow.is_empty() && queue.running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_slow_owners_is_bounded() {
        let (mut queue, now) = (Queue::<()>::new(), Instant::now());
        for number in 0..1000 {
            queue.ended(now, &image(&format!("a.io/{number}/x")), false);
        }
        assert_eq!(queue.slow.len(), MAX_SLOW);
    }
}
