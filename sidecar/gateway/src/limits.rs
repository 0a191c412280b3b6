//! How much callers can make this process hold, and how long they may take.

use std::time::Duration;

use sidestream_event::{
    native::{FRAME_BYTES_MAX, HEAD_BYTES_MAX},
    record::BATCH_BYTES_MAX,
};

/// What may be set from outside.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that are let in over TCP, and as many by the local socket; one more is told that it is too many. 1024 by
    /// default.
    pub connections_max: usize,
    /// How many KiB of large frames may be on their way in at once, of all connections together; 128 MiB by default. A frame
    /// that finds no room waits. As much may have come on streams of gRPC that wait, or are not read for another reason: one more
    /// of those is refused.
    pub frames_kib_max: usize,
    /// How long a connection may ask nothing; 5 minutes by default.
    pub idle: Duration,
    /// How long a frame, the head and the body of a request of HTTP, and a message of gRPC may take to come whole; 30 s by
    /// default.
    pub frame: Duration,
    /// How long a reader may take nothing of an answer; 20 s by default.
    pub silence: Duration,
    /// How often who speaks HTTP/2 is asked whether it is there, and how long it may take to say so; 20 s by default.
    pub ping: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 1024,
            frames_kib_max: 128 << 10,
            idle: Duration::from_secs(300),
            frame: Duration::from_secs(30),
            silence: Duration::from_secs(20),
            ping: Duration::from_secs(20),
        }
    }
}

/// Handshakes at once: those who say nothing hold one for [`GREETING_WITHIN`] each.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// From the first byte of TLS to the end of the preamble.
pub(crate) const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// The same while half of [`HANDSHAKES_MAX`] are taken: those who say nothing make room for those who do.
pub(crate) const GREETING_WITHIN_WHEN_BUSY: Duration = Duration::from_millis(500);
/// Requests of one connection that are not answered; beyond, nothing more is read from it. Over HTTP/2, those that are done to
/// their end, whether anybody waits for it or not; beyond, one waits for another's end.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// Answers that wait to be written, and are written together. Of those that hold records there are fewer:
/// [`PULLED_WAITING`] and [`CLAIMS_IN_FLIGHT_MAX`].
pub(crate) const ANSWERS_WAITING: usize = 64;
/// A frame up to this needs no room of its own: a read may bring it whole.
pub(crate) const SMALL_FRAME_BYTES: usize = 64 << 10;
/// The most that one pull gives, beyond its first batch.
pub(crate) const PULL_BYTES_MAX: usize = 1 << 20;
/// The longest that a pull waits for more.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a push waits for the disk to catch up.
pub(crate) const ROOM_WITHIN: Duration = Duration::from_secs(10);
/// After an accept that failed: most often there are no descriptors left.
pub(crate) const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Pulls of one connection whose records wait to be written; others read again when it is their turn.
pub(crate) const PULLED_WAITING: usize = 16;
/// Requests of one connection for records of a group that are being done. What they claim waits to be written, and cannot be
/// read again.
pub(crate) const CLAIMS_IN_FLIGHT_MAX: usize = 64;
/// How long the members of a connection by the local socket stay members when it has ended: as long as a client takes to open
/// another, with room for a busy machine.
pub(crate) const COMES_BACK_WITHIN: Duration = Duration::from_secs(3);
/// Members of groups on one connection.
pub(crate) const MEMBERS_MAX: usize = 256;
/// Records of an answer of HTTP or gRPC where the caller does not say.
pub(crate) const RECORDS_DEFAULT: u64 = 1000;
/// The most records of such an answer: each is many times its bytes while it is made.
pub(crate) const RECORDS_MAX: u64 = 10_000;

/// Requests of one connection of HTTP/2 that are not answered, and its streams.
pub(crate) const STREAMS_MAX: u32 = 64;
/// What a caller may send ahead on one stream of HTTP/2: that of all of them together is what a connection holds unread.
pub(crate) const STREAM_WINDOW_BYTES: u32 = STREAM_WINDOW_KIB << 10;
pub(crate) const STREAM_WINDOW_KIB: u32 = 128;
/// The same on a connection: more than all its streams have, so that those that wait leave the others theirs. The library ends a
/// connection with so many unread pieces of data that, if each had 256 bytes, they had half of this: 65,000 pushes of a few bytes,
/// which is as many as wait on sixteen streams that nobody reads.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// What waits in a connection to be written, of each stream, beside what its answer still holds.
pub(crate) const WRITTEN_AHEAD_BYTES: usize = 64 << 10;
/// A piece of an answer: the next one is given when this one may be written.
pub(crate) const PIECE_BYTES: usize = 16 << 10;
/// How long a connection of HTTP/2 that is told that it ends may take to say that it heard so, where it waits for no answer.
pub(crate) const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// The longest head of a request of HTTP/2.
pub(crate) const HEADERS_BYTES_MAX: u32 = 32 << 10;

/// The longest message of a push over gRPC: what clients send at most where nobody tells them otherwise.
pub(crate) const PUSHED_BYTES_MAX: usize = 4 << 20;
/// The longest of any other message over gRPC, as of a head of the native protocol.
pub(crate) const MESSAGE_BYTES_MAX: usize = HEAD_BYTES_MAX;
/// A message over gRPC up to this needs no room of its own.
pub(crate) const SMALL_MESSAGE_BYTES: usize = 16 << 10;
/// Records of a push over gRPC: the answer may have a place for each.
pub(crate) const PUSHED_RECORDS_MAX: usize = 100_000;
/// Pushes of a stream that are not answered; beyond, nothing more is read from it.
pub(crate) const PUBLISHED_IN_FLIGHT_MAX: usize = 64;
/// Acknowledgements of a stream that are not done; beyond, nothing more is read from it.
pub(crate) const ACKS_IN_FLIGHT_MAX: usize = 64;
/// How often a stream shows that its member is there: a third of the time after which one is taken for gone.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// What a message of a stream of records has at most, beyond its first record.
pub(crate) const STREAMED_BYTES_MAX: u64 = 256 << 10;
/// Bytes of batches that a member is handed out at once over gRPC: what is handed out cannot be read again, so all of it is kept,
/// and what was compressed is many times that.
pub(crate) const CLAIMED_BYTES_MAX: u32 = 64 << 10;

const _: () = assert!(SMALL_FRAME_BYTES < FRAME_BYTES_MAX);
const _: () = assert!(STREAMS_MAX * STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(SMALL_MESSAGE_BYTES < MESSAGE_BYTES_MAX && MESSAGE_BYTES_MAX < PUSHED_BYTES_MAX);
const _: () = assert!(PUSHED_BYTES_MAX <= BATCH_BYTES_MAX);
