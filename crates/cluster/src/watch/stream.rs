//! An open watch: the lines of an answer that does not end.

use std::marker::PhantomData;

use http_body_util::BodyExt as _;
use kube::client::Body;

use super::cut;
use super::event::{self, Event};
use super::lines::{Line, Lines};
use crate::error::{Call, ClusterError};
use crate::kind::Kind;

/// A watch that the API server has accepted.
pub(crate) struct Stream<K> {
    call: Call,
    body: Body,
    lines: Lines,
    kind: PhantomData<K>,
}

/// What came next.
pub(crate) enum Read<K> {
    Event(Event<K>),
    /// The other end closed the watch.
    Closed,
    Broken(ClusterError),
}

impl<K: Kind> Stream<K> {
    pub(crate) fn new(call: Call, body: Body) -> Self {
        Self { call, body, lines: Lines::new(MAX_LINE), kind: PhantomData }
    }

    /// What came next, waiting for it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Read<K> {
        loop {
            if let Some(read) = self.buffered() {
                return read;
            }
            match self.body.frame().await {
                None => return Read::Closed,
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.push(data);
                    }
                }
                Some(Err(source)) => {
                    return Read::Broken(ClusterError::Unreachable {
                        call: self.call.clone(),
                        source: source.into(),
                    });
                }
            }
        }
    }

    /// What came next, if it is here already.
    pub(crate) fn buffered(&mut self) -> Option<Read<K>> {
        Some(match self.lines.next()? {
            Line::TooLong(beginning) => Read::Event(cut::parse(&beginning, MAX_LINE)),
            Line::Whole(line) => match event::parse(&line) {
                Ok(event) => Read::Event(event),
                Err(error) => {
                    Read::Broken(ClusterError::Garbled { call: self.call.clone(), detail: error.to_string() })
                }
            },
        })
    }
}

/// The largest event that is taken, in bytes; a page of a list may be as large. etcd takes objects of 1.5 MiB, whose JSON is
/// up to six times as large: `<` is six bytes there.
pub(super) const MAX_LINE: usize = crate::api::MAX_PAGE;
