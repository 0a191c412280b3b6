//! Dnpipes on the journal: push, pull, reset, groups, deduplication, dead letters.
//!
//! ```text
//!   push ──▶ checks, order ──▶ journal partition ──▶ durable ──▶ answer
//!   pull ◀── fence, second look ◀── journal partition
//!   group: next ──▶ share of a partition ──▶ out ──▶ ack ──▶ state partition
//!                                             └─ not taken ──▶ again, later ──▶ dead letters
//!   reset ──▶ fence through all partitions ──▶ state partition ──▶ the new epoch
//! ```
//!
//! A [`Broker`] is a handle on all dnpipes of one journal; clones are the same one. What it must not forget it writes to the
//! journal's partition of state, so there is one file format, and one barrier makes pushes, cursors and resets durable
//! together. `docs/explanation/dnpipes.md` says what it promises, and names the test of each promise.
//!
//! This room holds no socket and no file, and knows no certificates: the doors ask [`access::allowed`] before they ask it.

pub mod access;
mod admin;
mod arrivals;
mod bring;
mod encryption;
mod error;
mod group;
mod homes;
mod ids;
mod keep;
mod keys;
mod limits;
mod moves;
mod nameless;
mod news;
mod open;
mod pipe;
mod producer;
mod producers;
mod pull;
mod push;
mod reset;
mod seal;
mod spec;
mod state;
mod tails;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, RwLock},
};

pub use admin::{Described, PartitionInfo};
pub use bring::{HOLD, Owner};
pub use error::{ApplyError, GroupError, OpenError, PullError, PushError, ResetError, Room};
pub use group::{Claimed, Delivery, GroupInfo, JoinOptions, MemberInfo, Membership, Redriven, dead::Origin};
pub use homes::{Elsewhere, Home};
pub use keys::{KeyError, KeyRef, Keys, Locked, NoKeys};
pub use moves::{Copied, Frozen, MoveError};
pub use producer::OpenProducer;
pub use pull::{Limits, Pulled};
pub use push::Pushed;
pub use spec::{DnpipeSpec, Durability, GroupSpec, Retention};

use sidestream_event::native::DnpipeName;
use sidestream_host::Clock;
use sidestream_log::Journal;

/// All dnpipes of one journal. Clones are the same one.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) journal: Journal,
    pub(crate) clock: Clock,
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) state: state::StateLog,
    /// Grows with every start: says in each batch whose reign it was.
    pub(crate) leader_epoch: u32,
    pipes: RwLock<BTreeMap<DnpipeName, Arc<pipe::Pipe>>>,
    homes: Mutex<homes::Homes>,
    /// How many dnpipes came or went since the start.
    moved: tokio::sync::watch::Sender<u64>,
    /// How many freezes there were since the start.
    tokens: Mutex<u64>,
    /// One at a time makes, removes or moves dnpipes: the next number of a partition in the journal.
    pub(crate) numbers: tokio::sync::Mutex<u32>,
    /// What no dnpipe names, and may be one's.
    nameless: Mutex<nameless::Nameless>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Broker").field("dnpipes", &self.list()).finish_non_exhaustive()
    }
}

impl Broker {
    /// What may `caller`, a SPIFFE ID, do to a dnpipe? None where there is no such dnpipe.
    pub fn allowed(&self, name: &DnpipeName, caller: &str) -> Option<access::Verbs> {
        let spec = match self.pipe(name) {
            Some(pipe) => pipe.spec(),
            // Who has it decides; who may do nothing with it is not even told who that is.
            None => self.elsewhere(name)?.spec?,
        };
        Some(access::allowed(&spec.access, name.namespace(), caller))
    }

    /// The epoch of a dnpipe: how often it was reset. None where there is no such dnpipe.
    pub fn epoch(&self, name: &DnpipeName) -> Option<u32> {
        Some(self.pipe(name)?.fence.borrow().epoch)
    }

    /// Waits until a push that was refused as busy may be tried again.
    pub async fn room(&self) {
        // Who is refused again at once must not keep everybody else from their turns.
        tokio::task::coop::consume_budget().await;
        self.inner.journal.room().await;
    }

    pub(crate) fn pipe(&self, name: &DnpipeName) -> Option<Arc<pipe::Pipe>> {
        self.pipes().get(name).cloned()
    }

    pub(crate) fn pipes(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<DnpipeName, Arc<pipe::Pipe>>> {
        self.inner.pipes.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn pipes_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<DnpipeName, Arc<pipe::Pipe>>> {
        self.inner.pipes.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
