//! What a client asks. New requests go to the end: postcard numbers them in this order.

use serde::{Deserialize, Serialize};

use super::{DnpipeName, MoveRequest};

/// A request of version 1 of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Nothing: to see whether anybody is there, and to be seen. Answered by `Pong`.
    Ping,
    /// The dnpipes that the caller may use, in the order of their names: as many as one answer holds. Answered by `Dnpipes`.
    List,
    /// One dnpipe: its partitions and who serves them, its groups. Answered by `Dnpipe`.
    Describe {
        /// Which.
        dnpipe: DnpipeName,
    },
    /// Appends the record batch in the tail. Answered by `Pushed` when it is as durable as the dnpipe says.
    Push {
        /// To which.
        dnpipe: DnpipeName,
        /// To which of its partitions.
        partition: u32,
        /// Only under these conditions.
        only_if: Conditions,
    },
    /// Whole batches from a place on. Answered by `Pulled`, at once where there is something and else within `wait_millis`.
    Pull {
        /// From which.
        dnpipe: DnpipeName,
        /// From which of its partitions.
        partition: u32,
        /// From where on.
        from: From,
        /// The most bytes of batches; one batch comes however large it is.
        max_bytes: u32,
        /// The most records; a batch is not cut, so there may be more, to be skipped at the end.
        max_records: u32,
        /// How long to wait where there is nothing yet.
        wait_millis: u32,
    },
    /// Makes the caller a member of a group. Answered by `Joined`.
    Join {
        /// Which member of which group.
        member: Member,
        /// Whether deliveries are acknowledged as they are handed out (at most once) or by the member (at least once).
        auto_ack: bool,
    },
    /// The next records for a member. Answered by `Claimed`.
    Next {
        /// Who asks.
        member: Member,
        /// The most bytes of batches; one batch comes however large it is.
        max_bytes: u32,
        /// The most records.
        max_records: u32,
        /// How long to wait where there is nothing yet.
        wait_millis: u32,
    },
    /// A member has handled records. Answered by `Done`.
    Ack {
        /// Who.
        member: Member,
        /// Of which partition.
        partition: u32,
        /// Which, as ranges `from..to`.
        ranges: Vec<(u64, u64)>,
    },
    /// A member could not handle records: they are delivered again, later. Answered by `Done`.
    Return {
        /// Who.
        member: Member,
        /// Of which partition.
        partition: u32,
        /// Which, as ranges `from..to`.
        ranges: Vec<(u64, u64)>,
    },
    /// A member leaves; what it has not acknowledged goes to others. Answered by `Done`.
    Leave {
        /// Who.
        member: Member,
    },
    /// The groups of a dnpipe. Answered by `Groups`.
    Groups {
        /// Of which.
        dnpipe: DnpipeName,
    },
    /// Moves the cursors of a group. Answered by `Done`.
    Seek {
        /// The dnpipe.
        dnpipe: DnpipeName,
        /// The group.
        group: String,
        /// Only this partition; all of them where absent.
        partition: Option<u32>,
        /// Where to.
        to: From,
    },
    /// Has the records whose letters are dead delivered to their group once more. Answered by `Redriven`.
    Redrive {
        /// The dnpipe.
        dnpipe: DnpipeName,
        /// The group.
        group: String,
    },
    /// Removes every record. Answered by `Reset` when no older record is delivered any more.
    Reset {
        /// Of which.
        dnpipe: DnpipeName,
    },
    /// Reads everything that is stored and compares every checksum. Answered by `Verified`.
    Verify {
        /// Of which; of all that the caller may use where absent.
        dnpipe: Option<DnpipeName>,
    },
    /// The same as `List` for those behind one in the order of their names; none of them is the end. Answered by `Dnpipes`.
    ListBehind {
        /// Behind which.
        dnpipe: DnpipeName,
    },
    /// Like `Join`, for who works long on records: what it is handed out stays with it until it acknowledges it, gives it back
    /// or is gone. Answered by `Joined`.
    JoinToHold {
        /// Which member of which group.
        member: Member,
    },
    /// Takes over a producer of a partition: what its earlier incarnations pushed is in the answer, or will never be there.
    /// Answered by `Opened`, when that is as durable as the dnpipe says.
    Open {
        /// The dnpipe.
        dnpipe: DnpipeName,
        /// The partition.
        partition: u32,
        /// The producer's id; not 0.
        producer: u64,
    },
    /// From a server of the pool: a step of a move. Answered by `Move`.
    Move(MoveRequest),
}

/// What must hold for a push to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// The dnpipe is in this epoch: nobody has reset it since the caller looked.
    pub epoch: Option<u32>,
    /// The first record gets this offset: nobody has pushed since the caller looked.
    pub next_offset: Option<u64>,
}

/// From where on to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// This offset.
    Offset(u64),
    /// The first batch that the server took at this time or later: nanoseconds since 1970-01-01T00:00:00Z.
    Time(i64),
    /// That many records after the oldest that is kept: `First(0)` is the oldest.
    First(u64),
    /// That many records before the end: `Last(0)` is what comes next.
    Last(u64),
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The dnpipe.
    pub dnpipe: DnpipeName,
    /// The group.
    pub group: String,
    /// Its own name, unique in the group. Who joins under the same name takes the place of the one before.
    pub name: String,
}
