//! One frame: who asks or is answered, what, and the record batches that go with it.
//!
//! ```text
//!   0          4          8            12                12 + head
//!   | length   | request  | head bytes | head            | tail
//!   | u32      | u32      | u32        | postcard        | record batches, each with its own length
//!   |          |<--------------------- length bytes --------------------->|
//! ```
//!
//! Numbers are little-endian. A length is looked at before any room is made for it, and room grows as bytes come: a frame that
//! is only announced costs nothing.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::record::BATCH_BYTES_MAX;

/// The longest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// The longest frame, in bytes, with its length: a head and one batch, or several smaller ones.
pub const FRAME_BYTES_MAX: usize = PREFIX_BYTES + HEAD_BYTES_MAX + BATCH_BYTES_MAX;
/// The fixed numbers at the begin of a frame, in bytes.
pub const PREFIX_BYTES: usize = 12;

/// A frame that came whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The number of the request; the sender of requests chooses it.
    pub request: u32,
    /// What postcard wrote.
    pub head: Bytes,
    /// The batches.
    pub tail: Bytes,
}

/// Bytes that came, and the frames in them.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: BytesMut,
}

/// What came is no frame. The connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is more than a frame has, or less than its prefix.
    Length(u32),
    /// The head is longer than a head may be, or than its frame.
    HeadLength(u32),
    /// The head is no request or answer of this version.
    Head,
}

/// Writes a frame. The tail is not in it: it follows the bytes written here as it is.
///
/// # Errors
/// A head or a tail that is too long for a frame, which is the sender's mistake.
pub fn write_frame<T: Serialize>(
    request: u32,
    head: &T,
    tail_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    let written = postcard::to_extend(head, std::mem::take(out)).map_err(|_| FrameError::Head)?;
    *out = written;
    let head_bytes = out.len() - start - PREFIX_BYTES;
    if head_bytes > HEAD_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::HeadLength(head_bytes as u32));
    }
    let length = PREFIX_BYTES - 4 + head_bytes + tail_bytes;
    if length + 4 > FRAME_BYTES_MAX {
        out.truncate(start);
        return Err(FrameError::Length(u32::try_from(length).unwrap_or(u32::MAX)));
    }
    let prefix = [length as u32, request, head_bytes as u32];
    for (index, number) in prefix.into_iter().enumerate() {
        out[start + 4 * index..start + 4 * index + 4].copy_from_slice(&number.to_le_bytes());
    }
    Ok(())
}

impl Frames {
    /// Where bytes that come go: at most as many as [`Frames::wanted`] says are of use now.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// How many bytes more the frame that has begun needs; none where none has begun, or it is whole.
    pub fn wanted(&self) -> Option<usize> {
        let length = self.length()?;
        (length as usize + 4).checked_sub(self.bytes.len()).filter(|missing| *missing > 0)
    }

    /// Whether a frame has begun, and not ended.
    pub fn is_amid(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// How long the frame is that has begun, as far as that is known and allowed: to be asked for room.
    pub fn announced(&self) -> Option<usize> {
        self.length().map(|length| length as usize + 4)
    }

    /// Makes room for the next read: twice what is there, never more than the frame needs.
    pub fn make_room(&mut self) {
        let wanted = self.wanted().unwrap_or(0);
        let room = wanted.min(self.bytes.len().max(READ_BYTES)).max(READ_BYTES);
        // Frames hold the buffer that they came in: it is used up before another one is made.
        if self.bytes.capacity() - self.bytes.len() < wanted.min(room).max(READ_BYTES / 4) {
            self.bytes.reserve(room);
        }
    }

    /// The next whole frame; none where more bytes are needed.
    ///
    /// # Errors
    /// Lengths that no frame has: as soon as they are there, before anything else has come.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.length() else { return Ok(None) };
        if (length as usize) < PREFIX_BYTES - 4 || length as usize + 4 > FRAME_BYTES_MAX {
            return Err(FrameError::Length(length));
        }
        if self.bytes.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let (request, head_bytes) = (self.number(4), self.number(8));
        if head_bytes as usize > HEAD_BYTES_MAX || head_bytes > length - (PREFIX_BYTES as u32 - 4) {
            return Err(FrameError::HeadLength(head_bytes));
        }
        if self.bytes.len() < length as usize + 4 {
            return Ok(None);
        }
        let mut whole = self.bytes.split_to(length as usize + 4).freeze();
        whole.advance(PREFIX_BYTES);
        let head = whole.split_to(head_bytes as usize);
        Ok(Some(Frame { request, head, tail: whole }))
    }

