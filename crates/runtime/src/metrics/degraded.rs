//! What readiness says, as gauges: `vouchsafe_degraded{capability}` and `vouchsafe_degraded_since_seconds{capability}`.

use std::time::{Duration, SystemTime};

use super::Registry;
use crate::readiness::{Readiness, State};

impl Registry {
    /// Shows which parts of `readiness` lack something, and since when. The parts are a fixed few.
    pub fn show_degraded(&self, readiness: &Readiness) {
        let readiness = readiness.clone();
        self.before_render("readiness", move |registry| {
            for part in readiness.report().parts {
                let degraded = matches!(part.state, State::Degraded | State::Failed);
                let since = part.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let since = if degraded { since } else { Duration::ZERO };
                let labels = [("capability", part.name)];
                registry.gauge("vouchsafe_degraded", &labels).set(f64::from(u8::from(degraded)));
                // Whole seconds, like every point in time here.
                registry.gauge("vouchsafe_degraded_since_seconds", &labels).set(since.as_secs() as f64);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn a_part_is_degraded_from_when_it_lacks_something_until_it_does_not() {
        let readiness = Readiness::new(Clock::derived(SystemTime::UNIX_EPOCH));
        let registry = Registry::new("p", &[]);
        registry.show_degraded(&readiness);
        let (store, _pending) = (readiness.token("catalog.datastore"), readiness.token("server.ca"));
        store.mark();
        let values = || {
            let text = registry.render();
            let of = |name: &str| {
                let line = format!("p_vouchsafe_{name}{{capability=\"catalog.datastore\"}} ");
                text.lines().find_map(|text| text.strip_prefix(&line)).map(str::to_owned).unwrap()
            };
            assert!(text.contains("p_vouchsafe_degraded{capability=\"server.ca\"} 0\n"), "{text}");
            (of("degraded"), of("degraded_since_seconds"))
        };
        assert_eq!(values(), ("0".to_owned(), "0".to_owned()));
        tokio::time::advance(Duration::from_secs(70)).await;
        store.degrade("database away");
        assert_eq!(values(), ("1".to_owned(), "70".to_owned()));
        store.mark();
        assert_eq!(values(), ("0".to_owned(), "0".to_owned()));
    }
}
