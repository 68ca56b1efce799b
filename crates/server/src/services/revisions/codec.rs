//! Protobuf with small buffers.

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use vouchsafe_proto::vouchsafe::server::v1::{WatchRequest, WatchResponse};

/// A heartbeat has about ten bytes. What is larger gets a larger buffer when it is sent.
const BUFFER: usize = 32;
/// Messages that are ready together go out together up to this size.
const TOGETHER: usize = 32 << 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct LeanCodec;

impl Codec for LeanCodec {
    type Encode = WatchResponse;
    type Decode = WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for LeanCodec {
    type Item = WatchResponse;
    type Error = Status;

    fn encode(&mut self, item: WatchResponse, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(out).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TOGETHER)
    }
}

impl Decoder for LeanCodec {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        WatchRequest::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TOGETHER)
    }
}
