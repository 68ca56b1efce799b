//! A PROXY header is read to its end and not a byte further, whoever sends it.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use vouchsafe_transport::proxy::{MAX_HEADER, read_header};

fuzz_target!(|input: &[u8]| {
    let Some((length, address)) = read(input) else { return };
    assert!((1..=MAX_HEADER).contains(&length));
    let header = &input[..length];
    assert!(header.ends_with(b"\r\n") || header[0] == b'\r');
    // What follows is the handshake's.
    let more = [header, b"\x16\x03\x01PROXY"].concat();
    assert_eq!(read(&more), Some((length, address)));
    // A header that is cut short is none.
    assert_eq!(read(&header[..length - 1]), None);
});

/// How many bytes the header at the beginning of `input` has, and whom it names.
fn read(input: &[u8]) -> Option<(usize, Option<std::net::SocketAddr>)> {
    let mut rest = input;
    let mut context = Context::from_waker(Waker::noop());
    let outcome = match pin!(read_header(&mut rest)).poll(&mut context) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => unreachable!("bytes in memory are always there"),
    };
    let address = outcome.ok()?;
    Some((input.len() - rest.len(), address))
}
