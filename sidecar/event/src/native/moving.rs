//! What the servers of a pool ask each other when a dnpipe goes from one to the other. Nobody else is answered.

use serde::{Deserialize, Serialize};

use super::{DnpipeName, Request};

/// A step of a move, asked by the server that is to have the dnpipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveRequest {
    /// Batches of a partition, which come in the tail. Answered by `Copied`.
    Copy {
        /// Of which.
        dnpipe: DnpipeName,
        /// Of which partition.
        partition: u32,
        /// From which offset on; from the oldest where absent.
        from: Option<u64>,
        /// The most bytes; one batch comes however large it is.
        max_bytes: u32,
    },
    /// The dnpipe is to stand still for a while. Answered by `Frozen`.
    Freeze {
        /// Which.
        dnpipe: DnpipeName,
        /// The number of the server that asks.
        to: u32,
    },
    /// Of a dnpipe that stands still, what is to be known of it beside its records; it comes in the tail. Answered by `State`.
    State {
        /// Which.
        dnpipe: DnpipeName,
        /// What it was frozen with.
        token: u64,
        /// From which byte on.
        from: u64,
        /// The most bytes.
        max_bytes: u32,
    },
    /// The dnpipe is the other server's from now on. Answered by `Done`.
    Release {
        /// Which.
        dnpipe: DnpipeName,
        /// What it was frozen with.
        token: u64,
        /// The number of the server that asks.
        to: u32,
    },
    /// The dnpipe need not stand still any more. Answered by `Done`.
    Thaw {
        /// Which.
        dnpipe: DnpipeName,
        /// What it was frozen with.
        token: u64,
    },
}

/// What comes of a step of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveAnswer {
    /// To `Copy`.
    Copied {
        /// Another when what was copied before may not be what is there.
        life: u128,
        /// The oldest offset there is.
        first: u64,
        /// The offset behind the last that can be copied now.
        end: u64,
    },
    /// To `Freeze`.
    Frozen {
        /// What a release has to show.
        token: u64,
        /// How often it will have been moved then.
        term: u32,
        /// By partition, the offset behind the last record.
        ends: Vec<u64>,
        /// By partition, as `Copied` says it.
        lives: Vec<u128>,
        /// How many bytes of state there are.
        state_bytes: u64,
    },
    /// To `State`.
    State,
    /// It is done.
    Done,
    /// What the step goes on from is not so any more: the move begins anew.
    Stale {
        /// What has changed.
        what: String,
    },
    /// Not now.
    Busy {
        /// What is in the way.
        what: String,
    },
}

impl Request {
    /// The dnpipe that it is about, where that decides which server of a pool can answer.
    pub fn dnpipe(&self) -> Option<&DnpipeName> {
        match self {
            // Each server has something to say, and says who has the others.
            Request::Ping | Request::List | Request::ListBehind { .. } | Request::Move(_) => None,
            Request::Describe { dnpipe }
            | Request::Push { dnpipe, .. }
            | Request::Pull { dnpipe, .. }
            | Request::Groups { dnpipe }
            | Request::Seek { dnpipe, .. }
            | Request::Redrive { dnpipe, .. }
            | Request::Reset { dnpipe }
            | Request::Open { dnpipe, .. } => Some(dnpipe),
            Request::Verify { dnpipe } => dnpipe.as_ref(),
            Request::Join { member, .. }
            | Request::JoinToHold { member }
            | Request::Next { member, .. }
            | Request::Ack { member, .. }
            | Request::Return { member, .. }
            | Request::Leave { member } => Some(&member.dnpipe),
        }
    }

    /// Whether asking twice, or not at all, makes no difference to anybody but who asks.
    pub fn only_reads(&self) -> bool {
        match self {
            Request::Ping
            | Request::List
            | Request::ListBehind { .. }
            | Request::Describe { .. }
            | Request::Pull { .. }
            | Request::Groups { .. }
            | Request::Verify { .. } => true,
            Request::Push { .. }
            | Request::Join { .. }
            | Request::JoinToHold { .. }
            | Request::Next { .. }
            | Request::Ack { .. }
            | Request::Return { .. }
            | Request::Leave { .. }
            | Request::Seek { .. }
            | Request::Redrive { .. }
            | Request::Reset { .. }
            | Request::Open { .. }
            | Request::Move(_) => false,
        }
    }
}
