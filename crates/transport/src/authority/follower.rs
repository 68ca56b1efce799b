//! Follows the frames of an HTTP/2 client. Pure: bytes in, bytes out.

use super::hpack::{MAX_BLOCK, Rewriter, first_authority_is_well_formed};

/// Most CONTINUATION frames of one header block; empty ones cost their sender nothing.
pub const MAX_CONTINUATIONS: usize = 64;

/// Bytes for h2 at which nothing more is followed until it has read them.
pub(crate) const ENOUGH: usize = MAX_BLOCK;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113 §6.5.2: the initial SETTINGS_MAX_FRAME_SIZE. [`crate::grpc::serve`] advertises no other.
pub(crate) const MAX_FRAME: usize = 16_384;
const HEAD: usize = 9;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// RFC 7541 §6.1: "The index value of 0 is not used. It MUST be treated as a decoding error".
const INVALID_BLOCK: &[u8] = &[0x80];

/// Where a client's byte stream stands.
#[derive(Debug)]
pub(crate) struct Follower {
    state: State,
    /// The header block being received.
    open: Option<Block>,
    mode: Mode,
}

#[derive(Debug)]
enum State {
    /// This many bytes of the preface have been seen.
    Preface(usize),
    /// This many bytes of a frame's head have been received.
    Head { raw: [u8; HEAD], seen: usize },
    /// The payload of a HEADERS or CONTINUATION frame is being received.
    Payload { head: Head, bytes: Vec<u8> },
    /// This many bytes of another frame's payload pass as they are.
    Skip(usize),
    /// h2 was given something that it refuses; the rest is dropped.
    Refused,
}

impl State {
    const BETWEEN_FRAMES: Self = Self::Head { raw: [0; HEAD], seen: 0 };
}

/// What happens to header blocks.
#[derive(Debug)]
enum Mode {
    /// The first is not complete. Its frames so far, as they came.
    Deciding { held: Vec<u8> },
    /// They are written anew.
    Rewriting(Rewriter),
    /// Nothing is looked at any more.
    PassThrough,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    raw: [u8; HEAD],
}

#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    priority: Option<[u8; 5]>,
    fragment: Vec<u8>,
    continuations: usize,
}

impl Follower {
    pub(crate) fn new() -> Self {
        Self { state: State::Preface(0), open: None, mode: Mode::Deciding { held: Vec::new() } }
    }

    /// Whether nothing needs to be fed any more.
    pub(crate) fn passes_through(&self) -> bool {
        matches!(self.mode, Mode::PassThrough)
    }

