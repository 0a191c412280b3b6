//! How much the containers beside this one can make it hold, and how long they may take. The sidecar of a small pod has 64 MiB
//! for everything.

use std::time::Duration;

use sidestream_event::native::FRAME_BYTES_MAX;

/// Connections of all containers of the pod together; one more is told that it is too many.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Connections that have not said yet what they speak.
pub(super) const GREETINGS_MAX: usize = 64;
/// How long they may take for that.
pub(super) const GREETING_WITHIN: Duration = Duration::from_secs(5);
/// The same while half of [`GREETINGS_MAX`] are taken: those who say nothing make room for those who do.
pub(super) const GREETING_WITHIN_WHEN_BUSY: Duration = Duration::from_millis(500);
/// Connections that wait for us, as the kernel sees it.
pub(super) const BACKLOG: u32 = 256;
/// After an accept that failed: most often there are no descriptors left.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Lines to servers that one connection may have.
pub(super) const LINES_MAX: usize = 16;
/// Lines that all connections have together beside one each: each of them is a session of TLS with its buffers.
pub(super) const MORE_LINES_MAX: usize = 64;
/// Dnpipes of which one connection keeps where it asks for them.
pub(super) const WAYS_MAX: usize = 256;
/// Connections to servers that are being opened, of all connections together.
pub(super) const DIALS_MAX: usize = 16;
/// How long one may take to be opened, and wait for its turn.
pub(super) const OPENS_WITHIN: Duration = Duration::from_secs(5);
/// Requests of one connection that are not answered: as many as a server takes of one; beyond, nothing more is read.
pub(super) const IN_FLIGHT_MAX: usize = 256;
/// Requests that a line has taken and not written.
pub(super) const REQUESTS_WAITING: usize = 4;
/// Requests of one connection that wait for their lines, and their bytes; beyond, nothing more is read from it.
pub(super) const WAITING_MAX: usize = 64;
pub(super) const WAITING_BYTES_MAX: usize = 64 << 10;
/// Answers that wait to be written to one connection, and as many that come from its lines.
pub(super) const ANSWERS_WAITING: usize = 4;
/// A frame up to this needs no room of its own: a read may bring it whole.
pub(super) const SMALL_FRAME_BYTES: usize = 16 << 10;
/// How many KiB of larger frames and bodies may be here at once on their way to servers, and as many on their way to apps.
pub(super) const ROOM_KIB: usize = 9 << 10;

/// How long a connection may ask nothing.
pub(super) const IDLE: Duration = Duration::from_secs(300);
/// How long a frame may take to come whole and to be read whole by the app, and the head and the body of a request of HTTP to
/// come.
pub(super) const FRAME_WITHIN: Duration = Duration::from_secs(30);
/// Who has room that others wait for has to use it: how long the body of a request may take to come then, and how often it is
/// looked whether a frame goes on.
pub(super) const TURN: Duration = Duration::from_secs(1);
/// What of a frame has to come in a [`TURN`].
pub(super) const TURN_BYTES: usize = 64 << 10;
/// How long either end may take nothing of what is written to it. Longer than a server waits for its disk.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// How long a server may take to answer a request of HTTP: longer than the longest wait for records, and its disk.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long the members of a connection stay members when it has ended: as long as a client takes to open another, with room
/// for a busy machine.
pub(super) const COMES_BACK_WITHIN: Duration = Duration::from_secs(3);

/// The longest head of a request of HTTP.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// How often a request of HTTP is led elsewhere.
pub(super) const REDIRECTS_MAX: usize = 4;
/// Pools that are asked for a dnpipe.
pub(super) const POOLS_MAX: usize = 8;
/// Dnpipes of which is remembered where they are, and servers of which is remembered that they are away.
pub(super) const NAMES_MAX: usize = 1024;

const _: () = assert!(ROOM_KIB << 10 >= 2 * FRAME_BYTES_MAX && SMALL_FRAME_BYTES < FRAME_BYTES_MAX);
// All of a small frame may wait.
const _: () = assert!(WAITING_BYTES_MAX >= SMALL_FRAME_BYTES && WAITING_MAX < IN_FLIGHT_MAX);

/// The KiB of a frame, rounded up.
pub(super) fn kib(bytes: usize) -> u32 {
    bytes.div_ceil(1024) as u32
}
