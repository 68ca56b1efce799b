//! One connection: what each end sent and the other did not read yet.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Host, Link, Net, ordered};

/// Two ends and a lane from each to the other.
#[derive(Debug)]
pub(super) struct Connection {
    net: Net,
    ends: [(Host, Option<u64>); 2],
    lanes: Mutex<[Lane; 2]>,
}

/// What one end has sent.
#[derive(Debug, Default)]
struct Lane {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The sender has closed it, which arrives then.
    closed: Option<Instant>,
    /// The sender's process has ended.
    dead: bool,
    /// A firewall broke it.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

impl Connection {
    /// Between two processes; `None` is one that never ends.
    pub(super) fn new(net: Net, ends: [(Host, Option<u64>); 2]) -> Self {
        Self { net, ends, lanes: Mutex::default() }
    }

    fn lanes(&self) -> MutexGuard<'_, [Lane; 2]> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn joins(&self, one: Host, other: Host) -> bool {
        one != other && ordered(self.ends[0].0, self.ends[1].0) == ordered(one, other)
    }

    pub(super) fn wake(&self) {
        self.lanes().iter_mut().for_each(Lane::wake);
    }

    pub(super) fn break_off(&self) {
        for lane in self.lanes().iter_mut() {
            lane.broken = true;
            lane.wake();
        }
    }

    pub(super) fn kill(&self, host: Host) {
        let mut lanes = self.lanes();
        for side in [0, 1] {
            let (at, process) = self.ends[side];
            if at == host && process.is_some() {
                lanes[side].dead = true;
            }
        }
        lanes.iter_mut().for_each(Lane::wake);
    }

    pub(super) fn bytes(&self) -> usize {
        self.lanes().iter().map(|lane| lane.bytes).sum()
    }

    /// When something that is sent on `link` now arrives, after what is under way.
    fn arrival(&self, link: Link, lane: &Lane) -> Instant {
        let late = self.net.retransmission((self.ends[0].0, self.ends[1].0), link.loss);
        let at = Instant::now() + link.delay + late;
        lane.under_way.back().map_or(at, |(last, _)| at.max(*last))
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    connection: Arc<Connection>,
    side: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl End {
    pub(super) fn new(connection: Arc<Connection>, side: usize) -> Self {
        Self { connection, side, sleep: None }
    }

    fn link(&self) -> Link {
        let [(one, _), (other, _)] = self.connection.ends;
        self.connection.net.link(one, other)
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let link = this.link();
        let healed = link.healed.map(|healed| healed + link.delay);
        let due = |at: Instant| healed.map_or(at, |healed| at.max(healed));
        let mut lanes = this.connection.lanes();
        let own_end_is_dead = lanes[this.side].dead;
        let lane = &mut lanes[1 - this.side];
        if own_end_is_dead || lane.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        lane.reader = Some(cx.waker().clone());
        if link.cut {
            return Poll::Pending;
        }
        let next = lane.under_way.front().map(|(at, _)| *at).or(lane.closed).map(due);
        match next {
            None if lane.dead => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => return Poll::Pending,
            Some(at) if at <= Instant::now() => {}
            Some(at) => {
                drop(lanes);
                let sleep = this.sleep.insert(Box::pin(sleep_until(at)));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let now = Instant::now();
        while let Some((at, bytes)) = lane.under_way.front_mut()
            && due(*at) <= now
            && buf.remaining() > 0
        {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..count]);
            bytes.advance(count);
            lane.bytes -= count;
            if bytes.is_empty() {
                lane.under_way.pop_front();
            }
        }
        if let Some(writer) = lane.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let link = self.link();
        let mut lanes = self.connection.lanes();
        let (gone, broken) = (lanes[1 - self.side].dead && !link.cut, lanes[self.side].broken);
        let closed = lanes[1 - self.side].closed.is_some() && !link.cut;
        let lane = &mut lanes[self.side];
        if lane.dead || broken || gone || closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if lane.bytes >= WINDOW {
            lane.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buf.len().min(WINDOW);
        let at = self.connection.arrival(link, lane);
        lane.under_way.push_back((at, Bytes::copy_from_slice(&buf[..count])));
        lane.bytes += count;
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
        drop(lanes);
        self.connection.net.count(self.connection.ends[self.side].0, at, &buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = self.link();
        let mut lanes = self.connection.lanes();
        let lane = &mut lanes[self.side];
        if lane.closed.is_none() {
            lane.closed = Some(self.connection.arrival(link, lane));
        }
        lane.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let link = self.link();
        let mut lanes = self.connection.lanes();
        let lane = &mut lanes[self.side];
        if lane.closed.is_none() {
            lane.closed = Some(self.connection.arrival(link, lane));
        }
        lanes.iter_mut().for_each(Lane::wake);
    }
}

/// Bytes that one end may have under way.
const WINDOW: usize = 256 * 1024;
