//! Groups: readers that share a dnpipe's partitions, and whose cursors the broker keeps.
//!
//! ```text
//!   members a b │ partitions 0 1 2 3      each has one owner; a newcomer gets its share as soon as what is out of a
//!           │ └─┼──────────── 2 3         partition has come back, and nobody else notices
//!           └───┼──────────── 0 1
//! ```
//!
//! What is handed out is *out* until its member acknowledges it, gives it back, is silent for too long, or leaves; then it
//! is done, or comes again, or was delivered often enough and goes to the dead letters. A cursor is durable before an
//! acknowledgement is answered. With `auto_ack` it is durable before the records are handed out, so they come at most once.

mod assign;
pub(crate) mod dead;
mod deliver;
mod inspect;
mod ranges;
mod serve;
mod share;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sidestream_event::native::{DnpipeName, From};
use sidestream_host::Moment;
use sidestream_log::StoredBatch;
use tokio::sync::watch;

pub(crate) use share::Written;

use crate::{
    error::{GroupError, PushError},
    pipe::lock,
    spec::GroupSpec,
    state::Change,
};
use share::{Patience, Share};

/// How a member reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinOptions {
    /// Whether records are done as they are handed out (at most once), or when they are acknowledged (at least once).
    pub auto_ack: bool,
    /// Where a group begins that is not there yet.
    pub from: From,
    /// How long a record may be out before it is taken for not taken; [`Duration::MAX`]: for as long as the member is there.
    pub lease: Duration,
    /// How long a member may be silent before it is taken for gone; who waits for records is not silent.
    pub session: Duration,
}

impl Default for JoinOptions {
    /// At least once, from the oldest record, half a minute for a record and for a member.
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self { auto_ack: false, from: From::First(0), lease: half_a_minute, session: half_a_minute }
    }
}

/// Membership of a group. Whoever joins under the same name ends this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub(crate) dnpipe: DnpipeName,
    pub(crate) group: String,
    pub(crate) member: String,
    pub(crate) token: u64,
    pub(crate) partitions: Vec<u32>,
}

impl Membership {
    /// The partitions it had when it began.
    pub fn partitions(&self) -> &[u32] {
        &self.partitions
    }
}

/// What a member gets.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// Records, by partition.
    pub deliveries: Vec<Delivery>,
    /// The partitions that are the member's own now.
    pub partitions: Vec<u32>,
}

/// Records of one partition.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The partition.
    pub partition: u32,
    /// The epoch.
    pub epoch: u32,
    /// The offsets that are meant, in the order they are to be handled: `from..to`, and the number of this delivery from 1.
    pub ranges: Vec<(u64, u64, u32)>,
    /// Whole batches with these offsets in them, and perhaps others that are not meant.
    pub batches: Vec<StoredBatch>,
}

/// A group as it is.
#[derive(Clone, Debug)]
pub struct GroupInfo {
    /// What it is to be.
    pub spec: GroupSpec,
    /// Its members, by name.
    pub members: Vec<MemberInfo>,
    /// By partition: the offset below which everything is done.
    pub cursors: Vec<u64>,
    /// Records that are not done.
    pub lag_records: u64,
    /// How long ago the oldest of them was pushed; 0 where there is none.
    pub lag_seconds: f64,
    /// Records that were delivered often enough and are not yet with the dead letters, as when there is no room.
    pub dying: u64,
}

/// A member of a group as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// The partitions that are its own.
    pub partitions: Vec<u32>,
}

/// What became of dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Records that are delivered again.
    pub records: u64,
    /// Records that are no longer in their dnpipe: they stay dead letters.
    pub gone: u64,
}

/// A record on its way to the dead letters: its number there, under which it is pushed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    /// The dead letters' partition in the journal.
    pub(crate) target: u32,
}

/// What is written down of a group.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) spec: GroupSpec,
    /// Where it began, for partitions that have no share yet.
    pub(crate) cursors: Vec<u64>,
    /// By partition.
    pub(crate) shares: BTreeMap<u32, (Written, Vec<Intent>, u64)>,
}

impl Saved {
    pub(crate) fn new(spec: GroupSpec) -> Self {
        Self { spec, cursors: Vec::new(), shares: BTreeMap::new() }
    }
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    state: Mutex<State>,
    /// Something that waiting members should look at.
    changed: watch::Sender<()>,
    /// One at a time moves records to the dead letters or from there.
    pub(crate) burial: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) spec: GroupSpec,
    members: BTreeMap<String, Member>,
    pub(crate) slots: Vec<Slot>,
    next_token: u64,
    /// Which partition is looked at first, so that each is in its turn.
    turn: usize,
    is_over: bool,
    /// The dnpipe is about to go to another server, which has been told how things stand.
    pub(crate) is_moving: bool,
}

#[derive(Debug)]
struct Member {
    token: u64,
    options: JoinOptions,
    seen: Moment,
    /// How many of its calls wait for records.
    waiting: u32,
}

/// A partition in a group.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) share: Share,
    owner: Option<String>,
    /// Who gets it as soon as nothing is out.
    wanted: Option<String>,
    pub(crate) burying: Vec<Intent>,
    pub(crate) redriven: u64,
    /// Somebody sees to what is dying.
    pub(crate) is_buried: bool,
    /// It has changed in a way that need not be durable at once.
    pub(crate) is_dirty: bool,
}

impl Group {
    /// A group that begins at `cursors`.
    pub(crate) fn new(spec: GroupSpec, cursors: &[u64]) -> Self {
        Self::with(spec, cursors.iter().map(|cursor| Slot::new(Share::at(*cursor))).collect())
    }

