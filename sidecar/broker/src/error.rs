//! Why something is not done. Each error carries the facts a program decides by, and says what to do about it; the doors
//! map them to their protocols.

use std::{fmt, sync::Arc};

use sidestream_event::{native::DnpipeName, record::RecordError};
use sidestream_log::{AppendError, ReadError};

use crate::{
    keys::{KeyError, Locked},
    limits,
};

/// Why a push is refused. What is refused is not in the dnpipe, and never will be; only after [`PushError::Failed`] and
/// [`PushError::Closed`] nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushError {
    /// There is no such dnpipe.
    Unknown(DnpipeName),
    /// The dnpipe has no such partition.
    UnknownPartition {
        /// What was asked for.
        partition: u32,
        /// How many it has.
        partitions: u32,
    },
    /// The bytes are no batch.
    BadBatch(RecordError),
    /// The dnpipe was reset since the caller looked.
    WrongEpoch {
        /// The epoch it is in.
        current: u32,
    },
    /// Somebody pushed since the caller looked.
    WrongOffset {
        /// The offset that the next record gets.
        next: u64,
    },
    /// The producer left out sequence numbers, or cut its batches anew.
    OutOfSequence {
        /// The number that is next.
        expected: u64,
    },
    /// A later incarnation of the producer has taken over.
    Fenced {
        /// Its epoch.
        current: u32,
    },
    /// The batch was taken before, so long ago that nobody knows its offset any more. It is not taken twice.
    Forgotten {
        /// The number that is next.
        expected: u64,
    },
    /// The partition remembers as many producers as it may.
    TooManyProducers,
    /// The dnpipe, or the disk, has no room. Nothing is dropped to make some.
    Full {
        /// Which.
        what: Room,
        /// Bytes it may have; for a disk without a capacity of its own, what is in use.
        limit: u64,
    },
    /// The batch is larger than the journal takes.
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The most it may have.
        max: u64,
    },
    /// The dnpipe is about to go to another server: push the same batch again in a moment, to whoever has it then.
    Moving,
    /// More is on its way to the disk than may be: wait for room and push the same batch before any later one.
    Busy,
    /// The key of the dnpipe can't be read.
    Locked(Locked),
    /// The disk failed; the batch may be in the dnpipe or not.
    Failed {
        /// What the machine said.
        reason: Arc<str>,
    },
    /// The journal is closed; the batch may be in the dnpipe or not.
    Closed,
}

/// What can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The dnpipe's own quota.
    Quota,
    /// The disk that all dnpipes of the server share.
    Disk,
}

impl From<KeyError> for PushError {
    fn from(error: KeyError) -> Self {
        match error.locks() {
            Ok(locked) => PushError::Locked(locked),
            Err(error) => PushError::Failed { reason: error.to_string().into() },
        }
    }
}

impl From<RecordError> for PushError {
    fn from(error: RecordError) -> Self {
        PushError::BadBatch(error)
    }
}

/// Why a pull gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullError {
    /// There is no such dnpipe.
    Unknown(DnpipeName),
    /// The dnpipe has no such partition.
    UnknownPartition {
        /// What was asked for.
        partition: u32,
        /// How many it has.
        partitions: u32,
    },
    /// There is nothing at this offset: it is gone, or not there yet.
    OutOfRange {
        /// The oldest offset there is.
        first: u64,
        /// The offset behind the newest record.
        end: u64,
    },
    /// These records are not as they were written, and are not delivered.
    Damaged {
        /// The first of them.
        from: u64,
        /// The first after them.
        to: u64,
    },
    /// The key of the dnpipe can't be read.
    Locked(Locked),
    /// The disk failed.
    Failed {
        /// What the machine said.
        reason: Arc<str>,
    },
    /// The journal is closed.
    Closed,
}

impl From<KeyError> for PullError {
    fn from(error: KeyError) -> Self {
        match error.locks() {
            Ok(locked) => PullError::Locked(locked),
            Err(error) => PullError::Failed { reason: error.to_string().into() },
        }
    }
}

