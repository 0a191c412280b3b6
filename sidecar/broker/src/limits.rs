//! How much of everything there may be, and why.

use std::time::Duration;

/// Partitions of one dnpipe. An idle one costs a few hundred bytes.
pub(crate) const PARTITIONS_MAX: u32 = 1024;
/// Groups of one dnpipe: each keeps a cursor for each partition.
pub(crate) const GROUPS_MAX: usize = 1024;
/// Members of one group.
pub(crate) const MEMBERS_MAX: usize = 4096;
/// Bytes of the name of a group or a member.
pub(crate) const GROUP_NAME_BYTES_MAX: usize = 128;

/// Producers that a partition remembers. One that was idle for [`PRODUCER_IDLE`], or for
/// [`POSITION_IDLE`], makes room for another.
pub(crate) const PRODUCERS_MAX: usize = 2048;
/// How long an idle producer is remembered whatever happens.
pub(crate) const PRODUCER_IDLE: Duration = Duration::from_secs(3600);
/// The same for one that says in its batches how far it has come in its source: a pipeline may stand still over a holiday.
pub(crate) const POSITION_IDLE: Duration = Duration::from_secs(30 * 86_400);
/// Pieces of a producer's past whose offsets are known: as many batches as a client may have in flight, and then some.
pub(crate) const RUNS_MAX: usize = 256;
/// Ids of messages that a partition remembers; beyond, the oldest go before their window ends.
pub(crate) const IDS_MAX: usize = 1 << 20;

/// Records of a partition that members of a group may have without having acknowledged them: bounds what a cursor is.
pub(crate) const PENDING_RECORDS_MAX: u64 = 8 << 10;
/// The same for members that hold what they get, such as pipelines with open windows: they acknowledge in order, so that what
/// they have out is in few pieces.
pub(crate) const HELD_RECORDS_MAX: u64 = 256 << 10;
/// Pieces that what a group has of a partition may fall into, by what is handled and what is not: written down, they must fit a
/// record. What was handed out in the usual way falls into no more.
pub(crate) const PIECES_MAX: usize = 2 * PENDING_RECORDS_MAX as usize;
/// The longest wait for another delivery.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Bytes of the broker's own state in the journal after which it is written anew and the old is let go.
pub(crate) const STATE_BYTES: u64 = 8 << 20;
/// The same for a start that could not read all of it, which the next one may.
pub(crate) const STATE_HELD_BYTES: u64 = 64 << 20;
/// Bytes pushed, whatever to, after which what partitions know of their producers is written down: a start reads about so
/// much, in a tenth of a second.
pub(crate) const CHECKPOINT_BYTES: u64 = 64 << 20;
/// The least that is pushed for each byte of what is written down so.
pub(crate) const CHECKPOINT_SHARE: u64 = 16;
/// The same is written down when nothing was pushed for so many turns of [`MAINTENANCE`].
pub(crate) const REST: u32 = 5;
/// Bytes written to the journal after which the state is written anew, where there is any since: what is left of it between
/// records that are gone keeps their segments from being freed, and a start looks for it.
pub(crate) const STATE_SPREAD_BYTES: u64 = 256 << 20;
/// The least that is written to the journal for each byte of state that is written anew so.
pub(crate) const STATE_SPREAD_SHARE: u64 = 4096;
/// Bytes of one record of state: well below what a record may have.
pub(crate) const STATE_RECORD_BYTES: usize = 256 << 10;
/// How much of a partition a start reads at a time.
pub(crate) const RECOVERY_READ_BYTES: usize = 1 << 20;

/// How often a running broker looks after itself.
pub(crate) const MAINTENANCE: Duration = Duration::from_secs(1);

const _: () = assert!(STATE_RECORD_BYTES * 2 < sidestream_event::record::RECORD_BYTES_MAX);
