//! One RPC: hears requests, watches the caller's identities, sends what is owed.
//!
//! A client that does not read is not listened to either: the next request is taken when the last answer is on its way,
//! and only the newest state is ever kept for it. What a stream retains is what it asked for and one answer, which it
//! shares with those that asked the same.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tracing::{debug, error, info, warn};
use vouchsafe_proto::envoy::service::discovery::v3::DiscoveryRequest;

use super::asked::Listed;
use super::exchange::{Exchange, Heard};
use super::resources::{Refusal, View};
use super::{Inner, Method};
use crate::workload_api::request::Known;
use crate::workload_api::subscription::Subscription;
use crate::workload_api::updates::{FIRST_ANSWER_DEADLINE, not_issued, stopping};

/// An RPC of secret discovery.
#[derive(Debug)]
pub struct Session<R> {
    inner: Arc<Inner>,
    method: Method,
    requests: R,
    subscription: Subscription,
    /// The caller's process.
    pid: i32,
    changes: watch::Receiver<u64>,
    exchange: Exchange,
    /// Since when a certificate is missing, and until when the others wait for it.
    waits_until: Option<Instant>,
    /// It did not come.
    overdue: bool,
    ended: bool,
}

impl<R> Session<R>
where
    R: Stream<Item = Result<DiscoveryRequest, Status>> + Send + Unpin + 'static,
{
    /// For a caller that was admitted.
    pub(super) fn open(inner: Arc<Inner>, method: Method, known: &Known, requests: R) -> Self {
        inner.connections.opened();
        // Before the look at the identities, so that nothing falls between the two.
        let changes = inner.api.identities.watch();
        let attested = Arc::new(known.attested.with_every_hint());
        let set = inner.api.identities_of(&attested);
        let subscription = Subscription::new(Arc::clone(&inner.api), Known { attested, set });
        Self {
            exchange: Exchange::new(inner.config.disable_spiffe_cert_validation),
            inner,
            method,
            requests,
            subscription,
            pid: known.attested.pid,
            changes,
            waits_until: None,
            overdue: false,
            ended: false,
        }
    }

    /// The answers.
    pub(super) fn responses(self) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        futures_util::stream::unfold(self, |mut session| async move {
            let response = session.next().await?;
            Some((response, session))
        })
    }

    /// The next answer; `None` when the client has gone or the last one was an error.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        while !self.ended {
            match self.due() {
                Ok(Some(response)) => return Some(Ok(response)),
                Ok(None) => {}
                Err(status) => return Some(Err(self.end(status))),
            }
            let patience = self.waits_until.filter(|_| !self.overdue);
            tokio::select! {
                biased;
                changed = self.changes.changed() => {
                    if changed.is_err() || self.subscription.identities().is_closed() {
                        self.ended = true;
                        return Some(Err(stopping()));
                    }
                    if self.subscription.refresh() {
                        self.exchange.changed();
                    }
                }
                request = self.requests.next() => match request {
                    Some(Ok(request)) => {
                        if let Err(status) = self.hear(request) {
                            return Some(Err(self.end(status)));
                        }
                    }
                    Some(Err(status)) => return Some(Err(self.lost(status))),
                    None => self.ended = true,
                },
                () = sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => self.overdue = true,
            }
        }
        None
    }

    fn hear(&mut self, mut request: DiscoveryRequest) -> Result<(), Status> {
        debug!(
            resource_names = %Listed(&request.resource_names),
            version_info = request.version_info,
            nonce = request.response_nonce,
            "Received StreamSecrets request"
        );
        let (nonce, version_info) = (request.response_nonce.clone(), request.version_info.clone());
        if let Some(detail) = request.error_detail.take()
            && self.inner.may_complain(self.pid)
        {
            let error = head(&detail.message, MAX_LOGGED_ERROR);
            error!(resource_names = %Listed(&request.resource_names), error, "Envoy reported errors applying secrets");
        }
        match self.exchange.hear(request) {
            Heard::Fine => {}
            Heard::Stale { expected } => {
                if self.inner.may_complain(self.pid) {
                    let nonce = head(&nonce, MAX_LOGGED_NAME);
                    warn!(nonce, expect = expected, "Received unexpected nonce; ignoring request");
                }
            }
            Heard::Rejected { expected } => {
                if self.inner.may_complain(self.pid) {
                    let version_info = head(&version_info, MAX_LOGGED_NAME);
                    error!(
                        version_info,
                        expect = expected,
                        "Client rejected expected version and rolled back"
                    );
                }
            }
            Heard::TypeTooLong => return Err(Status::invalid_argument("the type URL is too long")),
        }
        Ok(())
    }

    /// The answer that is owed and can be given now.
    fn due(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(asked) = self.exchange.owed() else { return Ok(None) };
        let view = View {
            set: self.subscription.set(),
            config: &self.inner.config,
            now: self.subscription.now(),
            partial: self.overdue,
        };
        match view.resources(asked) {
            Ok(resources) => {
                (self.waits_until, self.overdue) = (None, false);
                let nonce = match self.method {
                    Method::Stream => Some(nonce()?),
                    Method::Fetch => None,
                };
                let count = resources.count;
                let response = self.exchange.answer(resources, nonce);
                if response.is_some() {
                    let version_info = self.exchange.version();
                    debug!(method = %self.method, version_info, count, "Sending secrets");
                }
                Ok(response)
            }
            // The client keeps what it has until the certificate comes.
            Err(Refusal::NotIssued) if !self.overdue || self.exchange.is_answered() => {
                if self.waits_until.is_none() {
                    self.waits_until = Some(Instant::now() + FIRST_ANSWER_DEADLINE);
                    info!("Waiting for SVID to get cached");
                }
                self.subscription.identities().ask();
                Ok(None)
            }
            Err(Refusal::NotIssued) => Err(not_issued()),
            Err(refusal) => {
                self.inner.api.soon.ask();
                Err(refusal.into())
            }
        }
    }

    fn end(&mut self, status: Status) -> Status {
        self.ended = true;
        let Some(unlogged) = self.inner.api.refusals.note(self.pid) else { return status };
        let (pid, unlogged, error) = (self.pid, (unlogged > 0).then_some(unlogged), status.message());
        match self.method {
            Method::Stream => error!(pid, unlogged, error, "Error building stream secrets response"),
            Method::Fetch => error!(pid, unlogged, error, "Error building fetch secrets response"),
        }
        status
    }

    /// The client's side broke, or it sent something else than requests.
    fn lost(&mut self, status: Status) -> Status {
        self.ended = true;
        if status.code() != tonic::Code::Cancelled && self.inner.may_complain(self.pid) {
            error!(error = status.message(), "Received error from stream secrets server");
        }
        status
    }
}

impl<R> Drop for Session<R> {
    fn drop(&mut self) {
        self.inner.connections.closed();
    }
}

/// Tells answers apart; nothing secret.
fn nonce() -> Result<String, Status> {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Status::internal("no random numbers"))?;
    Ok(format!("{:08x}", u32::from_be_bytes(bytes)))
}

/// The first `most` bytes, or a few less.
fn head(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// Bytes of a client's error that are logged.
const MAX_LOGGED_ERROR: usize = 1024;
/// Bytes of a client's nonce or version that are logged.
const MAX_LOGGED_NAME: usize = 64;

#[cfg(test)]
mod tests;