    fn length(&self) -> Option<u32> {
        (self.bytes.len() >= 4).then(|| self.number(0))
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }
}

impl Frame {
    /// The request or answer in the head.
    ///
    /// # Errors
    /// [`FrameError::Head`] where it is none, or something is left over.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, FrameError> {
        match postcard::take_from_bytes(&self.head) {
            Ok((head, [])) => Ok(head),
            _ => Err(FrameError::Head),
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Length(length) => {
                write!(
                    out,
                    "a frame of {length} bytes was announced, and {FRAME_BYTES_MAX} are the most there may be"
                )
            }
            FrameError::HeadLength(length) => {
                write!(
                    out,
                    "a head of {length} bytes was announced, which is more than its frame or {HEAD_BYTES_MAX}"
                )
            }
            FrameError::Head => {
                out.write_str("a frame holds no request or answer of this version of the protocol")
            }
        }
    }
}

impl std::error::Error for FrameError {}

/// Bytes that one read has room for at least.
const READ_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::native::{Conditions, Request};

    fn push(partition: u32) -> Request {
        let dnpipe = "shop/orders".parse().unwrap();
        Request::Push { dnpipe, partition, only_if: Conditions::default() }
    }

    fn bytes_of(request: u32, head: &Request, tail: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame(request, head, tail.len(), &mut out).unwrap();
        out.extend_from_slice(tail);
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let wire = [bytes_of(7, &push(1), b"batch"), bytes_of(8, &Request::Ping, b"")].concat();
        for size in 1..wire.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for piece in wire.chunks(size) {
                frames.buffer().extend_from_slice(piece);
                while let Some(frame) = frames.next_frame().unwrap() {
                    found.push((frame.request, frame.read::<Request>().unwrap(), frame.tail));
                }
            }
            let expected =
                [(7, push(1), Bytes::from_static(b"batch")), (8, Request::Ping, Bytes::from_static(b""))];
            assert_eq!(found, expected);
            assert!(!frames.is_amid());
        }
    }

    #[test]
    fn a_length_that_no_frame_has_is_refused_before_anything_else_comes() {
        for length in [0, 7, FRAME_BYTES_MAX as u32 - 3, u32::MAX] {
            let mut frames = Frames::default();
            frames.buffer().extend_from_slice(&length.to_le_bytes());
            assert_eq!(frames.next_frame(), Err(FrameError::Length(length)));
            frames.make_room();
            assert!(frames.buffer().capacity() < 128 << 10, "{length}");
        }
        let mut frames = Frames::default();
        for number in [20u32, 1, 13] {
            frames.buffer().extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(frames.next_frame(), Err(FrameError::HeadLength(13)));
    }

    #[test]
    fn what_is_left_over_after_a_head_is_refused() {
        let head = [postcard::to_allocvec(&Request::Ping).unwrap(), vec![0]].concat();
        let frame = Frame { request: 1, head: head.into(), tail: Bytes::new() };
        assert_eq!(frame.read::<Request>(), Err(FrameError::Head));
    }

    #[test]
    fn a_frame_that_would_be_too_long_is_not_written() {
        let mut out = vec![1];
        let refused = write_frame(1, &Request::Ping, FRAME_BYTES_MAX, &mut out);
        assert!(matches!(refused, Err(FrameError::Length(_))) && out == [1]);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused_or_wait_for_more(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut frames = Frames::default();
            frames.buffer().extend_from_slice(&bytes);
            while let Ok(Some(frame)) = frames.next_frame() {
                // Either is fine; what counts is that both return.
                let _ = frame.read::<Request>();
                let _ = frame.read::<crate::native::Answer>();
            }
        }

        #[test]
        fn hostile_heads_are_refused_or_read(head in proptest::collection::vec(any::<u8>(), 0..256)) {
            let frame = Frame { request: 1, head: head.into(), tail: Bytes::new() };
            if let Ok(request) = frame.read::<Request>() {
                let again = bytes_of(1, &request, b"");
                let mut frames = Frames::default();
                frames.buffer().extend_from_slice(&again);
                let read = frames.next_frame().unwrap().unwrap().read::<Request>().unwrap();
                prop_assert_eq!(read, request);
            }
        }
    }
}
