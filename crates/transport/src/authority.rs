//! Lets gRPC C-core clients (Python, C++, Ruby, PHP) in over a Unix socket.
//!
//! # Why
//!
//! On a Unix socket such a client sends the percent-encoded socket path as `:authority`, for example
//! `tmp%2Fdir%2Fwl.sock`; grpc-java sends the raw path. Neither is an authority of a URI (RFC 9113 §8.3.1,
//! RFC 3986 §3.2), so h2 resets the stream with PROTOCOL_ERROR before any handler of ours runs. The name means
//! nothing on a Unix socket. [`LenientAuthority`] stands between the socket and h2 and puts `localhost` in its
//! place. Nothing on TCP is lenient. Once h2 itself can be told to accept these, this module goes.
//!
//! # What it does
//!
//! It follows the frames that the client sends until the first request's header block is complete. Everything up to
//! there is held back.
//!
//! * The block's `:authority` is well-formed, or there is none, or the block cannot be read: what was held is
//!   released **byte for byte**, and the connection is never looked at again. This costs one look at one header block
//!   per connection. It is safe because h2 then sees exactly what the client sent, with the same HPACK state as
//!   the client's from the first byte; the worst that a later malformed authority can get is what stock h2 answers.
//! * It is malformed: from this block on, each header block is decoded with the client's HPACK state and
//!   written anew as literals without indexing, with CONTINUATION merged and padding dropped. h2's own dynamic
//!   table stays empty, so it cannot disagree with ours. All other frames pass untouched.
//!
//! It never judges a request: malformed frames are handed to h2 such that h2 refuses them with the right error code.
//!
//! # Bounds
//!
//! [`MAX_BLOCK`] bytes of a header block and of what it decodes to, [`MAX_FIELDS`] fields, [`MAX_CONTINUATIONS`]
//! frames for it; at most two blocks wait for h2. A block beyond any of them ends the connection: h2 is given one that no
//! decoder accepts, and answers GOAWAY as it does to any such block. (A first block beyond them is h2's to refuse.)
//!
//! # The HPACK crate
//!
//! `loona-hpack` 0.4. Read for this: every slice is behind a length check and integers end after five octets, so
//! garbage is an error and not a panic; its dynamic table evicts by RFC 7541 §4 and never exceeds the limit that we
//! set (4,096: we advertise no other `SETTINGS_HEADER_TABLE_SIZE`). It has no bound on the decoded size and builds a
//! Huffman table for every string, so our `hpack` module hands it one field at a time and counts. Passed over: `httlib-hpack`
//! (panics on a truncated integer and on a missing string), `fluke-hpack` (its predecessor), `hpack` (unmaintained
//! since 2016), h2's own (private).

pub(crate) mod follower;
pub(crate) mod hpack;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use follower::Follower;
pub use follower::MAX_CONTINUATIONS;
pub use hpack::{MAX_BLOCK, MAX_FIELDS};

/// A server-side HTTP/2 connection whose client may send a malformed `:authority`.
#[derive(Debug)]
pub struct LenientAuthority<T> {
    inner: T,
    /// `None` once the connection passes through.
    following: Option<Box<Following>>,
}

#[derive(Debug)]
struct Following {
    follower: Follower,
    /// What was received and not followed yet.
    received: Vec<u8>,
    /// What h2 may read, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
}

/// Bytes read from the client at a time while its frames are followed.
const READ_SIZE: usize = 8 * 1024;

impl<T> LenientAuthority<T> {
    /// Wraps a connection on which nothing was read yet.
    pub fn new(inner: T) -> Self {
        let following =
            Following { follower: Follower::new(), received: Vec::new(), ready: Vec::new(), taken: 0 };
        Self { inner, following: Some(Box::new(following)) }
    }

    /// The connection beneath.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl Following {
    /// Follows `input`, and keeps what is too much for now.
    fn follow(&mut self, input: &[u8]) {
        let rest = self.follower.feed(input, &mut self.ready);
        self.received.extend_from_slice(rest);
    }

    /// Moves ready bytes to `buf`. `false` when there were none.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let left = &self.ready[self.taken..];
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.ready.shrink_to(READ_SIZE);
            self.taken = 0;
        }
        count > 0
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for LenientAuthority<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(following) = &mut this.following else {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if following.deliver(buf) {
                return Poll::Ready(Ok(()));
            }
            if !following.received.is_empty() {
                let received = std::mem::take(&mut following.received);
                following.follow(&received);
                continue;
            }
            if following.follower.passes_through() {
                this.following = None;
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut chunk = [std::mem::MaybeUninit::uninit(); READ_SIZE];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The client is done. h2 gets what was held back, then sees the end too.
                following.follower.finish(&mut following.ready);
                following.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            following.follow(chunk.filled());
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for LenientAuthority<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<T: Connected> Connected for LenientAuthority<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests;