    /// A group as it was written down.
    pub(crate) fn open(saved: Saved, partitions: usize, now: Moment) -> Self {
        let slot = |at: usize| match saved.shares.get(&(at as u32)) {
            Some((written, burying, redriven)) => {
                let share = Share::read(written, now, saved.spec.max_deliveries);
                Slot { burying: burying.clone(), redriven: *redriven, ..Slot::new(share) }
            }
            None => Slot::new(Share::at(saved.cursors.get(at).copied().unwrap_or_default())),
        };
        let slots = (0..partitions).map(slot).collect();
        Self::with(saved.spec, slots)
    }

    fn with(spec: GroupSpec, slots: Vec<Slot>) -> Self {
        let name = spec.name.clone();
        let state = State {
            spec,
            members: BTreeMap::new(),
            slots,
            next_token: 1,
            turn: 0,
            is_over: false,
            is_moving: false,
        };
        Self {
            name,
            state: Mutex::new(state),
            changed: watch::channel(()).0,
            burial: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waiting members look again.
    pub(crate) fn wake(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn set_spec(&self, spec: GroupSpec, now: Moment) {
        let mut state = self.lock();
        state.spec = spec;
        let patience = state.patience();
        for slot in &mut state.slots {
            slot.is_dirty |= slot.share.reconsider(now, patience);
        }
        drop(state);
        self.wake();
    }

    /// The group is no more.
    pub(crate) fn end(&self) {
        self.lock().is_over = true;
        self.wake();
    }
}

impl Slot {
    fn new(share: Share) -> Self {
        Self {
            share,
            owner: None,
            wanted: None,
            burying: Vec::new(),
            redriven: 0,
            is_buried: false,
            is_dirty: false,
        }
    }
}

impl State {
    /// Refuses what the next server of the dnpipe would not know of.
    pub(crate) fn stays(&self) -> Result<(), GroupError> {
        match self.is_moving {
            true => Err(GroupError::Write(PushError::Moving)),
            false => Ok(()),
        }
    }

    fn patience(&self) -> Patience {
        Patience { max_deliveries: self.spec.max_deliveries, backoff: self.spec.backoff }
    }

    /// Takes in a member, or another one of its name, which ends that one: what it had comes again.
    fn join(&mut self, name: &str, options: JoinOptions, now: Moment) -> u64 {
        self.give_up(name, now);
        let token = self.next_token;
        self.next_token += 1;
        self.members.insert(name.to_owned(), Member { token, options, seen: now, waiting: 0 });
        self.rebalance();
        token
    }

    fn leave(&mut self, name: &str, now: Moment) {
        self.members.remove(name);
        self.give_up(name, now);
        self.rebalance();
    }

    /// What a member has comes again.
    fn give_up(&mut self, name: &str, now: Moment) {
        let max_deliveries = self.spec.max_deliveries;
        for slot in self.slots.iter_mut().filter(|slot| slot.owner.as_deref() == Some(name)) {
            if slot.share.is_out() {
                slot.share.release(now, max_deliveries);
                slot.is_dirty = true;
            }
        }
    }

    /// What was out for too long comes again, and members that were silent for too long are gone. Whether anything changed.
    pub(crate) fn expire(&mut self, now: Moment) -> bool {
        let patience = self.patience();
        let mut changed = false;
        for slot in &mut self.slots {
            let late = slot.share.expire(now, patience);
            slot.is_dirty |= late;
            changed |= late;
        }
        let is_silent =
            |member: &Member| member.waiting == 0 && now.since(member.seen) >= member.options.session;
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| is_silent(member))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &silent {
            self.leave(name, now);
        }
        self.hand_over() || changed || !silent.is_empty()
    }

    fn rebalance(&mut self) {
        let members: Vec<&str> = self.members.keys().map(String::as_str).collect();
        let owners: Vec<Option<&str>> = self.slots.iter().map(|slot| slot.owner.as_deref()).collect();
        let wanted = assign::assign(&owners, &members);
        for (slot, wanted) in self.slots.iter_mut().zip(wanted) {
            slot.wanted = wanted;
        }
        self.hand_over();
    }

    /// Partitions of which nothing is out go to whom they are meant for. Whether any did.
    fn hand_over(&mut self) -> bool {
        let mut changed = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.owner != slot.wanted && !slot.share.is_out()) {
            slot.owner = slot.wanted.clone();
            changed = true;
        }
        changed
    }

    /// The partitions that a member may be handed records of.
    fn owned(&self, member: &str) -> Vec<u32> {
        let is_own = |slot: &Slot| slot.owner.as_deref() == Some(member) && slot.wanted == slot.owner;
        self.slots.iter().enumerate().filter(|(_, slot)| is_own(slot)).map(|(at, _)| at as u32).collect()
    }

    /// All of a slot, to be written down.
    pub(crate) fn change(&mut self, dnpipe: &DnpipeName, at: usize) -> Change {
        let slot = &mut self.slots[at];
        slot.is_dirty = false;
        Change::Share {
            dnpipe: dnpipe.clone(),
            group: self.spec.name.clone(),
            partition: at as u32,
            share: slot.share.write(),
            burying: slot.burying.clone(),
            redriven: slot.redriven,
        }
    }
}

/// Keeps a member from being silent while one of its calls waits.
struct Waiting {
    group: Arc<Group>,
    member: String,
    token: u64,
    clock: sidestream_host::Clock,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.group.lock();
        if let Some(member) = state.members.get_mut(&self.member).filter(|member| member.token == self.token)
        {
            member.waiting = member.waiting.saturating_sub(1);
            member.seen = self.clock.now();
        }
    }
}

#[cfg(test)]
mod tests;