/// Why something about a group is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// Its records can't be read.
    Pull(PullError),
    /// There is no such group.
    UnknownGroup {
        /// What was asked for.
        group: String,
    },
    /// The caller is no member of the group, or no longer: it was silent for too long, or another took its name.
    NotMember {
        /// The group.
        group: String,
    },
    /// A name that no group or member may have.
    Name {
        /// The name.
        name: String,
    },
    /// The dnpipe has as many groups as it may, or the group as many members.
    TooMany,
    /// What is acknowledged or given back leaves more holes than can be written down.
    Scattered {
        /// The partition.
        partition: u32,
    },
    /// The partition is another member's now.
    NotOwner {
        /// The partition.
        partition: u32,
    },
    /// The dnpipe itself names the group.
    Declared {
        /// The group.
        group: String,
    },
    /// The group has no dead letters, so none can be redriven.
    NoDeadLetter {
        /// The group.
        group: String,
    },
    /// The group's state could not be written.
    Write(PushError),
}

impl From<PullError> for GroupError {
    fn from(error: PullError) -> Self {
        GroupError::Pull(error)
    }
}

/// Why a dnpipe is not made, changed or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// There is no such dnpipe.
    Unknown(DnpipeName),
    /// None, or too many.
    PartitionCount {
        /// How many are asked for.
        found: u32,
    },
    /// The number of partitions never changes.
    PartitionsChanged {
        /// How many it has.
        has: u32,
        /// How many are asked for.
        asked: u32,
    },
    /// Too many groups.
    TooManyGroups {
        /// How many are asked for.
        found: usize,
    },
    /// A name that no group may have.
    GroupName {
        /// The name.
        name: String,
    },
    /// Two groups of one name.
    GroupTwice {
        /// The name.
        name: String,
    },
    /// Deliveries end, and there is no dnpipe for what was not taken.
    NoDeadLetter {
        /// The group.
        group: String,
    },
    /// A group that would never be delivered anything.
    NoDeliveries {
        /// The group.
        group: String,
    },
    /// A dnpipe that takes its own dead letters would never end.
    OwnDeadLetter {
        /// The group.
        group: String,
    },
    /// A part of the state could not be read, and there are records whose dnpipe stood in it: it may be this one.
    Nameless {
        /// How many partitions have such records.
        partitions: usize,
    },
    /// It is to be encrypted, and there is no key for that.
    Key(KeyError),
    /// The journal did not take it.
    Write(PushError),
}

/// Why a reset is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetError {
    /// There is no such dnpipe.
    Unknown(DnpipeName),
    /// The journal did not take it; asking again continues.
    Write(PushError),
}

/// Why a broker does not begin.
#[derive(Debug)]
pub enum OpenError {
    /// Its state can't be read.
    Read(ReadError),
    /// Its state can't be written.
    Write(PushError),
    /// A later program wrote what this one does not know.
    Newer {
        /// What it says.
        found: String,
    },
}

/// What the journal says, in a pusher's terms.
pub(crate) fn write_error(error: AppendError) -> PushError {
    match error {
        AppendError::TooLarge { bytes, max } => PushError::TooLarge { bytes: bytes as u64, max: max as u64 },
        AppendError::Busy => PushError::Busy,
        AppendError::Full { used, capacity } => {
            PushError::Full { what: Room::Disk, limit: capacity.unwrap_or(used) }
        }
        AppendError::Failed { reason } => PushError::Failed { reason },
        AppendError::Closed => PushError::Closed,
        error @ (AppendError::Malformed | AppendError::Unknown { .. } | AppendError::TooMany { .. }) => {
            PushError::Failed { reason: error.to_string().into() }
        }
    }
}

/// What the journal says, in a puller's terms; none where what is there has changed meanwhile, and looking again helps.
pub(crate) fn read_error(error: ReadError) -> Option<PullError> {
    match error {
        ReadError::OutOfRange { .. } | ReadError::Unknown { .. } => None,
        ReadError::Damaged { from, to } => Some(PullError::Damaged { from, to }),
        ReadError::Failed { reason } => Some(PullError::Failed { reason }),
        ReadError::Closed => Some(PullError::Closed),
    }
}

