use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use loona_hpack::{Decoder, Encoder};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::JoinSet;
use tonic::body::Body;

use super::follower::{Follower, MAX_CONTINUATIONS};
use super::hpack::MAX_BLOCK;
use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const MALFORMED: &[u8] = b"tmp%2Fdir%2Fwl.sock";

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The frames of `bytes`; a cut one at the end is left out.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut all = Vec::new();
    while bytes.len() >= 9 {
        let len = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let Some(payload) = bytes[9..].get(..len) else { break };
        let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
        all.push(Frame { kind: bytes[3], flags: bytes[4], stream, payload: payload.to_vec() });
        bytes = &bytes[9 + len..];
    }
    all
}

fn request(authority: &[u8], path: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    [
        (&b":scheme"[..], &b"http"[..]),
        (b":method", b"POST"),
        (b":authority", authority),
        (b":path", path),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"workload.spiffe.io", b"true"),
    ]
    .map(|(name, value)| (name.to_vec(), value.to_vec()))
    .to_vec()
}

fn encode(encoder: &mut Encoder<'_>, fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    encoder.encode(fields.iter().map(|(name, value)| (&name[..], &value[..])))
}

/// A client's side of a connection with two requests: the first padded and with priority, the second by
/// references to the dynamic table, in three frames.
fn conversation(authority: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let first = encode(&mut encoder, &request(authority, b"/one"));
    let second = encode(&mut encoder, &request(authority, b"/two"));
    assert!(second.len() < first.len(), "the second refers to the dynamic table");
    let padded = [&[3][..], &[0, 0, 0, 0, 15], &first, &[0; 3]].concat();
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 1, &padded),
        frame(DATA, END_STREAM, 1, b"\0\0\0\0\0"),
        frame(PING, 0, 0, b"12345678"),
        frame(HEADERS, END_STREAM, 3, &second[..2]),
        frame(CONTINUATION, 0, 3, &[]),
        frame(CONTINUATION, END_HEADERS, 3, &second[2..]),
        frame(SETTINGS, 1, 0, &[]),
    ]
    .concat()
}

fn follow<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Follower) {
    let mut follower = Follower::new();
    let mut out = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            let mut ready = Vec::new();
            piece = follower.feed(piece, &mut ready);
            out.extend(ready);
        }
    }
    follower.finish(&mut out);
    (out, follower)
}

fn decoded(decoder: &mut Decoder<'_>, frame: &Frame) -> Vec<(Vec<u8>, Vec<u8>)> {
    let skip = if frame.flags & PRIORITY != 0 { 5 } else { 0 };
    decoder.decode(&frame.payload[skip..]).unwrap()
}

#[test]
fn a_well_formed_connection_passes_byte_for_byte_and_is_let_go() {
    for authority in [&b"localhost"[..], b"127.0.0.1:80", b"[::1]:80", b"unix"] {
        let sent = conversation(authority);
        let (out, follower) = follow([&sent[..]]);
        assert_eq!(out, sent);
        assert!(follower.passes_through());
    }
}

#[test]
fn malformed_authorities_become_localhost_and_nothing_else_changes() {
    for authority in [MALFORMED, b"/tmp/dir/wl.sock", b"", b"unix:/tmp/wl.sock"] {
        let (out, follower) = follow([&conversation(authority)[..]]);
        assert!(!follower.passes_through());
        assert!(out.starts_with(PREFACE));
        let got = frames(&out[PREFACE.len()..]);
        let kinds: Vec<_> = got.iter().map(|frame| (frame.kind, frame.flags, frame.stream)).collect();
        assert_eq!(
            kinds,
            [
                (SETTINGS, 0, 0),
                (HEADERS, END_HEADERS | PRIORITY, 1),
                (DATA, END_STREAM, 1),
                (PING, 0, 0),
                (HEADERS, END_HEADERS | END_STREAM, 3),
                (SETTINGS, 1, 0),
            ]
        );
        assert_eq!(got[1].payload[..5], [0, 0, 0, 0, 15], "priority is kept");
        let mut decoder = Decoder::new();
        assert_eq!(decoded(&mut decoder, &got[1]), request(b"localhost", b"/one"));
        assert_eq!(decoded(&mut Decoder::new(), &got[4]), request(b"localhost", b"/two"), "needs no table");
    }
}

#[test]
fn where_the_bytes_are_split_makes_no_difference() {
    for authority in [MALFORMED, b"localhost"] {
        let sent = conversation(authority);
        let (whole, _) = follow([&sent[..]]);
        for at in 0..=sent.len() {
            let (left, right) = sent.split_at(at);
            assert_eq!(follow([left, right]).0, whole, "split at {at}");
        }
        assert_eq!(follow(sent.chunks(1)).0, whole, "byte by byte");
    }
}

#[test]
fn a_connection_that_ends_while_undecided_passes_what_came() {
    let sent = conversation(MALFORMED);
    for end in 0..PREFACE.len() + 40 {
        assert_eq!(follow([&sent[..end]]).0, sent[..end], "ended after {end}");
    }
}

