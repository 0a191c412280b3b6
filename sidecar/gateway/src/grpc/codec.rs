//! Messages as bytes. What is no message is its sender's fault, and is refused like anything else that is wrong with a request.

use prost::Message;
use sidestream_event::native::Refusal;
use tonic::{
    Status,
    codec::{self, DecodeBuf, Decoder},
};
use tonic_prost::ProstCodec;

use super::refused;

/// As that of prost, but for what it says of bytes that are no message: there it is the server that has failed.
pub(crate) struct Codec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Codec<T, U> {
        Codec(ProstCodec::default())
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as codec::Codec>::Encoder;
    type Decoder = Strict<<ProstCodec<T, U> as codec::Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Strict(self.0.decoder())
    }
}

/// Reads messages.
pub(crate) struct Strict<D>(D);

impl<D: Decoder<Error = Status>> Decoder for Strict<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        self.0.decode(bytes).map_err(|status| {
            let reason = format!("the message is none: {}; make it from `dnpipes.proto`", status.message());
            refused(Refusal::Bad { reason })
        })
    }
}