impl fmt::Display for PushError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Unknown(name) => unknown(name, out),
            PushError::UnknownPartition { partition, partitions } => {
                unknown_partition(*partition, *partitions, out)
            }
            PushError::BadBatch(error) => write!(out, "the batch is refused: {error}"),
            PushError::WrongEpoch { current } => {
                write!(out, "the dnpipe is in epoch {current}: it was reset; look again and decide anew")
            }
            PushError::WrongOffset { next } => {
                write!(out, "the next record gets offset {next}: somebody pushed; look again and decide anew")
            }
            PushError::OutOfSequence { expected } => write!(
                out,
                "the producer's next number is {expected}; push what was not acknowledged again, in order and in the same batches"
            ),
            PushError::Fenced { current } => write!(
                out,
                "incarnation {current} of the producer has taken over; end this one, or open the producer anew"
            ),
            PushError::Forgotten { expected } => write!(
                out,
                "the batch was taken before, and its offset is forgotten; go on with number {expected}"
            ),
            PushError::TooManyProducers => write!(
                out,
                "the partition remembers {} producers, and none was idle for an hour; push with fewer, or without one",
                limits::PRODUCERS_MAX
            ),
            PushError::Full { what: Room::Quota, limit } => write!(
                out,
                "the quota of {limit} bytes is full, and nothing is dropped; enlarge it, set a retention, or reset the dnpipe"
            ),
            PushError::Full { what: Room::Disk, limit } => write!(
                out,
                "the disk of {limit} bytes is full, and nothing is dropped; enlarge it, set retentions, or reset a dnpipe"
            ),
            PushError::TooLarge { bytes, max } => {
                write!(out, "{bytes} bytes are more than the {max} a batch may have; push smaller batches")
            }
            PushError::Moving => {
                out.write_str("the dnpipe is about to go to another server; try again in a moment")
            }
            PushError::Busy => {
                out.write_str("more is on its way to the disk than may be; push the batch again in a moment")
            }
            PushError::Locked(locked) => locked.fmt(out),
            PushError::Failed { reason } => write!(
                out,
                "the disk failed ({reason}), and nobody knows whether the batch is in; look at the disk, then push it again"
            ),
            PushError::Closed => out.write_str("the server stops; push the batch again when it is back"),
        }
    }
}

impl fmt::Display for PullError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PullError::Unknown(name) => unknown(name, out),
            PullError::UnknownPartition { partition, partitions } => {
                unknown_partition(*partition, *partitions, out)
            }
            PullError::OutOfRange { first, end } => write!(
                out,
                "there is nothing at this offset; what is kept begins at {first} and ends before {end}: pull from there"
            ),
            PullError::Damaged { from, to } => write!(
                out,
                "the records from offset {from} to before {to} are not as they were written; pull on from {to}, and look at the disk"
            ),
            PullError::Locked(locked) => locked.fmt(out),
            PullError::Failed { reason } => {
                write!(out, "the disk failed ({reason}); look at it, then pull again")
            }
            PullError::Closed => out.write_str("the server stops; pull again when it is back"),
        }
    }
}