#[test]
fn trailers_and_later_well_formed_requests_keep_working_once_rewriting() {
    let mut encoder = Encoder::new();
    let mut sent = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let fields =
        [request(MALFORMED, b"/a"), vec![(b"x-end".to_vec(), b"1".to_vec())], request(b"host", b"/b")];
    for (fields, stream) in fields.iter().zip([1, 1, 3]) {
        sent.extend(frame(HEADERS, END_HEADERS, stream, &encode(&mut encoder, fields)));
    }
    let got = frames(&follow([&sent[..]]).0[PREFACE.len()..]);
    assert_eq!(decoded(&mut Decoder::new(), &got[1]), request(b"localhost", b"/a"));
    assert_eq!(decoded(&mut Decoder::new(), &got[2]), [(b"x-end".to_vec(), b"1".to_vec())]);
    assert_eq!(decoded(&mut Decoder::new(), &got[3]), request(b"host", b"/b"));
}

#[test]
fn a_block_that_does_not_fit_one_frame_is_continued() {
    let mut encoder = Encoder::new();
    let mut fields = request(MALFORMED, b"/a");
    fields.push((b"x-large".to_vec(), vec![b'x'; 40_000]));
    let block = encode(&mut encoder, &fields);
    let mut sent = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
    let parts: Vec<_> = block.chunks(10_000).collect();
    for (place, part) in parts.iter().enumerate() {
        let kind = if place == 0 { HEADERS } else { CONTINUATION };
        let flags = if place + 1 == parts.len() { END_HEADERS } else { 0 };
        sent.extend(frame(kind, flags, 1, part));
    }
    let got = frames(&follow([&sent[..]]).0[PREFACE.len()..]);
    let kinds: Vec<_> = got[1..].iter().map(|frame| (frame.kind, frame.flags)).collect();
    assert_eq!(kinds, [(HEADERS, 0), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
    let block: Vec<u8> = got[1..].iter().flat_map(|frame| frame.payload.clone()).collect();
    fields[2].1 = b"localhost".to_vec();
    assert_eq!(Decoder::new().decode(&block).unwrap(), fields);
}

proptest! {
    #[test]
    fn any_split_into_pieces_makes_no_difference(cuts in prop::collection::vec(0_usize..400, 0..40)) {
        let sent = conversation(MALFORMED);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(sent.len())).collect();
        cuts.extend([0, sent.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &sent[pair[0]..pair[1]]);
        prop_assert_eq!(follow(pieces).0, follow([&sent[..]]).0);
    }

    #[test]
    fn garbage_never_panics_and_is_never_changed_while_undecided(
        after in prop::collection::vec((any::<u8>(), any::<u8>(), 0_u32..4, any::<Vec<u8>>()), 0..8),
        tail: Vec<u8>,
    ) {
        let mut sent = PREFACE.to_vec();
        for (kind, flags, stream, payload) in after {
            sent.extend(frame(kind % 10, flags, stream, &payload));
        }
        sent.extend(tail);
        let (out, follower) = follow([&sent[..]]);
        if follower.passes_through() {
            prop_assert_eq!(out, sent);
        }
    }

    #[test]
    fn garbage_after_a_malformed_authority_never_panics_and_grows_within_bounds(
        after in prop::collection::vec((any::<u8>(), any::<u8>(), 0_u32..4, any::<Vec<u8>>()), 0..8),
        tail: Vec<u8>,
    ) {
        let mut sent = conversation(MALFORMED);
        for (kind, flags, stream, payload) in after {
            sent.extend(frame(kind % 10, flags, stream, &payload));
        }
        sent.extend(tail);
        let (out, _) = follow([&sent[..]]);
        prop_assert!(out.len() <= sent.len() + 8 * (MAX_BLOCK + 1024));
    }
}

/// Sends `sent` to a real server behind the adapter, and returns what it answers, and what authorities it saw.
async fn serve(sent: Vec<u8>) -> (Vec<Frame>, Vec<String>) {
    let (mut client, server) = duplex(1 << 20);
    let (saw, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let respond = service_fn(move |request: http::Request<Incoming>| {
        saw.send(request.uri().to_string()).unwrap();
        async { Ok::<_, Infallible>(http::Response::new(Body::empty())) }
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let builder = http2::Builder::new(TokioExecutor::new());
        let _ended = builder.serve_connection(TokioIo::new(LenientAuthority::new(server)), respond).await;
    });
    client.write_all(&sent).await.unwrap();
    let mut answer = Vec::new();
    let _quiet = tokio::time::timeout(Duration::from_millis(300), client.read_to_end(&mut answer)).await;
    let mut uris = Vec::new();
    while let Ok(uri) = seen.try_recv() {
        uris.push(uri);
    }
    (frames(&answer), uris)
}

fn goaway(answer: &[Frame]) -> Option<u32> {
    let frame = answer.iter().find(|frame| frame.kind == GOAWAY)?;
    Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()))
}

#[tokio::test]
async fn a_server_answers_both_requests_of_a_core_client() {
    let (answer, uris) = serve(conversation(MALFORMED)).await;
    assert_eq!(uris, ["http://localhost/one", "http://localhost/two"]);
    assert_eq!(answer.iter().filter(|frame| frame.kind == HEADERS).count(), 2);
    assert_eq!(goaway(&answer), None);
}

#[tokio::test]
async fn without_the_adapter_the_server_would_refuse_it() {
    // What this module exists for. When this fails, h2 has become lenient and the module can go.
    assert!(http::uri::Authority::try_from(MALFORMED).is_err());
}

#[tokio::test]
async fn what_is_malformed_is_refused_by_the_server_with_the_right_error() {
    const PROTOCOL_ERROR: u32 = 1;
    const FRAME_SIZE_ERROR: u32 = 6;
    let block = encode(&mut Encoder::new(), &request(b"localhost", b"/x"));
    let bomb = [&[0x40, 1, b'a', 0x7f, 0xe1, 0x1e][..], &[b'x'; 4000], &[0xbe; 60]].concat();
    let flood: Vec<u8> = (0..=MAX_CONTINUATIONS).flat_map(|_| frame(CONTINUATION, 0, 5, &[])).collect();
    let oversized: Vec<u8> =
        (0..=MAX_BLOCK / 16_000).flat_map(|_| frame(CONTINUATION, 0, 5, &[0; 16_000])).collect();
    let cases: [(&str, Vec<u8>, u32); 11] = [
        ("garbage for a block", frame(HEADERS, END_HEADERS, 5, &[0xff; 20]), PROTOCOL_ERROR),
        ("unknown index", frame(HEADERS, END_HEADERS, 5, &[0xfe]), PROTOCOL_ERROR),
        ("bomb", frame(HEADERS, END_HEADERS, 5, &bomb), PROTOCOL_ERROR),
        ("oversized", [frame(HEADERS, 0, 5, &block), oversized].concat(), PROTOCOL_ERROR),
        ("flood", [frame(HEADERS, 0, 5, &block), flood].concat(), PROTOCOL_ERROR),
        (
            "frame within a block",
            [frame(HEADERS, 0, 5, &block), frame(PING, 0, 0, &[0; 8])].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "continuation of another stream",
            [frame(HEADERS, 0, 5, &block), frame(CONTINUATION, END_HEADERS, 7, &[])].concat(),
            PROTOCOL_ERROR,
        ),
        ("continuation of nothing", frame(CONTINUATION, END_HEADERS, 5, &block), PROTOCOL_ERROR),
        ("more padding than frame", frame(HEADERS, END_HEADERS | PADDED, 5, &[200, 1, 2]), PROTOCOL_ERROR),
        ("no stream", frame(HEADERS, END_HEADERS, 0, &block), PROTOCOL_ERROR),
        ("frame too large", frame(HEADERS, END_HEADERS, 5, &[0; 16_385]), FRAME_SIZE_ERROR),
    ];
    for (what, bad, expected) in cases {
        // A valid request behind the bad frame must not get through.
        let after = frame(HEADERS, END_HEADERS | END_STREAM, 9, &block);
        let (answer, uris) = serve([conversation(MALFORMED), bad, after].concat()).await;
        assert_eq!(goaway(&answer), Some(expected), "{what}: {answer:?}");
        assert!(!uris.iter().any(|uri| uri.ends_with("/x")), "{what}");
    }
}

#[tokio::test]
async fn a_small_read_buffer_loses_nothing() {
    let sent = conversation(MALFORMED);
    let (whole, _) = follow([&sent[..]]);
    let (mut client, server) = duplex(7);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { client.write_all(&sent).await.unwrap() });
    let mut adapted = LenientAuthority::new(server);
    let mut got = Vec::new();
    let mut buffer = [0; 3];
    loop {
        let count = adapted.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(got, whole);
}

/// One field in the dynamic table, and blocks of sixteen references to it: 25 bytes that stand for 64,000.
#[tokio::test]
async fn short_blocks_that_stand_for_long_ones_do_not_fill_memory() {
    let mut sent = conversation(MALFORMED);
    let mut fill = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    fill.resize(fill.len() + 4000, b'x');
    sent.extend(frame(HEADERS, END_HEADERS, 5, &fill));
    let blocks = 300;
    for stream in 0..blocks {
        sent.extend(frame(HEADERS, END_HEADERS, 7 + 2 * stream, &[0xbe; 16]));
    }
    let (whole, _) = follow([&sent[..]]);
    assert!(whole.len() > 300 * 60_000, "{}", whole.len());
    let (mut client, server) = duplex(1 << 20);
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut adapted = LenientAuthority::new(server);
    let (mut got, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let count = adapted.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..count]);
        let held = adapted.following.as_ref().map_or(0, |held| held.ready.capacity());
        assert!(held <= 4 * MAX_BLOCK, "{held} bytes wait");
    }
    assert!(got == whole, "not what the client said");
}