    /// Takes what the client sent, and appends what h2 is to read. Stops once that is [`ENOUGH`], and returns what it
    /// did not take: a block may be a thousand times as long written anew.
    pub(crate) fn feed<'a>(&mut self, mut input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        while !input.is_empty() && out.len() < ENOUGH {
            if self.passes_through() {
                out.extend_from_slice(input);
                return &[];
            }
            input = self.step(input, out);
        }
        input
    }

    /// The client sends no more: appends what was held back.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if let Mode::Deciding { .. } = self.mode {
            self.release(&[], out);
        }
    }

    /// Consumes some of `input`, at least one byte, and returns the rest.
    fn step<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        match &mut self.state {
            State::Refused => &[],
            State::Preface(seen) => {
                let (part, rest) = input.split_at(input.len().min(PREFACE.len() - *seen));
                out.extend_from_slice(part);
                if part != &PREFACE[*seen..*seen + part.len()] {
                    // Not HTTP/2; h2 says so.
                    self.mode = Mode::PassThrough;
                    return rest;
                }
                *seen += part.len();
                if *seen == PREFACE.len() {
                    self.state = State::BETWEEN_FRAMES;
                }
                rest
            }
            State::Head { raw, seen } => {
                let (part, rest) = input.split_at(input.len().min(HEAD - *seen));
                raw[*seen..*seen + part.len()].copy_from_slice(part);
                *seen += part.len();
                if *seen == HEAD {
                    let head = Head { raw: *raw };
                    self.begin_frame(head, out);
                }
                rest
            }
            State::Skip(left) => {
                let (part, rest) = input.split_at(input.len().min(*left));
                out.extend_from_slice(part);
                *left -= part.len();
                if *left == 0 {
                    self.state = State::BETWEEN_FRAMES;
                }
                rest
            }
            State::Payload { head, bytes } => {
                let (part, rest) = input.split_at(input.len().min(head.len() - bytes.len()));
                bytes.extend_from_slice(part);
                if bytes.len() == head.len() {
                    let (head, bytes) = (*head, std::mem::take(bytes));
                    self.end_frame(head, &bytes, out);
                }
                rest
            }
        }
    }

    fn begin_frame(&mut self, head: Head, out: &mut Vec<u8>) {
        let expected = match &self.open {
            None => head.kind() != CONTINUATION,
            // RFC 9113 §6.2: "A receiver MUST treat the receipt of any other type of frame or a frame on a different
            // stream as a connection error of type PROTOCOL_ERROR." h2 does.
            Some(block) => head.kind() == CONTINUATION && head.stream() == block.stream,
        };
        let header_frame = matches!(head.kind(), HEADERS | CONTINUATION);
        if !expected || (header_frame && head.len() > MAX_FRAME) {
            return self.hand_over(head, &[], out);
        }
        if !header_frame {
            out.extend_from_slice(&head.raw);
            self.state = if head.len() == 0 { State::BETWEEN_FRAMES } else { State::Skip(head.len()) };
        } else if head.len() == 0 {
            self.end_frame(head, &[], out);
        } else {
            self.state = State::Payload { head, bytes: Vec::with_capacity(head.len()) };
        }
    }

    fn end_frame(&mut self, head: Head, payload: &[u8], out: &mut Vec<u8>) {
        let block = match self.open.take() {
            Some(mut block) => {
                block.fragment.extend_from_slice(payload);
                block.continuations += 1;
                block
            }
            None => match Block::begin(head, payload) {
                Some(block) => block,
                None => return self.hand_over(head, payload, out),
            },
        };
        if block.fragment.len() > MAX_BLOCK || block.continuations > MAX_CONTINUATIONS {
            return match self.mode {
                Mode::Rewriting(_) => self.refuse(&block, out),
                _ => self.hand_over(head, payload, out),
            };
        }
        if let Mode::Deciding { held } = &mut self.mode {
            held.extend_from_slice(&head.raw);
            held.extend_from_slice(payload);
        }
        self.state = State::BETWEEN_FRAMES;
        if head.has(END_HEADERS) {
            self.end_block(&block, out);
        } else {
            self.open = Some(block);
        }
    }

    fn end_block(&mut self, block: &Block, out: &mut Vec<u8>) {
        if let Mode::Deciding { held } = &mut self.mode {
            if first_authority_is_well_formed(&block.fragment).unwrap_or(true) {
                out.append(held);
                self.mode = Mode::PassThrough;
                return;
            }
            self.mode = Mode::Rewriting(Rewriter::new());
        }
        let Mode::Rewriting(rewriter) = &mut self.mode else { return };
        match rewriter.rewrite(&block.fragment) {
            Ok(fields) => block.write(&fields, true, out),
            Err(_) => self.refuse(block, out),
        }
    }

    /// Gives h2 a frame that it refuses.
    fn hand_over(&mut self, head: Head, payload: &[u8], out: &mut Vec<u8>) {
        if let Mode::Deciding { .. } = self.mode {
            // Nothing was changed so far, so h2 can have all of it and judge.
            self.release(&[&head.raw, payload].concat(), out);
            return;
        }
        if let Some(block) = self.open.take() {
            // What h2 must see to know that a block is open.
            block.write(&[], false, out);
        }
        out.extend_from_slice(&head.raw);
        out.extend_from_slice(payload);
        if payload.len() == head.len() || head.len() > MAX_FRAME {
            self.state = State::Refused;
        } else {
            self.state = State::Skip(head.len());
        }
    }

    /// Ends the connection: gives h2 a block that no decoder accepts.
    fn refuse(&mut self, block: &Block, out: &mut Vec<u8>) {
        tracing::debug!(stream = block.stream, "header block is malformed or too large");
        block.write(INVALID_BLOCK, true, out);
        self.state = State::Refused;
    }

    /// Appends all that was held back, then `more`, then lets everything pass.
    fn release(&mut self, more: &[u8], out: &mut Vec<u8>) {
        if let Mode::Deciding { held } = &mut self.mode {
            out.append(held);
        }
        match &self.state {
            State::Payload { head, bytes } if more.is_empty() => {
                out.extend_from_slice(&head.raw);
                out.extend_from_slice(bytes);
            }
            State::Head { raw, seen } if more.is_empty() => out.extend_from_slice(&raw[..*seen]),
            _ => {}
        }
        out.extend_from_slice(more);
        self.mode = Mode::PassThrough;
    }
}

