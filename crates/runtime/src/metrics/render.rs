//! The Prometheus text format 0.0.4.

use std::fmt::{Display, Write};

use super::histogram::{self, BUCKETS};
use super::registry::{Families, Family, Labels};
use super::summary::{QUANTILES, Snapshot};

pub(super) fn families(text: &mut String, families: &Families, common: &Labels) {
    for (name, family) in families {
        match family {
            Family::Counters(series) => {
                head(text, name, "counter");
                for (own, counter) in series {
                    line(text, name, &labels(common, own, None), counter.get());
                }
            }
            Family::Gauges(series) => {
                head(text, name, "gauge");
                for (own, gauge) in series {
                    line(text, name, &labels(common, own, None), number(gauge.get()));
                }
            }
            Family::Summaries(series) => {
                head(text, name, "summary");
                for (own, summary) in series {
                    summary_lines(text, name, common, own, &summary.snapshot());
                }
            }
            Family::Histograms(series) => {
                head(text, name, "histogram");
                for (own, histogram) in series {
                    histogram_lines(text, name, (common, own), &histogram.snapshot());
                }
            }
        }
    }
}

/// One gauge that no family holds.
pub(super) fn gauge(text: &mut String, name: &str, common: &Labels, value: f64) {
    head(text, name, "gauge");
    line(text, name, &labels(common, &Labels::new(), None), number(value));
}

fn summary_lines(text: &mut String, name: &str, common: &Labels, own: &Labels, snapshot: &Snapshot) {
    for (at, value) in QUANTILES.iter().zip(snapshot.quantiles) {
        line(text, name, &labels(common, own, Some(("quantile", &at.to_string()))), number(value));
    }
    let plain = labels(common, own, None);
    line(text, &format!("{name}_sum"), &plain, number(snapshot.sum));
    line(text, &format!("{name}_count"), &plain, snapshot.count);
}

fn histogram_lines(
    text: &mut String,
    name: &str,
    (common, own): (&Labels, &Labels),
    snapshot: &histogram::Snapshot,
) {
    let bucket = format!("{name}_bucket");
    for (end, count) in BUCKETS.iter().zip(snapshot.cumulative) {
        line(text, &bucket, &labels(common, own, Some(("le", &end.to_string()))), count);
    }
    line(text, &bucket, &labels(common, own, Some(("le", "+Inf"))), snapshot.count);
    let plain = labels(common, own, None);
    line(text, &format!("{name}_sum"), &plain, number(snapshot.sum));
    line(text, &format!("{name}_count"), &plain, snapshot.count);
}

/// The two comment lines that begin a family. The help repeats the name, as SPIRE's does.
pub(super) fn head(text: &mut String, name: &str, kind: &str) {
    put(text, format_args!("# HELP {name} {name}\n# TYPE {name} {kind}\n"));
}

pub(super) fn line(text: &mut String, name: &str, labels: &str, value: impl Display) {
    put(text, format_args!("{name}{labels} {value}\n"));
}

/// A number as Prometheus reads it.
pub(super) fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

/// `{a="b",…}` sorted by name, or nothing. A series' own label hides a common one of the same name.
fn labels(common: &Labels, own: &Labels, last: Option<(&str, &str)>) -> String {
    let hidden = |name: &str| own.iter().any(|(known, _)| known == name);
    let mut all: Vec<(&str, &str)> = common
        .iter()
        .filter(|(name, _)| !hidden(name))
        .chain(own)
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    all.sort_unstable();
    all.dedup_by_key(|(name, _)| *name);
    all.extend(last);
    if all.is_empty() {
        return String::new();
    }
    let pairs: Vec<_> =
        all.into_iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

/// "`label_value` can be any sequence of UTF-8 characters, but the backslash (`\`), double-quote (`"`), and line
/// feed (`\n`) characters have to be escaped" (Prometheus exposition formats, text format details).
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A metric name in which everything that Prometheus does not allow has become `_`.
pub(super) fn name(raw: &str) -> String {
    letter_first(raw.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect())
}

/// A label name, cleaned like a label value.
pub(super) fn label_name(raw: &str) -> String {
    letter_first(sanitize(raw))
}

fn letter_first(mut name: String) -> String {
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

/// A label value in which each run of characters other than letters, digits and `_`, with one `_` that follows
/// it, has become `_`. For values that a caller controls.
#[must_use]
pub fn sanitize(raw: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut clean = String::with_capacity(raw.len());
    let mut rest = raw.chars().peekable();
    while let Some(c) = rest.next() {
        if word(c) {
            clean.push(c);
            continue;
        }
        while rest.next_if(|c| !word(*c)).is_some() {}
        rest.next_if_eq(&'_');
        clean.push('_');
    }
    clean
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    text.write_fmt(arguments).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn label_values_are_cleaned_as_dashboards_expect() {
        for (raw, clean) in [
            ("example.org", "example_org"),
            ("1.15.3", "1_15_3"),
            ("spiffe://example.org/a", "spiffe_example_org_a"),
            ("a-_b", "a_b"),
            ("a-__b", "a__b"),
            ("ünder", "_nder"),
            ("", ""),
        ] {
            assert_eq!(sanitize(raw), clean);
        }
    }

    #[test]
    fn names_keep_their_letters_and_lose_what_prometheus_refuses() {
        assert_eq!(name("rpc.agent-v1/attest agent=x"), "rpc_agent_v1_attest_agent_x");
        assert_eq!(name("9lives"), "_9lives");
    }

    #[test]
    fn numbers_that_are_not_finite_are_spelled_as_prometheus_does() {
        assert_eq!(
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0, 0.25].map(number),
            ["NaN", "+Inf", "-Inf", "1", "0.25"]
        );
    }

    proptest! {
        #[test]
        fn a_clean_value_holds_only_word_characters_and_stays_as_it_is(raw in ".{0,40}") {
            let clean = sanitize(&raw);
            prop_assert!(clean.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            prop_assert_eq!(&sanitize(&clean), &clean);
        }

        /// No label value, however hostile, ends its line or its quotes.
        #[test]
        fn a_hostile_value_stays_inside_its_quotes(raw in "(?s)[\\\\\"\n{},a]{0,20}") {
            let text = labels(&Vec::new(), &vec![("a".to_owned(), raw.clone())], None);
            prop_assert!(!text.contains('\n'));
            let inner = text.strip_prefix("{a=\"").and_then(|text| text.strip_suffix("\"}")).unwrap();
            let mut back = String::new();
            let mut rest = inner.chars();
            while let Some(c) = rest.next() {
                prop_assert!(c != '"', "the value ended early");
                back.push(match c {
                    '\\' => match rest.next() { Some('n') => '\n', Some(c) => c, None => panic!("half an escape") },
                    c => c,
                });
            }
            prop_assert_eq!(back, raw);
        }
    }
}
