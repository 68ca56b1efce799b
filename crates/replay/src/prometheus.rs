//! A real Prometheus with the shipped rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Doing, Error};
use crate::pages;
use crate::place::{Place, free_port};
use crate::process::{Launch, Process, wait_until};
use crate::programs::{installed, source};

/// A running Prometheus.
pub(crate) struct Prometheus {
    port: u16,
    process: Process,
}

/// What it scrapes: a job, and the ports of its targets.
pub(crate) type Job<'a> = (&'a str, &'a [u16]);

impl Prometheus {
    /// Starts one that scrapes and evaluates every second. With `hurry`, alerts wait for a sixth of their time.
    pub(crate) async fn start(place: &Place, jobs: &[Job<'_>], hurry: bool) -> Result<Self, Error> {
        let program = installed("prometheus", "prometheus")?;
        let folder = place.folder("prometheus")?;
        let rules = fs::read_to_string(rules_file()).doing("read deploy/prometheus/rules.yaml")?;
        let rules = if hurry { hurried(&rules) } else { rules };
        fs::write(folder.join("rules.yaml"), rules).doing("write rules")?;
        fs::write(folder.join("prometheus.yml"), configuration(jobs)).doing("write a configuration")?;
        let port = free_port()?;
        let flags = [
            format!("--config.file={}", folder.join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--log.level=warn".to_owned(),
        ];
        let process = Launch::new(&program, &folder.join("log")).args(flags).start()?;
        let mut prometheus = Self { port, process };
        wait_until("Prometheus is ready", START, async || {
            if prometheus.process.ended().is_some() {
                return Err(Error::setup("start Prometheus", prometheus.process.tail()));
            }
            let ready = pages::get(port, "/-/ready").await.is_ok_and(|(status, _)| status == 200);
            Ok(ready.then_some(()))
        })
        .await?;
        Ok(prometheus)
    }

    /// The names of the alerts that fire.
    pub(crate) async fn firing(&self) -> Result<BTreeSet<String>, Error> {
        let answer = pages::json(self.port, "/api/v1/alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned())).collect())
    }
}

fn rules_file() -> PathBuf {
    source("deploy/prometheus/rules.yaml")
}

fn configuration(jobs: &[Job<'_>]) -> String {
    let mut text =
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n"
            .to_owned();
    for (job, ports) in jobs {
        let targets: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        text +=
            &format!("  - job_name: {job}\n    static_configs: [{{targets: [{}]}}]\n", targets.join(", "));
    }
    text
}

/// The rules with `for: <n>m` read as ten seconds for each minute. Everything else stays as it is shipped.
fn hurried(rules: &str) -> String {
    let line = |line: &str| {
        let minutes = line.trim().strip_prefix("for: ").and_then(|rest| rest.strip_suffix('m'));
        match minutes.and_then(|minutes| minutes.parse::<u32>().ok()) {
            Some(minutes) => {
                let indent = &line[..line.len() - line.trim_start().len()];
                format!("{indent}for: {}s\n", minutes * 10)
            }
            None => format!("{line}\n"),
        }
    };
    rules.lines().map(line).collect()
}

const START: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_that_alerts_wait_is_shortened() {
        let rules =
            "      - alert: A\n        expr: increase(x[5m]) > 0\n        for: 2m\n        labels: {a: b}\n";
        assert_eq!(hurried(rules), rules.replace("for: 2m", "for: 20s"));
    }

    #[test]
    fn every_alert_that_is_waited_for_is_shipped() {
        let rules = fs::read_to_string(rules_file()).unwrap();
        for name in crate::replays::alerts() {
            assert!(rules.contains(&format!("- alert: {name}\n")), "{name}");
        }
    }
}
