//! The frames of an edge, as they stand on the wire.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use sidestream_event::Settled;

use super::FRAME_BYTES_MAX;

/// One frame. Numbers are little-endian; a text is its length (u16) and UTF-8.
///
/// ```text
///    0         4      5
///    ├─ length ┼ kind ┼─ body ─────────────────────────────────────────────────┤   length counts kind and body
///
///    1 hello        version u16, session u128, first u64, pipeline text, edge text      caller, first
///    2 welcome      version u16, session u128, next, settled, released, credit u64,     listener, first
///                  node text
///    3 refuse       code u8, reason text                                                listener, first and last
///    4 batch        sequence u64, events                                                caller
///    5 acknowledge  settled u64, released u64, credit u64                               listener
///    6 ping         token u64                                                           caller
///    7 pong         token u64                                                           listener
///    8 bye                                                                              listener: send nothing new
///    9 ended        sequence u64, expired, dropped, unfit, dead-lettered u32            listener, from version 2 on
/// ```
///
/// `next`, `settled`, `released` and `first` are numbers of batches: `settled` is the first that is not settled, `released`
/// the first of which a state still holds something. `credit` counts the cost of batches on this connection, from its begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who calls, and for which edge.
    Hello(Hello),
    /// The edge is open.
    Welcome(Welcome),
    /// The edge stays shut.
    Refuse(Refused),
    /// Events.
    Batch {
        /// Its number on this edge, from 0.
        sequence: u64,
        /// As [`sidestream_event::frame`] writes them.
        events: Bytes,
    },
    /// How far the receiver is.
    Acknowledge {
        /// All batches before this are settled: delivered, filtered away, or taken into a state.
        settled: u64,
        /// Of all batches before this no state holds anything: they will not be wanted again.
        released: u64,
        /// Bytes of batches that may have been sent on this connection.
        credit: u64,
    },
    /// Are you there?
    Ping {
        /// Comes back.
        token: u64,
    },
    /// Yes.
    Pong {
        /// As it came.
        token: u64,
    },
    /// The receiver is going: send nothing new; what was taken is still acknowledged.
    Bye,
    /// Events of a batch did not end well. Comes before the acknowledgement by which the batch is settled.
    Ended {
        /// The number of the batch.
        sequence: u64,
        /// How they ended.
        ended: Ended,
    },
}

/// How many events of a batch ended otherwise than well, and how. The rest were delivered, filtered away or taken into a
/// state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// They outlived their time limit.
    pub expired: u32,
    /// A policy dropped them; they might fare better another time.
    pub dropped: u32,
    /// A stage could not handle them, and would not another time.
    pub unfit: u32,
    /// They went to a dead-letter stage.
    pub dead_lettered: u32,
}

impl From<&Settled> for Ended {
    fn from(settled: &Settled) -> Ended {
        let Settled { expired, dropped, unfit, dead_lettered, .. } = *settled;
        Ended { expired, dropped: dropped.saturating_sub(unfit), unfit, dead_lettered }
    }
}

/// The first frame of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest version of this protocol that the caller speaks.
    pub version: u16,
    /// Names this sender for as long as it lives.
    pub session: u128,
    /// The first batch that is kept: where a receiver begins that does not know the session.
    pub first: u64,
    /// `namespace/name` of the pipeline.
    pub pipeline: String,
    /// The name of the edge.
    pub edge: String,
}

/// The first frame of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u16,
    /// Names this receiver for as long as it lives.
    pub session: u128,
    /// The batch it wants next.
    pub next: u64,
    /// All batches before this are settled.
    pub settled: u64,
    /// Of all batches before this no state holds anything.
    pub released: u64,
    /// Bytes of batches that may be sent on this connection.
    pub credit: u64,
    /// The machine it runs on; empty where nobody knows.
    pub node: String,
}

/// Why a listener opens no edge to a caller that has proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It speaks another version.
    Version {
        /// The oldest that the listener speaks.
        oldest: u16,
    },
    /// No running plan has such an edge (yet).
    UnknownEdge,
    /// The edge is another's.
    NotAllowed,
    /// The receiver is going.
    Draining,
    /// Too many senders.
    Busy,
    /// A reason of a newer version.
    Other {
        /// Its number.
        code: u8,
        /// Its words.
        reason: String,
    },
}