impl fmt::Display for GroupError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupError::Pull(error) => error.fmt(out),
            GroupError::UnknownGroup { group } => {
                write!(out, "there is no group {group:?}; join it once, or name it in the dnpipe's groups")
            }
            GroupError::NotMember { group } => {
                write!(out, "the caller is no member of the group {group:?}, or no longer; join it again")
            }
            GroupError::Name { name } => write!(
                out,
                "{name:?} can't name a group or a member; write 1 to {} visible ASCII characters",
                limits::GROUP_NAME_BYTES_MAX
            ),
            GroupError::TooMany => write!(
                out,
                "a dnpipe has {} groups at most, and a group {} members; remove some",
                limits::GROUPS_MAX,
                limits::MEMBERS_MAX
            ),
            GroupError::Scattered { partition } => write!(
                out,
                "of partition {partition} the group remembers {} pieces at most between what is handled and what is not; \
                 acknowledge the oldest records first",
                limits::PIECES_MAX
            ),
            GroupError::NotOwner { partition } => write!(
                out,
                "partition {partition} is another member's now, and what was not acknowledged goes there; go on with the next records"
            ),
            GroupError::Declared { group } => {
                write!(
                    out,
                    "the dnpipe itself names the group {group:?}; take it out of the dnpipe's groups first"
                )
            }
            GroupError::NoDeadLetter { group } => {
                write!(
                    out,
                    "the group {group:?} has no dead letters; name a dnpipe for them in the dnpipe's groups"
                )
            }
            GroupError::Write(error) => error.fmt(out),
        }
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Unknown(name) => unknown(name, out),
            ApplyError::PartitionCount { found } => {
                write!(out, "{found} partitions; write 1 to {}", limits::PARTITIONS_MAX)
            }
            ApplyError::PartitionsChanged { has, asked } => write!(
                out,
                "the dnpipe has {has} partitions, which never changes; make another one with {asked}"
            ),
            ApplyError::TooManyGroups { found } => {
                write!(out, "{found} groups; a dnpipe has {} at most", limits::GROUPS_MAX)
            }
            ApplyError::GroupName { name } => write!(
                out,
                "{name:?} can't name a group; write 1 to {} visible ASCII characters",
                limits::GROUP_NAME_BYTES_MAX
            ),
            ApplyError::GroupTwice { name } => write!(out, "two groups are called {name:?}; rename one"),
            ApplyError::NoDeadLetter { group } => write!(
                out,
                "the group {group:?} has `maxDeliveries` and no `deadLetter`; name a dnpipe for what is not taken"
            ),
            ApplyError::NoDeliveries { group } => {
                write!(out, "the group {group:?} has `maxDeliveries: 0`; write 1 or more, or leave it out")
            }
            ApplyError::OwnDeadLetter { group } => write!(
                out,
                "the dead letters of the group {group:?} would go to the dnpipe they come from; name another one"
            ),
            ApplyError::Nameless { partitions } => write!(
                out,
                "a part of the state could not be read, and {partitions} partitions with records have no name since: they may be this dnpipe's; start again, and where that does not help, restore the data folder, or export what is there into another one"
            ),
            ApplyError::Key(error) => write!(out, "it is to be encrypted: {error}"),
            ApplyError::Write(error) => error.fmt(out),
        }
    }
}

impl fmt::Display for ResetError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResetError::Unknown(name) => unknown(name, out),
            ResetError::Write(error) => write!(out, "the reset is not done: {error}"),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Read(error) => write!(out, "the broker's state can't be read: {error}"),
            OpenError::Write(error) => write!(out, "the broker's state can't be written: {error}"),
            OpenError::Newer { found } => {
                write!(out, "the broker's state was written by a later program ({found}); use that one")
            }
        }
    }
}

fn unknown(name: &DnpipeName, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(out, "there is no dnpipe `{name}`; make it, or look at the list of those there are")
}

fn unknown_partition(partition: u32, partitions: u32, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(out, "there is no partition {partition}; the dnpipe has {partitions}, counted from 0")
}

impl std::error::Error for PushError {}
impl std::error::Error for PullError {}
impl std::error::Error for GroupError {}
impl std::error::Error for ApplyError {}
impl std::error::Error for ResetError {}
impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_lower_case_clause_with_its_cure() {
        let name: DnpipeName = "shop/orders".parse().unwrap();
        let errors: [&dyn fmt::Display; 9] = [
            &PushError::Unknown(name.clone()),
            &PushError::Full { what: Room::Quota, limit: 1024 },
            &PushError::OutOfSequence { expected: 3 },
            &PushError::Fenced { current: 2 },
            &PullError::OutOfRange { first: 3, end: 9 },
            &PullError::Damaged { from: 3, to: 9 },
            &GroupError::NotMember { group: "billing".into() },
            &ApplyError::NoDeadLetter { group: "billing".into() },
            &ApplyError::PartitionsChanged { has: 1, asked: 2 },
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains([';', ':']) && !text.ends_with('.'), "{text}");
            assert!(!text.starts_with(char::is_uppercase), "{text}");
        }
    }
}
