//! Objects in a Kubernetes API server.
//!
//! Each call has a deadline, a bound on what it takes into memory, and a place: so many at a time, so many per second. Lists
//! have places of their own, and so has what can wait (events), so that neither keeps a write waiting.

use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};
use vouchsafe_runtime::budget::KeyedBudgets;

use crate::error::{Call, ClusterError, OpenError};
pub(crate) use answer::{Page, told};
pub(crate) use connection::Place;
use opener::Opener;
pub(crate) use write::{call, partial, typed};

mod answer;
mod connection;
mod opener;
mod write;

/// One API server.
pub(crate) struct Api {
    opener: Opener,
    calls: Semaphore,
    lists: Semaphore,
    rate: KeyedBudgets<Urgency>,
    health: watch::Sender<Health>,
}

/// Whether somebody waits for a call.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Urgency {
    Interactive,
    /// Events: they have a budget of their own, and few places.
    Background,
}

#[derive(Clone, Copy, Debug)]
struct Health {
    /// Counts how often the API server answered again after it had not.
    recoveries: u64,
    is_failing: bool,
    /// When credentials were last read again.
    reopened: Option<Instant>,
}

impl Api {
    /// Reads the configuration; runs no program of a kubeconfig's and contacts nobody.
    pub(crate) fn open(place: Place) -> Result<Self, OpenError> {
        Opener::new(place).map(Self::with)
    }

    /// The API server that answers through `client`.
    #[cfg(test)]
    pub(crate) fn over(client: kube::Client) -> Self {
        Self::with(Opener::over(client))
    }

    fn with(opener: Opener) -> Self {
        let health = Health { recoveries: 0, is_failing: false, reopened: None };
        Self {
            opener,
            calls: Semaphore::new(MAX_CALLS),
            lists: Semaphore::new(MAX_LISTS),
            rate: KeyedBudgets::new(CALLS_PER_SECOND, CALLS_AT_ONCE, 2),
            health: watch::Sender::new(health),
        }
    }

    /// Changes when the API server answers again after it had not.
    pub(crate) fn recoveries(&self) -> Recoveries {
        let receiver = self.health.subscribe();
        let seen = receiver.borrow().recoveries;
        Recoveries { receiver, seen }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        call: &Call,
        urgency: Urgency,
        request: Request<Vec<u8>>,
    ) -> Result<T, ClusterError> {
        let deadline = Instant::now() + CALL;
        let late = ClusterError::TimedOut { call: call.clone(), after: CALL };
        // To wait for a place here says nothing about the API server.
        let Ok(place) = timeout_at(deadline, self.place(call, urgency)).await else { return Err(late) };
        let _place = place?;
        let answer = async {
            let response = self.send(call, request).await?;
            answer::collect(call, response.into_body(), MAX_ANSWER).await
        };
        let body = match timeout_at(deadline, answer).await {
            Ok(body) => body?,
            Err(_) => return Err(self.late(late).await),
        };
        serde_json::from_slice(&body).map_err(|error| answer::garbled(call, &error))
    }

    /// Reads one page of a list.
    pub(crate) async fn page(
        &self,
        call: &Call,
        request: Result<Request<Vec<u8>>, http::Error>,
    ) -> Result<Page, ClusterError> {
        let request = buildable(call, request)?;
        let page = async {
            let response = self.send(call, request).await?;
            answer::collect(call, response.into_body(), MAX_PAGE).await
        };
        match timeout(LIST, page).await {
            Ok(page) => page.map(Page::new),
            Err(_) => Err(self.late(ClusterError::TimedOut { call: call.clone(), after: LIST }).await),
        }
    }

    /// Opens a watch: an answer that does not end.
    pub(crate) async fn watch(
        &self,
        call: &Call,
        request: Result<Request<Vec<u8>>, http::Error>,
    ) -> Result<Body, ClusterError> {
        let request = buildable(call, request)?;
        match timeout(LIST, self.send(call, request)).await {
            Ok(opened) => opened.map(Response::into_body),
            Err(_) => Err(self.late(ClusterError::TimedOut { call: call.clone(), after: LIST }).await),
        }
    }