/// Bytes that are no frame, or a frame that must not come now: the connection is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A frame longer than any may be, or than none.
    Length {
        /// What it announced, in bytes.
        bytes: u32,
    },
    /// A kind that nobody knows.
    Kind {
        /// Its number.
        kind: u8,
    },
    /// A frame that ends too early or too late, or a text that is none.
    Body {
        /// Its kind.
        kind: u8,
    },
    /// A frame that its sender may not send, or not now.
    Unexpected {
        /// What it was.
        what: &'static str,
    },
    /// A batch that is not the next.
    Gap {
        /// The number that should have come.
        next: u64,
        /// The number that came.
        found: u64,
    },
    /// More bytes of batches than were granted.
    Overdrawn {
        /// Bytes that were granted on this connection.
        credit: u64,
    },
    /// An acknowledgement of what was never sent, or less than one before.
    Impossible {
        /// What it claims.
        claimed: u64,
    },
}

/// Takes frames from a stream of bytes. Holds at most one frame that is not whole.
#[derive(Debug)]
pub struct FrameReader {
    buffer: BytesMut,
    /// The longest frame taken, kind and body, in bytes.
    limit: usize,
}

impl FrameReader {
    /// A reader that takes no frame longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Takes longer frames from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Where bytes that came are to be put, with room for some.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ_BYTES);
        &mut self.buffer
    }

    /// The next frame, when it is whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let bytes = u32::from_le_bytes(*head);
        let length = bytes as usize;
        if length == 0 || length > self.limit {
            return Err(ProtocolError::Length { bytes });
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        let mut body = self.buffer.split_to(length).freeze();
        let kind = body.get_u8();
        Frame::read(kind, body).map(Some)
    }
}

impl Frame {
    fn read(kind: u8, mut body: Bytes) -> Result<Frame, ProtocolError> {
        let wrong = || ProtocolError::Body { kind };
        let frame = match kind {
            HELLO => Frame::Hello(Hello {
                version: body.try_get_u16_le().map_err(|_| wrong())?,
                session: body.try_get_u128_le().map_err(|_| wrong())?,
                first: body.try_get_u64_le().map_err(|_| wrong())?,
                pipeline: text(&mut body).ok_or_else(wrong)?,
                edge: text(&mut body).ok_or_else(wrong)?,
            }),
            WELCOME => Frame::Welcome(Welcome {
                version: body.try_get_u16_le().map_err(|_| wrong())?,
                session: body.try_get_u128_le().map_err(|_| wrong())?,
                next: body.try_get_u64_le().map_err(|_| wrong())?,
                settled: body.try_get_u64_le().map_err(|_| wrong())?,
                released: body.try_get_u64_le().map_err(|_| wrong())?,
                credit: body.try_get_u64_le().map_err(|_| wrong())?,
                node: text(&mut body).ok_or_else(wrong)?,
            }),
            REFUSE => {
                let code = body.try_get_u8().map_err(|_| wrong())?;
                Frame::Refuse(Refused::of(code, text(&mut body).ok_or_else(wrong)?))
            }
            BATCH => {
                let sequence = body.try_get_u64_le().map_err(|_| wrong())?;
                Frame::Batch { sequence, events: body.split_off(0) }
            }
            ACKNOWLEDGE => Frame::Acknowledge {
                settled: body.try_get_u64_le().map_err(|_| wrong())?,
                released: body.try_get_u64_le().map_err(|_| wrong())?,
                credit: body.try_get_u64_le().map_err(|_| wrong())?,
            },
            PING => Frame::Ping { token: body.try_get_u64_le().map_err(|_| wrong())? },
            PONG => Frame::Pong { token: body.try_get_u64_le().map_err(|_| wrong())? },
            BYE => Frame::Bye,
            ENDED => {
                let sequence = body.try_get_u64_le().map_err(|_| wrong())?;
                let mut count = || body.try_get_u32_le().map_err(|_| wrong());
                let (expired, dropped, unfit, dead_lettered) = (count()?, count()?, count()?, count()?);
                Frame::Ended { sequence, ended: Ended { expired, dropped, unfit, dead_lettered } }
            }
            kind => return Err(ProtocolError::Kind { kind }),
        };
        if body.has_remaining() { Err(wrong()) } else { Ok(frame) }
    }

