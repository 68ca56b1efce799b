//! What was seen from outside.

use std::collections::BTreeSet;

use super::*;
use crate::measure::Bound;
use crate::workload::Event;

/// An agent's page, as far as it says something about servers.
#[derive(Default)]
pub(super) struct Seen {
    /// For each server: score, requests, seconds that they took.
    servers: Vec<Option<Server>>,
    in_use: Option<usize>,
    pub(super) forecast: Option<f64>,
}

#[derive(Clone, Copy)]
struct Server {
    score: f64,
    requests: f64,
    seconds: f64,
    connected_since: f64,
}

/// The course of it.
#[derive(Default)]
pub(super) struct Loss {
    /// Which one slowed down and died.
    which: usize,
    told_slow: Option<Duration>,
    left_slow: Option<Duration>,
    told_dead: Option<Duration>,
    left_dead: Option<Duration>,
    failed: [usize; 2],
    pub(super) fired: BTreeSet<String>,
    pub(super) cleared: Option<Duration>,
    pub(super) recovered: Option<Duration>,
    pub(super) forecast: Option<f64>,
    /// SVIDs that ended unrenewed.
    pub(super) ended: Option<usize>,
    pub(super) survived: bool,
}

impl Seen {
    pub(super) async fn of(agent: &Agent) -> Self {
        let Ok(page) = Series::read(agent.pages).await else { return Self::default() };
        let forecast = page.values("spire_agent_vouchsafe_forecast_unrenewed_svids", &[("within", "24h")]);
        Self { forecast: forecast.first().copied(), ..Self::default() }
    }

    async fn with_servers(fleet: &Fleet, agent: &Agent) -> Self {
        let Ok(page) = Series::read(agent.pages).await else { return Self::default() };
        let of = |name: &str, server: &str| {
            page.values(&format!("spire_agent_vouchsafe_server_{name}"), &[("server", server)])
                .first()
                .copied()
        };
        let labels: Vec<String> = fleet.addresses.iter().map(ToString::to_string).collect();
        let server = |label: &String| {
            Some(Server {
                score: of("score", label)?,
                requests: of("request_seconds_count", label).unwrap_or(0.0),
                seconds: of("request_seconds_sum", label).unwrap_or(0.0),
                connected_since: of("connected_since_seconds", label).unwrap_or(0.0),
            })
        };
        let in_use = labels.iter().position(|label| of("in_use", label) == Some(1.0));
        Self { servers: labels.iter().map(server).collect(), in_use, forecast: None }
    }

    fn server(&self, number: usize) -> Option<Server> {
        *self.servers.get(number)?
    }

    /// There is no connection to `which`, and its score is far below that of the best.
    fn tells_dead(&self, which: usize) -> bool {
        let best = self.servers.iter().flatten().map(|server| server.score).fold(0.0, f64::max);
        self.server(which).is_some_and(|server| server.connected_since == 0.0 && server.score < best * DEAD)
    }

    /// The score of `which` is the lowest by far, or its requests have taken the longest by far since `before`.
    fn tells(&self, which: usize, before: &Self) -> bool {
        let others = |of: &dyn Fn(usize) -> Option<f64>| {
            (0..SERVERS).filter(|&number| number != which).filter_map(of).collect::<Vec<_>>()
        };
        let score = |number: usize| Some(self.server(number)?.score);
        let mean = |number: usize| {
            let (now, then) = (self.server(number)?, before.server(number)?);
            Some((now.seconds - then.seconds) / (now.requests - then.requests))
                .filter(|mean| mean.is_finite())
        };
        let lowest = score(which).is_some_and(|score_of_it| {
            let others = others(&score);
            !others.is_empty() && others.iter().all(|other| score_of_it < other * CLEARLY_LESS)
        });
        // The others may not have been asked since.
        let slowest = mean(which).is_some_and(|mean_of_it| {
            mean_of_it > SLOW_SECS && others(&mean).iter().all(|other| *other < mean_of_it / 3.0)
        });
        lowest || slowest
    }
}

