//! What a gateway answers. New answers, and new fields, come in new versions of the protocol.

use serde::{Deserialize, Serialize};

use super::{DnpipeName, MoveAnswer, Refusal};

/// An answer of version 1 of the protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Ping`.
    Pong,
    /// It is done, and there is no more to say.
    Done,
    /// It is not done.
    Refused(Refusal),
    /// To `List`.
    Dnpipes(Vec<DnpipeView>),
    /// To `Describe`.
    Dnpipe(DnpipeView),
    /// To `Push`: the batch is as durable as the dnpipe says. Where some of its records were there before and were left out,
    /// the tail says where each is: see [`read_places`](super::read_places).
    Pushed {
        /// The offset of its first record.
        base_offset: u64,
        /// The epoch it is in.
        epoch: u32,
    },
    /// To `Pull`. The batches are in the tail, one behind the other. The first may begin before `from`, and the last end
    /// behind `next`: what is outside is to be skipped.
    Pulled {
        /// The offset that was asked for.
        from: u64,
        /// Where to read on.
        next: u64,
        /// The epoch.
        epoch: u32,
        /// The oldest offset there is.
        first: u64,
        /// The offset behind the newest record that may be read.
        end: u64,
    },
    /// To `Join`.
    Joined {
        /// The partitions that are its own now; others may follow.
        partitions: Vec<u32>,
    },
    /// To `Next`. The batches of all the shares are in the tail, in this order.
    Claimed(Claimed),
    /// To `Groups`.
    Groups(Vec<GroupView>),
    /// To `Redrive`.
    Redriven {
        /// How many records are delivered again.
        records: u64,
        /// How many are no longer in their dnpipe, and stay dead letters.
        gone: u64,
    },
    /// To `Reset`.
    Reset {
        /// The epoch that has begun.
        epoch: u32,
    },
    /// To `Verify`.
    Verified(Verified),
    /// To `Open`.
    Opened(Incarnation),
    /// To `Move`.
    Move(MoveAnswer),
}

/// What a producer that was taken over goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Its epoch: pushes of lower ones are refused from now on.
    pub epoch: u32,
    /// The number of its next record.
    pub next_sequence: u64,
    /// The highest source position among its batches; 0 is none.
    pub position: u64,
}

/// Records for a member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// By partition.
    pub shares: Vec<Share>,
    /// The partitions that are the member's own now.
    pub partitions: Vec<u32>,
}

/// Records of one partition for a member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The partition.
    pub partition: u32,
    /// The epoch.
    pub epoch: u32,
    /// How many bytes of the tail are its batches.
    pub bytes: u32,
    /// The offsets that are meant, in the order they are to be handled, as ranges `from..to` with the number of this
    /// delivery, from 1: others in the batches are somebody else's.
    pub ranges: Vec<(u64, u64, u32)>,
}

/// A dnpipe as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnpipeView {
    /// Its name.
    pub name: DnpipeName,
    /// The epoch: how often it was reset.
    pub epoch: u32,
    /// When a push is answered: `Device`, `PageCache` or `Memory`.
    pub durability: String,
    /// Bytes it may have; none where only the disk bounds it.
    pub quota_bytes: Option<u64>,
    /// Bytes it has on the disk.
    pub used_bytes: u64,
    /// How long records are kept, in milliseconds; none for until it is reset.
    pub retention_millis: Option<u64>,
    /// How many bytes of records are kept; none for all.
    pub retention_bytes: Option<u64>,
    /// Its partitions, from 0 on.
    pub partitions: Vec<PartitionView>,
    /// The disk underneath.
    pub disk: DiskView,
}

/// A partition as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionView {
    /// Who serves it, as `host:port`; none for whoever answered this.
    pub owner: Option<String>,
    /// The oldest offset there is.
    pub first: u64,
    /// The offset behind the newest record that may be read.
    pub end: u64,
}

/// What writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// `uring`, `file` or `sim`.
    pub driver: String,
    /// Why this one.
    pub reason: String,
}

/// A group as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// Its members, by name.
    pub members: Vec<MemberView>,
    /// By partition: the offset below which everything is acknowledged.
    pub cursors: Vec<u64>,
    /// Records that are not acknowledged.
    pub lag_records: u64,
    /// The age of the oldest of them, in seconds.
    pub lag_seconds: f64,
    /// Where its dead letters go.
    pub dead_letter: Option<DnpipeName>,
}

/// A member of a group as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// The partitions that are its own.
    pub partitions: Vec<u32>,
}

/// What comparing every checksum found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Batches that were read.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is not as it was written.
    pub damage: Vec<DamageView>,
}

/// A range that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageView {
    /// The dnpipe, where it is known whose it is.
    pub dnpipe: Option<DnpipeName>,
    /// Its partition, where that is known.
    pub partition: Option<u32>,
    /// The offsets `from..to`, where they are known.
    pub offsets: Option<(u64, u64)>,
    /// Where on the disk, and what is wrong there.
    pub reason: String,
}