    /// Adds the frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match self {
            Frame::Hello(hello) => {
                out.push(HELLO);
                out.extend_from_slice(&hello.version.to_le_bytes());
                out.extend_from_slice(&hello.session.to_le_bytes());
                out.extend_from_slice(&hello.first.to_le_bytes());
                write_text(&hello.pipeline, out);
                write_text(&hello.edge, out);
            }
            Frame::Welcome(welcome) => {
                out.push(WELCOME);
                out.extend_from_slice(&welcome.version.to_le_bytes());
                out.extend_from_slice(&welcome.session.to_le_bytes());
                for number in [welcome.next, welcome.settled, welcome.released, welcome.credit] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                write_text(&welcome.node, out);
            }
            Frame::Refuse(refused) => {
                out.extend_from_slice(&[REFUSE, refused.code()]);
                write_text(&refused.to_string(), out);
            }
            Frame::Batch { sequence, events } => {
                out.push(BATCH);
                out.extend_from_slice(&sequence.to_le_bytes());
                out.extend_from_slice(events);
            }
            Frame::Acknowledge { settled, released, credit } => {
                out.push(ACKNOWLEDGE);
                for number in [settled, released, credit] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
            }
            Frame::Ping { token } => {
                out.push(PING);
                out.extend_from_slice(&token.to_le_bytes());
            }
            Frame::Pong { token } => {
                out.push(PONG);
                out.extend_from_slice(&token.to_le_bytes());
            }
            Frame::Bye => out.push(BYE),
            Frame::Ended { sequence, ended } => {
                out.push(ENDED);
                out.extend_from_slice(&sequence.to_le_bytes());
                for count in [ended.expired, ended.dropped, ended.unfit, ended.dead_lettered] {
                    out.extend_from_slice(&count.to_le_bytes());
                }
            }
        }
        let length = u32::try_from(out.len() - start - 4).expect("a frame is bounded by its writers");
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
}

impl Refused {
    fn code(&self) -> u8 {
        match self {
            Refused::Version { .. } => 1,
            Refused::UnknownEdge => 2,
            Refused::NotAllowed => 3,
            Refused::Draining => 4,
            Refused::Busy => 5,
            Refused::Other { code, .. } => *code,
        }
    }

    fn of(code: u8, reason: String) -> Refused {
        match code {
            1 => Refused::Version { oldest: VERSION_OLDEST },
            2 => Refused::UnknownEdge,
            3 => Refused::NotAllowed,
            4 => Refused::Draining,
            5 => Refused::Busy,
            code => Refused::Other { code, reason },
        }
    }
}

fn text(body: &mut Bytes) -> Option<String> {
    let length = usize::from(body.try_get_u16_le().ok()?);
    if length > body.len() {
        return None;
    }
    String::from_utf8(body.split_to(length).to_vec()).ok()
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).expect("names and reasons are short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Version { oldest } => {
                write!(out, "the edge protocol is older than version {oldest}; upgrade the sender")
            }
            Refused::UnknownEdge => out.write_str("no plan that runs here has this edge"),
            Refused::NotAllowed => out.write_str("the edge is declared for another sender"),
            Refused::Draining => out.write_str("the receiver is draining"),
            Refused::Busy => out.write_str("the receiver has too many senders"),
            Refused::Other { code, reason } => write!(out, "{reason} (code {code})"),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Length { bytes } => {
                write!(out, "a frame of {bytes} bytes, and at most {FRAME_BYTES_MAX} may come")
            }
            ProtocolError::Kind { kind } => write!(out, "a frame of kind {kind}, which nobody knows"),
            ProtocolError::Body { kind } => write!(out, "a frame of kind {kind} with a broken body"),
            ProtocolError::Unexpected { what } => write!(out, "{what} must not come here"),
            ProtocolError::Gap { next, found } => write!(out, "batch {found} came, and {next} should have"),
            ProtocolError::Overdrawn { credit } => {
                write!(out, "more came than the {credit} bytes that were granted")
            }
            ProtocolError::Impossible { claimed } => {
                write!(out, "an acknowledgement of {claimed} batches, which cannot be")
            }
        }
    }
}

impl std::error::Error for Refused {}
impl std::error::Error for ProtocolError {}

/// The version of this protocol.
pub(super) const VERSION: u16 = 2;
/// From this version on a sender hears how events ended that did not end well.
pub(super) const VERSION_ENDED: u16 = 2;
/// The oldest version that is still spoken.
pub(super) const VERSION_OLDEST: u16 = 1;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSE: u8 = 3;
const BATCH: u8 = 4;
const ACKNOWLEDGE: u8 = 5;
const PING: u8 = 6;
const PONG: u8 = 7;
const BYE: u8 = 8;
const ENDED: u8 = 9;
const READ_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests;
