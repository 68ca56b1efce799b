//! Pages over HTTP: metrics, health, and Prometheus' answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use vouchsafe_transport::fetch::{Bounds, Target, fetch};

use crate::error::Error;

/// The lines of a metrics page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(Vec<(String, f64)>);

impl Series {
    /// The page that a part serves at `port`.
    pub(crate) async fn read(port: u16) -> Result<Self, Error> {
        let page = get(port, "/metrics").await?;
        Ok(Self::parse(&page.1))
    }

    /// `name{labels} value` on each line that is no comment.
    fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            // Labels may have spaces in them; after them comes the value, perhaps a time.
            let end = line.rfind('}').map_or_else(|| line.find(' '), |brace| Some(brace + 1))?;
            let value = line[end..].split_whitespace().next()?.parse().ok()?;
            Some((line[..end].to_owned(), value))
        });
        Self(series.collect())
    }

    /// The values of the series whose name is `name` and which have all of `labels`.
    pub(crate) fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let has = |series: &str| {
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let mut labels = labels.iter();
            found == name && labels.all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        self.0.iter().filter(|(series, _)| has(series)).map(|(_, value)| *value).collect()
    }

    /// Sums of the series whose name `as_named` gives a name to, by that name.
    pub(crate) fn sums(&self, as_named: impl Fn(&str) -> Option<String>) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (series, value) in &self.0 {
            if let Some(name) = as_named(series.split('{').next().unwrap_or(series)) {
                *sums.entry(name).or_insert(0.0) += value;
            }
        }
        sums
    }
}

/// Whether the health page at `port` says that the part is ready.
pub(crate) async fn ready(port: u16) -> bool {
    get(port, "/ready").await.is_ok_and(|(status, _)| status == 200)
}

/// The answer to a question in JSON.
pub(crate) async fn json(port: u16, resource: &str) -> Result<Value, Error> {
    let (_, body) = get(port, resource).await?;
    serde_json::from_str(&body).map_err(|error| Error::broken(format!("{resource}: {error}")))
}

/// Status and body of any page.
pub(crate) async fn get(port: u16, resource: &str) -> Result<(u16, String), Error> {
    let url = format!("http://127.0.0.1:{port}{resource}");
    let broken = |error: &dyn std::fmt::Display| Error::broken(format!("{url}: {error}"));
    let target = Target::plain(&url).map_err(|error| broken(&error))?;
    let answer = fetch(&target, BOUNDS).await.map_err(|error| broken(&error))?;
    Ok((answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned()))
}

const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(5), body: 16 * 1024 * 1024 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_found_by_name_and_labels() {
        let page = "# HELP a a\na{x=\"1 2\",y=\"}\"} 3\na{x=\"2\"} 4.5 1700000000\nab 7\nnan NaN\n";
        let series = Series::parse(page);
        assert_eq!(series.values("a", &[("x", "2")]), [4.5]);
        assert_eq!(series.values("a", &[("x", "1 2"), ("y", "}")]), [3.0]);
        assert_eq!(series.values("a", &[]).len(), 2);
        assert_eq!(series.values("ab", &[]), [7.0]);
        let sums = series.sums(|name| name.strip_prefix('a').map(str::to_owned));
        assert_eq!(sums.into_iter().collect::<Vec<_>>(), [(String::new(), 7.5), ("b".to_owned(), 7.0)]);
    }
}