impl Head {
    fn new(len: usize, kind: u8, flags: u8, stream: u32) -> Self {
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        let stream = stream.to_be_bytes();
        let raw = [len[1], len[2], len[3], kind, flags, stream[0], stream[1], stream[2], stream[3]];
        Self { raw }
    }

    fn len(&self) -> usize {
        usize::from(self.raw[0]) << 16 | usize::from(self.raw[1]) << 8 | usize::from(self.raw[2])
    }

    fn kind(&self) -> u8 {
        self.raw[3]
    }

    fn has(&self, flag: u8) -> bool {
        self.raw[4] & flag != 0
    }

    /// RFC 9113 §4.1: the reserved bit "MUST be ignored when receiving".
    fn stream(&self) -> u32 {
        u32::from_be_bytes([self.raw[5], self.raw[6], self.raw[7], self.raw[8]]) & 0x7fff_ffff
    }
}

impl Block {
    /// From a HEADERS frame; `None` when its padding or priority does not fit, or it has no stream.
    fn begin(head: Head, payload: &[u8]) -> Option<Self> {
        let mut rest = payload;
        let mut padding = 0;
        if head.has(PADDED) {
            let (first, after) = rest.split_first()?;
            padding = usize::from(*first);
            rest = after;
        }
        let mut priority = None;
        if head.has(PRIORITY) {
            let (five, after) = rest.split_first_chunk::<5>()?;
            priority = Some(*five);
            rest = after;
        }
        let fragment = rest.get(..rest.len().checked_sub(padding)?)?.to_vec();
        if head.stream() == 0 {
            return None;
        }
        let end_stream = head.has(END_STREAM);
        Some(Self { stream: head.stream(), end_stream, priority, fragment, continuations: 0 })
    }

    /// Writes HEADERS, and CONTINUATION as needed, with `fields` as the block.
    fn write(&self, fields: &[u8], end_headers: bool, out: &mut Vec<u8>) {
        let priority: &[u8] = self.priority.as_ref().map_or(&[], |five| five);
        let (first, rest) = fields.split_at(fields.len().min(MAX_FRAME - priority.len()));
        let mut parts = rest.chunks(MAX_FRAME);
        let end = |left: usize| if end_headers && left == 0 { END_HEADERS } else { 0 };
        let flags = end(parts.len())
            | if self.end_stream { END_STREAM } else { 0 }
            | if priority.is_empty() { 0 } else { PRIORITY };
        out.extend_from_slice(&Head::new(priority.len() + first.len(), HEADERS, flags, self.stream).raw);
        out.extend_from_slice(priority);
        out.extend_from_slice(first);
        while let Some(part) = parts.next() {
            out.extend_from_slice(&Head::new(part.len(), CONTINUATION, end(parts.len()), self.stream).raw);
            out.extend_from_slice(part);
        }
    }
}
