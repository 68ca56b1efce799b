//! Where calls end in what a client of PostgreSQL sends (protocol 3, "Message Formats").
//!
//! A call is what the server answers with one `ReadyForQuery`: a simple query, or all messages up to a `Sync`. The
//! start of a session is a call too. Bytes are passed on as they came, in pieces that end where calls end.

/// Some bytes.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// The last of them is the last of a call.
    pub(super) ends_call: bool,
}

/// Follows one connection.
#[derive(Default)]
pub(super) struct Framer {
    /// The session has begun: messages have a type.
    begun: bool,
    /// What has come of the header of the message under way.
    header: Vec<u8>,
    /// What is still to come of its body, once the header is whole.
    body_left: usize,
}

impl Framer {
    /// The pieces of `chunk`, none of them empty.
    pub(super) fn split(&mut self, chunk: &[u8]) -> Vec<Piece> {
        let (mut pieces, mut first) = (Vec::new(), 0);
        for (place, &byte) in chunk.iter().enumerate() {
            if self.ends_call_with(byte) {
                pieces.push(Piece { bytes: chunk[first..=place].to_vec(), ends_call: true });
                first = place + 1;
            }
        }
        if first < chunk.len() {
            pieces.push(Piece { bytes: chunk[first..].to_vec(), ends_call: false });
        }
        pieces
    }

    fn ends_call_with(&mut self, byte: u8) -> bool {
        if self.body_left > 0 {
            self.body_left -= 1;
        } else {
            self.header.push(byte);
            if self.header.len() < self.header_length() {
                return false;
            }
            // The length counts itself. Of the first message, the code after it is in the header here.
            let length = self.header_length();
            let at = usize::from(self.begun);
            let counted = u32::from_be_bytes([
                self.header[at],
                self.header[at + 1],
                self.header[at + 2],
                self.header[at + 3],
            ]);
            self.body_left = (counted as usize + at).saturating_sub(length);
        }
        if self.body_left > 0 {
            return false;
        }
        self.message_ended()
    }

    fn header_length(&self) -> usize {
        if self.begun { 5 } else { 8 }
    }

    /// Whether the message that ended was the last of a call.
    fn message_ended(&mut self) -> bool {
        let header = std::mem::take(&mut self.header);
        if self.begun {
            return matches!(header[0], b'Q' | b'S' | b'F');
        }
        // Asks for TLS or GSSAPI, and cancelling, are not the start of a session.
        self.begun = header[4..6] == PROTOCOL_3;
        self.begun
    }
}

/// The major version in a start-up message.
const PROTOCOL_3: [u8; 2] = [0, 3];
