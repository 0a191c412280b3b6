//! A batch of a spilled queue as it stands in the journal: it says whose it is, so that no list of queues is kept beside.
//!
//! ```text
//!   header   of a record batch: `count` events, `append time` when it was spilled
//!   body := version u8 (1)  pipeline str  stage str  frame     the frame to the end, as `sidestream_event::frame` writes it
//!   str  := length u16 little endian, bytes of UTF-8
//! ```

use std::fmt;

use bytes::Bytes;
use sidestream_event::record::{Flags, HEADER_BYTES, Header};

/// Whose queue it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// `namespace/name` of the pipeline.
    pub pipeline: String,
    /// The stage whose input it is.
    pub stage: String,
}

/// Why a body is none of a spilled queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A later program wrote it.
    Version(u8),
    /// It makes no sense.
    Nonsense,
}

/// Bytes that a batch has beside its frame.
pub(crate) fn beside(name: &Name) -> usize {
    HEADER_BYTES + 5 + name.pipeline.len() + name.stage.len()
}

/// The batch that holds `frame`.
pub(crate) fn wrap(name: &Name, frame: &[u8], count: u32, wall_nanos: i64) -> (Header, Vec<u8>) {
    let mut body = Vec::with_capacity(beside(name) - HEADER_BYTES + frame.len());
    body.push(VERSION);
    for text in [&name.pipeline, &name.stage] {
        let text = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        body.extend_from_slice(&(text.len() as u16).to_le_bytes());
        body.extend_from_slice(text);
    }
    body.extend_from_slice(frame);
    let header = Header {
        length: (HEADER_BYTES + body.len()) as u32,
        count,
        // Not plain: what stands there is no records, of which each would take some bytes.
        flags: Flags::COMPRESSED,
        base_time: wall_nanos,
        append_time: wall_nanos,
        body_crc: crc32c::crc32c(&body),
        ..Header::default()
    };
    (header, body)
}

/// Whose a batch is, and its frame.
pub(crate) fn unwrap(body: &Bytes) -> Result<(Name, Bytes), Malformed> {
    match body.first() {
        Some(&VERSION) => {}
        Some(version) => return Err(Malformed::Version(*version)),
        None => return Err(Malformed::Nonsense),
    }
    let (pipeline, at) = text(body, 1).ok_or(Malformed::Nonsense)?;
    let (stage, at) = text(body, at).ok_or(Malformed::Nonsense)?;
    Ok((Name { pipeline, stage }, body.slice(at..)))
}

fn text(body: &[u8], at: usize) -> Option<(String, usize)> {
    let length = body.get(at..at + 2)?;
    let from = at + 2;
    let to = from + usize::from(u16::from_le_bytes([length[0], length[1]]));
    let text = std::str::from_utf8(body.get(from..to)?).ok()?;
    Some((text.to_owned(), to))
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.pipeline, self.stage)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Version(found) => {
                write!(
                    out,
                    "spilled by version {found}, and this program knows {VERSION}: start the newer program"
                )
            }
            Malformed::Nonsense => out.write_str("not what a spilled queue writes"),
        }
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name { pipeline: "shop/orders".into(), stage: "bill".into() }
    }

    /// A frame has room for more events than records of so many bytes.
    #[test]
    fn events_of_a_byte_are_as_possible_as_others() {
        let (header, _) = wrap(&name(), &[1; 50], 1000, 0);
        assert_eq!(header.is_possible(), Ok(()));
    }

    /// Written by the first program that wrote any. It must be read for ever.
    #[test]
    fn a_body_of_version_1_looks_like_this() {
        let (header, body) = wrap(&name(), b"frame", 3, 7);
        assert_eq!(body, b"\x01\x0b\0shop/orders\x04\0billframe");
        assert_eq!((header.count, header.append_time, header.body_length()), (3, 7, body.len()));
        assert!(header.check(&body).is_ok());
        let (whose, frame) = unwrap(&Bytes::from(body)).unwrap();
        assert_eq!((whose, &frame[..]), (name(), &b"frame"[..]));
    }

    #[test]
    fn what_is_no_such_body_is_said_to_be_none_and_what_is_newer_is_told_apart() {
        let (_, body) = wrap(&name(), b"", 1, 0);
        for end in 1..body.len() {
            assert_eq!(unwrap(&Bytes::copy_from_slice(&body[..end])), Err(Malformed::Nonsense), "{end}");
        }
        assert_eq!(unwrap(&Bytes::from_static(&[2, 9])), Err(Malformed::Version(2)));
        assert_eq!(unwrap(&Bytes::new()), Err(Malformed::Nonsense));
    }
}
