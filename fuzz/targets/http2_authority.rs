//! What h2 gets to see does not depend on how the client's bytes are cut, and no bytes of a client cause a panic.
//!
//! The first byte chooses where the stream is cut and whether the connection preface is put in front.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};
use vouchsafe_transport::authority::LenientAuthority;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, rest)) = input.split_first() else { return };
    let preface: &[u8] = if choice & 0x80 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" } else { b"" };
    let stream = [preface, rest].concat();
    let whole = through(&stream, usize::MAX);
    let cut = through(&stream, usize::from(choice & 0x7f) + 1);
    assert_eq!(whole, cut);
});

fn through(stream: &[u8], size: usize) -> Vec<u8> {
    let mut connection = LenientAuthority::new(Chunks { rest: stream, size });
    let mut context = Context::from_waker(Waker::noop());
    let mut seen = Vec::new();
    loop {
        let mut space = [0; 4096];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut connection).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return seen,
            Poll::Ready(Ok(())) => seen.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(error)) => panic!("reading from memory failed: {error}"),
            Poll::Pending => panic!("waits although bytes are there"),
        }
    }
}

/// A client that has sent everything and closed, read in pieces of `size`.
struct Chunks<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Chunks<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.rest.len().min(self.size).min(buffer.remaining());
        let (now, later) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}
