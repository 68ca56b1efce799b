//! What is known of each file, as a page: spiffe-helper's answer, with how long the identities last.
//!
//! *Live* while no write has failed. *Ready* once everything was written and while nothing that was written has ended.

use std::collections::BTreeMap;

use http::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use vouchsafe_runtime::clock::Clock;
use vouchsafe_transport::pages::{JSON, Page, Site, TEXT, page};

use super::render::Validity;

/// What is known of all files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The X.509-SVID with its key and bundle.
    pub x509: Option<Kept>,
    /// The files of JWT-SVIDs and JWT bundles, by path.
    pub jwt: BTreeMap<String, Kept>,
}

/// What is known of what belongs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Whether it is on disk.
    pub state: State,
    /// When what is on disk is valid.
    pub validity: Option<Validity>,
}

/// Whether it is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    #[default]
    Unwritten,
    /// The last write failed.
    Failed,
    /// The last write succeeded.
    Written,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unwritten => "unwritten",
            Self::Failed => "failed",
            Self::Written => "written",
        }
    }
}

impl Report {
    fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.x509.iter().chain(self.jwt.values())
    }

    /// No write has failed.
    #[must_use]
    pub fn live(&self) -> bool {
        self.kept().all(|kept| kept.state != State::Failed)
    }

    /// Everything is there and valid at `now`.
    #[must_use]
    pub fn ready(&self, now: i64) -> bool {
        self.kept().all(|kept| {
            kept.state == State::Written && kept.validity.is_none_or(|validity| validity.until >= now)
        })
    }
}

/// The pages for liveness and readiness.
#[derive(Clone, Debug)]
pub struct HealthSite {
    report: watch::Receiver<Report>,
    clock: Clock,
    live_path: String,
    ready_path: String,
}

impl HealthSite {
    /// Over `report`.
    #[must_use]
    pub fn new(report: watch::Receiver<Report>, clock: Clock, live_path: String, ready_path: String) -> Self {
        Self { report, clock, live_path, ready_path }
    }
}

impl Site for HealthSite {
    fn answer(&self, request: &Request<()>) -> Page {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
        }
        let (report, now) = (self.report.borrow().clone(), self.clock.unix_now());
        let path = request.uri().path();
        let good = match path {
            path if path == self.live_path => report.live(),
            path if path == self.ready_path => report.ready(now),
            _ => return page(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        };
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        page(status, JSON, json(status, &report, now).to_string())
    }
}

/// spiffe-helper's document, and beside its statuses `seconds_left` of what ends.
fn json(status: StatusCode, report: &Report, now: i64) -> Value {
    let mut statuses = Map::new();
    let mut left = Map::new();
    if let Some(x509) = &report.x509 {
        statuses.insert("x509_write_status".to_owned(), x509.state.as_str().into());
        left.extend(x509.validity.map(|validity| ("x509".to_owned(), (validity.until - now).into())));
    }
    let jwt: Map<String, Value> =
        report.jwt.iter().map(|(path, kept)| (path.clone(), kept.state.as_str().into())).collect();
    statuses.insert("jwt_write_status".to_owned(), jwt.into());
    for (path, kept) in &report.jwt {
        left.extend(kept.validity.map(|validity| (path.clone(), (validity.until - now).into())));
    }
    json!({
        "status": status.canonical_reason(),
        "health": { "file_write_statuses": statuses, "seconds_left": left },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: State, until: i64) -> Report {
        let jwt =
            BTreeMap::from([("certs/token".to_owned(), Kept { state: State::Written, validity: None })]);
        Report { x509: Some(Kept { state, validity: Some(Validity { from: 0, until }) }), jwt }
    }

    #[test]
    fn ready_needs_everything_written_and_nothing_ended_and_live_only_that_no_write_failed() {
        let check = |state, until, live, ready| {
            let report = report(state, until);
            assert_eq!((report.live(), report.ready(100)), (live, ready), "{state:?} {until}");
        };
        check(State::Written, 200, true, true);
        check(State::Written, 99, true, false);
        check(State::Unwritten, 200, true, false);
        check(State::Failed, 200, false, false);
        assert!(Report::default().live());
    }

    #[test]
    fn the_document_is_the_one_of_spiffe_helper_and_says_how_long_there_is() {
        let document = json(StatusCode::OK, &report(State::Written, 160), 100);
        assert_eq!(document["status"], "OK");
        let statuses = &document["health"]["file_write_statuses"];
        assert_eq!(
            *statuses,
            json!({ "x509_write_status": "written", "jwt_write_status": { "certs/token": "written" } })
        );
        assert_eq!(document["health"]["seconds_left"], json!({ "x509": 60 }));
    }
}