impl Loss {
    /// The server in use slows down.
    pub(super) async fn slow(
        &mut self,
        scene: &Scene<'_>,
        (fleet, agent): (&Fleet, &Agent),
        patience: Duration,
    ) -> Result<(), Error> {
        let before = Seen::with_servers(fleet, agent).await;
        self.which = before.in_use.unwrap_or(0);
        let who = fleet.addresses[self.which];
        scene.step(format!("{who} slows down by {} ms for each packet", SLOWER.as_millis()));
        fleet.proxies[self.which].set_per_chunk(SLOWER);
        let began = Instant::now();
        while began.elapsed() < patience && (self.told_slow.is_none() || self.left_slow.is_none()) {
            let seen = Seen::with_servers(fleet, agent).await;
            if self.told_slow.is_none() && seen.tells(self.which, &before) {
                self.told_slow = Some(began.elapsed());
                scene.step("the agent's metrics tell which server is slow");
            }
            if self.left_slow.is_none() && seen.in_use.is_some_and(|in_use| in_use != self.which) {
                self.left_slow = Some(began.elapsed());
                scene.step("the agent has moved to another server");
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// The same server dies.
    pub(super) async fn dies(
        &mut self,
        scene: &Scene<'_>,
        fleet: &mut Fleet,
        agent: &Agent,
    ) -> Result<(), Error> {
        scene.step(format!("{} dies", fleet.addresses[self.which]));
        fleet.kill(self.which);
        let began = Instant::now();
        while began.elapsed() < DEATH && (self.told_dead.is_none() || self.left_dead.is_none()) {
            let seen = Seen::with_servers(fleet, agent).await;
            if self.told_dead.is_none() && seen.tells_dead(self.which) {
                self.told_dead = Some(began.elapsed());
            }
            let connected = |number| seen.server(number).is_some_and(|server| server.connected_since > 0.0);
            let moved = seen.in_use.filter(|&in_use| in_use != self.which);
            if self.left_dead.is_none() && moved.is_some_and(connected) {
                self.left_dead = Some(began.elapsed());
            }
            sleep(LOOK).await;
        }
        // Requests go on for a while with two servers.
        sleep(AFTER_DEATH).await;
        Ok(())
    }

    /// What failed while at least two servers were there.
    pub(super) fn failed_while_some(&mut self, events: &[Event]) {
        let failed = |ask| events.iter().filter(|event| event.ask == ask && event.error.is_some()).count();
        self.failed = [failed(Ask::X509), failed(Ask::NewJwt)];
    }

    pub(super) fn figures(&self, scene: &Scene<'_>, alerts: &[&str]) -> Vec<Measured> {
        let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
        let within =
            |key, what, time, most| Measured::told(key, what, "s", seconds(time)).bound(Bound::AtMost(most));
        let missing: Vec<&&str> = alerts.iter().filter(|alert| !self.fired.contains(**alert)).collect();
        if !missing.is_empty() {
            scene.step(format!("alerts that did not fire: {missing:?}; that fired: {:?}", self.fired));
        }
        let error = match (self.forecast, self.ended) {
            (Some(forecast), Some(ended)) => (forecast - ended as f64).abs() / ended as f64 * 100.0,
            _ => f64::NAN,
        };
        let mut left_slow =
            Measured::told("left_slow_s", "until it is left for another", "s", seconds(self.left_slow));
        if !scene.quick {
            left_slow = left_slow.bound(Bound::AtMost(150.0));
        }
        vec![
            within("told_slow_s", "until metrics tell the server that is slow", self.told_slow, 60.0),
            left_slow,
            within("told_dead_s", "until metrics tell that it is dead", self.told_dead, 10.0),
            within("left_dead_s", "until the agent is with another server", self.left_dead, 10.0),
            Measured::never("x509_failed", "X.509-SVIDs: failed fetches until then", self.failed[0]),
            Measured::never("new_jwt_failed", "new JWT-SVIDs: failed fetches until then", self.failed[1]),
            Measured::never(
                "not_fired",
                format!("of {} alerts, not fired while all were away", alerts.len()),
                missing.len(),
            ),
            within("cleared_s", "from the return until all of them cleared", self.cleared, 180.0),
            Measured::told(
                "forecast",
                "SVIDs that were forecast to end unrenewed",
                "",
                self.forecast.unwrap_or(f64::NAN),
            ),
            Measured::told("ended", "SVIDs that did", "", self.ended.map_or(f64::NAN, |ended| ended as f64)),
            Measured::told("forecast_error", "error of the forecast", "%", error).bound(Bound::AtMost(5.0)),
            Measured::must("survived", "the agent stays up without servers", self.survived),
            within("recovered_s", "from the return until all SVIDs are renewed", self.recovered, 60.0),
        ]
    }
}

/// What the slow server's packets wait, in both directions.
const SLOWER: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(500);
const DEATH: Duration = Duration::from_secs(30);
const AFTER_DEATH: Duration = Duration::from_secs(6);
/// Of another's score.
const CLEARLY_LESS: f64 = 0.8;
const DEAD: f64 = 0.6;
const SLOW_SECS: f64 = 0.2;
