//! One workload: a process that asks for its X.509-SVID each time that it is told to, and says when it asked and when it
//! had it.
//!
//! There are hundreds on two processors, so it says no more HTTP/2 than it must: the call as one block of frames, and then
//! it waits for the first byte of a message.

use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::UNIX_EPOCH;

use vouchsafe_runtime::clock::Clock;

/// First argument of such a process; the second is the agent's socket.
pub(crate) const WORKLOAD: &str = "workload";

/// Answers each line on standard input with `<asked> <had>` in nanoseconds, or `failed`.
pub(crate) fn live(socket: &Path) {
    let clock = Clock::system();
    let now = || clock.now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    println!("ready");
    for line in io::stdin().lock().lines() {
        line.unwrap();
        let asked = now();
        match fetch(socket) {
            Ok(()) => println!("{asked} {}", now()),
            Err(error) => println!("failed after {} ms: {error}", (now() - asked) / 1_000_000),
        }
    }
}

fn fetch(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    let mut call = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut call, SETTINGS, 0, 0, &[]);
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/SpiffeWorkloadAPI/FetchX509SVID"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("workload.spiffe.io", "true"),
    ] {
        // RFC 7541 §6.2.2: a literal that is in no table.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).unwrap());
            headers.extend_from_slice(text.as_bytes());
        }
    }
    frame(&mut call, HEADERS, END_HEADERS, 1, &headers);
    frame(&mut call, DATA, END_STREAM, 1, &[0; 5]);
    stream.write_all(&call)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload)?;
        match head[3] {
            DATA if length > 5 => return Ok(()),
            HEADERS if head[4] & END_STREAM != 0 => return Err(io::Error::other("refused")),
            RST_STREAM | GOAWAY => return Err(io::Error::other("closed")),
            SETTINGS if head[4] & ACK == 0 => {
                let mut ack = Vec::new();
                frame(&mut ack, SETTINGS, ACK, 0, &[]);
                stream.write_all(&ack)?;
            }
            _ => {}
        }
    }
}

/// RFC 9113 §4.1
fn frame(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    into.extend_from_slice(&length[1..]);
    into.extend_from_slice(&[kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
