//! How much callers can make this process hold, and how long they may take.

use std::time::Duration;

use sidestream_event::native::FRAME_BYTES_MAX;

/// What may be set from outside.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections that are let in over TCP, and as many by the local socket; one more is told that it is too many. 1024 by
    /// default.
    pub connections_max: usize,
    /// How many KiB of large frames may be on their way in at once, of all connections together; 128 MiB by default. A frame
    /// that finds no room waits.
    pub frames_kib_max: usize,
    /// How long a connection may ask nothing; 5 minutes by default.
    pub idle: Duration,
    /// How long a frame, and the head and the body of a request of HTTP, may take to come whole; 30 s by default.
    pub frame: Duration,
    /// How long a reader may take nothing of an answer; 20 s by default.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 1024,
            frames_kib_max: 128 << 10,
            idle: Duration::from_secs(300),
            frame: Duration::from_secs(30),
            silence: Duration::from_secs(20),
        }
    }
}

/// Handshakes at once: those who say nothing hold one for [`GREETING_WITHIN`] each.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// From the first byte of TLS to the end of the preamble.
pub(crate) const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// The same while half of [`HANDSHAKES_MAX`] are taken: those who say nothing make room for those who do.
pub(crate) const GREETING_WITHIN_WHEN_BUSY: Duration = Duration::from_millis(500);
/// Requests of one connection that are not answered; beyond, nothing more is read from it.
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

const _: () = assert!(SMALL_FRAME_BYTES < FRAME_BYTES_MAX);
