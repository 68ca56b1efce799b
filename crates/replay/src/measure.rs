//! Figures and their bounds.

use crate::workload::Event;

/// One figure of one run.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Its name in the last line and in JSON.
    pub(crate) key: &'static str,
    /// What it is, for people.
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// `None`: it could not be had.
    pub(crate) value: Option<f64>,
    /// Without one it is only told.
    pub(crate) bound: Option<Bound>,
}

/// What a figure must keep to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Measured {
    /// A figure without bound.
    pub(crate) fn told(key: &'static str, what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            key,
            what: what.into(),
            unit,
            value: Some(value).filter(|value| value.is_finite()),
            bound: None,
        }
    }

    pub(crate) fn bound(mut self, bound: Bound) -> Self {
        self.bound = Some(bound);
        self
    }

    /// Something that must be so: 1 or 0.
    pub(crate) fn must(key: &'static str, what: impl Into<String>, is: bool) -> Self {
        Self::told(key, what, "yes/no", f64::from(u8::from(is))).bound(Bound::AtLeast(1.0))
    }

    /// Something that must never have happened.
    pub(crate) fn never(key: &'static str, what: impl Into<String>, times: usize) -> Self {
        Self::told(key, what, "", times as f64).bound(Bound::AtMost(0.0))
    }

    /// What could not be measured has missed its bound.
    pub(crate) fn is_met(&self) -> bool {
        match (self.bound, self.value) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(Bound::AtMost(most)), Some(value)) => value <= most,
            (Some(Bound::AtLeast(least)), Some(value)) => value >= least,
        }
    }
}

/// The figures of some requests.
pub(crate) struct Requests {
    pub(crate) count: usize,
    pub(crate) failed: usize,
    /// Of those that were answered, sorted, in milliseconds.
    millis: Vec<f64>,
    /// The error seen most.
    pub(crate) error: Option<String>,
}

impl Requests {
    pub(crate) fn of<'a>(events: impl Iterator<Item = &'a Event>) -> Self {
        let (mut millis, mut errors) = (Vec::new(), std::collections::BTreeMap::new());
        for event in events {
            match &event.error {
                None => millis.push(event.took as f64 / 1e3),
                Some(error) => *errors.entry(error.clone()).or_insert(0) += 1,
            }
        }
        millis.sort_by(f64::total_cmp);
        let failed = errors.values().sum();
        let error = errors.into_iter().max_by_key(|(_, times)| *times).map(|(error, _)| error);
        Self { count: millis.len() + failed, failed, millis, error }
    }

    /// Of those that were answered; not a number when none was.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        quantile(&self.millis, part)
    }
}

/// Of sorted values: the smallest that at least this part of them does not exceed.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.max(1) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_could_not_be_had_misses_its_bound() {
        assert!(!Measured::told("k", "w", "ms", f64::NAN).bound(Bound::AtMost(5.0)).is_met());
        assert!(Measured::told("k", "w", "ms", f64::NAN).is_met());
        assert!(Measured::told("k", "w", "ms", 5.0).bound(Bound::AtMost(5.0)).is_met());
        assert!(!Measured::told("k", "w", "ms", 5.1).bound(Bound::AtMost(5.0)).is_met());
        assert!(!Measured::must("k", "w", false).is_met());
        assert!(!Measured::never("k", "w", 1).is_met());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        for (part, value) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)] {
            assert!((quantile(&values, part) - value).abs() < 1e-9, "{part}");
        }
        assert!(quantile(&[], 0.5).is_nan());
    }
}