    /// A place among those that read a list. Held until the list is read.
    pub(crate) async fn list_place(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.lists.acquire().await.ok()
    }

    async fn place(
        &self,
        call: &Call,
        urgency: Urgency,
    ) -> Result<Option<SemaphorePermit<'_>>, ClusterError> {
        let wait = self.rate.take(&urgency, 1, CALL).await;
        wait.map_err(|_| ClusterError::TimedOut { call: call.clone(), after: CALL })?;
        Ok(match urgency {
            Urgency::Interactive => self.calls.acquire().await.ok(),
            // One at a time: the writer of events is one task.
            Urgency::Background => None,
        })
    }

    /// Sends a request and gives back the head of the answer; an error status is an error.
    async fn send(&self, call: &Call, request: Request<Vec<u8>>) -> Result<Response<Body>, ClusterError> {
        let outcome = self.exchange(call, request).await;
        self.note(outcome.as_ref().err()).await;
        outcome
    }

    async fn exchange(&self, call: &Call, request: Request<Vec<u8>>) -> Result<Response<Body>, ClusterError> {
        let client = self.opener.client(call).await?;
        match client.send(request.map(Body::from)).await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(answer::refusal(call, response).await),
            Err(source) => {
                Err(ClusterError::Unreachable { call: call.clone(), source: connection::safe(source) })
            }
        }
    }

    async fn late(&self, error: ClusterError) -> ClusterError {
        self.note(Some(&error)).await;
        error
    }

    /// Keeps account of whether the API server answers; reads credentials again when they may have changed.
    async fn note(&self, error: Option<&ClusterError>) {
        if !error.is_some_and(ClusterError::is_outage) {
            self.health.send_if_modified(|health| {
                let is_back = std::mem::take(&mut health.is_failing);
                health.recoveries += u64::from(is_back);
                is_back
            });
            return;
        }
        let now = Instant::now();
        let mut is_due = false;
        self.health.send_if_modified(|health| {
            health.is_failing = true;
            is_due = health.reopened.is_none_or(|at| now.duration_since(at) >= REOPEN);
            if is_due {
                health.reopened = Some(now);
            }
            false
        });
        if is_due {
            self.opener.reopen(error.is_some_and(|error| error.code() == Some(401))).await;
        }
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("place", &self.opener.place()).finish_non_exhaustive()
    }
}

/// Waits for the API server to answer again.
pub(crate) struct Recoveries {
    receiver: watch::Receiver<Health>,
    seen: u64,
}

impl Recoveries {
    /// What has happened until now does not count.
    pub(crate) fn mark_unchanged(&mut self) {
        self.seen = self.receiver.borrow_and_update().recoveries;
    }

    /// Resolves when it answered again since.
    pub(crate) async fn changed(&mut self) {
        let seen = self.seen;
        if self.receiver.wait_for(|health| health.recoveries != seen).await.is_err() {
            std::future::pending().await
        }
    }
}

fn buildable(
    call: &Call,
    request: Result<Request<Vec<u8>>, http::Error>,
) -> Result<Request<Vec<u8>>, ClusterError> {
    request.map_err(|error| ClusterError::Invalid { call: call.clone(), detail: error.to_string() })
}

/// How long one call may take, with the wait for its place.
const CALL: Duration = Duration::from_secs(10);

/// How long a page of a list, or the beginning of a watch, may take.
const LIST: Duration = Duration::from_secs(30);

/// Calls at a time; more wait for their place.
const MAX_CALLS: usize = 16;

/// Lists that are read at a time: after an outage everything is listed at once.
const MAX_LISTS: usize = 4;

/// Calls per second on average, for each urgency. More wait.
const CALLS_PER_SECOND: f64 = 50.0;

/// Calls at once, for each urgency.
const CALLS_AT_ONCE: u32 = 100;

/// The most that is read of one answer.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// The most that is read of one page of a list; a larger page is asked for again with fewer objects.
pub(crate) const MAX_PAGE: usize = 32 * 1024 * 1024;

/// How often configuration is read again while the API server does not answer.
const REOPEN: Duration = Duration::from_secs(10);
