//! Statuses, written in rounds that are short: entries come first.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Entries;
use crate::ledger::Ledger;
use crate::objects::{ClusterSpiffeId, ClusterStaticEntry, Declaring};
use crate::run::Leading;
use crate::run::reports::{Reports, Told};
use crate::status::{flags, of_rule, of_static, stats};

/// Where a round ended: static entries come after rules, and of each those before this name were dealt with.
#[derive(Debug, Default)]
pub(super) struct Place {
    of_statics: bool,
    after: Option<String>,
}

impl Place {
    fn has_passed(&self, of_statics: bool, name: &str) -> bool {
        (self.of_statics && !of_statics)
            || self.of_statics == of_statics && self.after.as_deref().is_some_and(|after| name <= after)
    }

    fn pass(&mut self, of_statics: bool, name: &str) {
        (self.of_statics, self.after) = (of_statics, Some(name.to_owned()));
    }
}

impl Entries {
    /// Writes statuses that differ, at most once per [`REPORT_INTERVAL`], and no longer than [`ROUND`].
    pub(super) async fn report(&mut self) {
        let now = Instant::now();
        let earliest = self.reported_at.map_or(now, |last| last + REPORT_INTERVAL);
        if now < earliest {
            self.report_at = Some(earliest);
            return;
        }
        (self.reported_at, self.report_at) = (Some(now), None);
        let Self { ledger, reports, leading, reported, .. } = self;
        let round = timeout(ROUND, round(ledger, reports, leading, reported)).await;
        self.reports.keep::<ClusterSpiffeId>(|name| self.ledger.has_rule(name));
        self.reports.keep::<ClusterStaticEntry>(|name| self.ledger.has_static(name));
        self.report_at = match round {
            Ok(again) => {
                self.reported = Place::default();
                again
            }
            // The rest is for the next turn.
            Err(_) => Some(now + REPORT_INTERVAL),
        };
    }
}

/// One round from `place` on, and when to try again what could not be written.
async fn round(ledger: &Ledger, reports: &Reports, leading: &Leading, place: &mut Place) -> Option<Instant> {
    let mut again: Option<Instant> = None;
    let mut note = |told| {
        if let Told::Later(at) = told {
            again = Some(again.map_or(at, |again| again.min(at)));
        }
    };
    for (object, tally, error) in ledger.rules() {
        if place.has_passed(false, object.name()) || !leading.is_held() {
            continue;
        }
        let verdict = of_rule(tally, error.map(|error| &**error));
        note(reports.report(&**object, stats(tally), &verdict).await);
        place.pass(false, object.name());
    }
    for (object, standing, error) in ledger.statics() {
        if place.has_passed(true, object.name()) || !leading.is_held() {
            continue;
        }
        let error = error.map(|error| &**error);
        let verdict = of_static(standing, error);
        note(reports.report(&**object, flags(standing, error), &verdict).await);
        place.pass(true, object.name());
    }
    again
}

/// Statuses are written no more often than this.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long one round of statuses may take.
const ROUND: Duration = Duration::from_secs(2);
