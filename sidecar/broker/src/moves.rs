//! A dnpipe goes to another server: what the one that has it does.
//!
//! ```text
//!   the other                            this one
//!   copy, copy, copy ◀────────────────── goes on serving
//!   freeze ────────────────────────────▶ takes no pushes, acknowledgements or resets any more; pulls go on
//!   copy the rest, and the state ◀──────
//!   all of it durable
//!   release ───────────────────────────▶ writes down that it is the other's, and forgets it
//!   serves ◀──────────────────────────── answers
//! ```
//!
//! Until the release is written down this one has it, and after a crash it serves as if nobody had asked. The other's word is
//! good for as long as it can show the token of the freeze that is on: one that ended by itself, by a crash or by another
//! freeze is no ground for a release. So there is no moment at which both have it, and none at which an acknowledged record
//! is with neither.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use sidestream_event::native::DnpipeName;
use sidestream_host::Moment;
use sidestream_log::{Bounds, PartitionId, StoredBatch};

use crate::{
    Broker,
    error::{PullError, PushError, read_error},
    group::Group,
    homes::{Known, Stance},
    keep::producers_change,
    keys::KeyError,
    pipe::{Pipe, lock},
    state::Change,
};

/// Why a step of a move is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveError {
    /// There is no such dnpipe here.
    Unknown(DnpipeName),
    /// What the step goes on from is not so any more: the move begins anew.
    Stale {
        /// What has changed.
        what: Cow<'static, str>,
    },
    /// Not now.
    Busy {
        /// What is in the way.
        what: Cow<'static, str>,
    },
    /// Whether it was done is not known: the other server was not reached, or did not answer.
    Lost {
        /// What is known of it.
        reason: String,
    },
    /// What is to be moved cannot be read.
    Read(PullError),
    /// A disk did not take it.
    Write(PushError),
    /// Its key can't be read where it is to go.
    Key(KeyError),
    /// What came makes no sense here.
    Bad {
        /// Why not.
        reason: String,
    },
}

/// Records of a partition, for the server that is to have it.
#[derive(Clone, Debug)]
pub struct Copied {
    /// Another when what was copied before may not be what is there, because the dnpipe was made anew, its server began anew or
    /// its disk failed: copy all of it again.
    pub life: u128,
    /// The oldest offset there is.
    pub first: u64,
    /// The offset behind the last that can be copied now.
    pub end: u64,
    /// Whole batches from the one that holds the offset that was asked for.
    pub batches: Vec<StoredBatch>,
}

/// A dnpipe that stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// What a release has to show.
    pub token: u64,
    /// The term that the next server has it in.
    pub term: u32,
    /// By partition, the offset behind the last record.
    pub ends: Vec<u64>,
    /// By partition, what [`Copied::life`] says of it: what was copied of another is not what stands still.
    pub lives: Vec<u128>,
    /// How many bytes [`Broker::frozen_state`] gives in all.
    pub state_bytes: u64,
}

/// What a pipe knows of its freeze.
#[derive(Debug)]
pub(crate) struct Freeze {
    token: u64,
    to: u32,
    /// When it ends by itself; none once a release may be on the disk.
    until: Option<Moment>,
    state: Bytes,
}

impl Broker {
    /// Records of a partition from an offset on, or from the oldest, as they are in the journal and surely stay there. It goes
    /// on being served.
    pub async fn copy_out(
        &self,
        name: &DnpipeName,
        partition: u32,
        from: Option<u64>,
        max_bytes: usize,
    ) -> Result<Copied, MoveError> {
        let pipe = self.pipe(name).ok_or_else(|| MoveError::Unknown(name.clone()))?;
        let partitions = pipe.partitions.len() as u32;
        let own = pipe.partitions.get(partition as usize);
        let own = own.ok_or(MoveError::Read(PullError::UnknownPartition { partition, partitions }))?;
        let journal = &self.inner.journal;
        let start = pipe.fence().starts[partition as usize];
        let Some(bounds) = journal.bounds(own.id) else { return Err(MoveError::Unknown(name.clone())) };
        self.is_known()?;
        let (first, end) = (bounds.first.max(start), bounds.readable);
        let life = self.life(own.id, &bounds);
        let from = from.unwrap_or(first);
        if from < first || from > end {
            return Err(stale("the records went in a reset, or were not to be kept longer"));
        }
        let batches = match from < end {
            true => journal.read(own.id, from, max_bytes.max(1)).await.map(|read| read.batches),
            false => Ok(Vec::new()),
        };
        let gone = stale("the records went while they were read");
        let batches = batches.map_err(|error| read_error(error).map_or(gone, MoveError::Read))?;
        Ok(Copied { life, first, end, batches })
    }

    /// Has a dnpipe stand still for server `to`: what is pushed, acknowledged or reset from now on is refused, and may be tried
    /// again. It ends by itself after `hold`, and with every other freeze; where a release may be on
    /// the disk it does not end, and no other begins.
    pub async fn freeze(&self, name: &DnpipeName, to: u32, hold: Duration) -> Result<Frozen, MoveError> {
        let unknown = || MoveError::Unknown(name.clone());
        let pipe = self.pipe(name).ok_or_else(unknown)?;
        let _turn = pipe.turn.lock().await;
        if pipe.fence().failed.is_some() || self.pipe(name).is_none_or(|now| !Arc::ptr_eq(&now, &pipe)) {
            return Err(unknown());
        }
        if lock(&pipe.freeze).as_ref().is_some_and(|own| own.until.is_none()) {
            return Err(busy("it may have been given away already"));
        }
        self.is_known()?;
        let related = self.related(name);
        let mut burials = Vec::new();
        for (_, group) in &related {
            burials.push(group.burial.lock().await);
        }
        if related.iter().any(|(_, group)| group.lock().slots.iter().any(|slot| !slot.burying.is_empty())) {
            drop(burials);
            self.end_burials(&related).await;
            return Err(busy("dead letters are on their way"));
        }
        let reached = pipe.partitions.iter().map(|own| {
            let mut tail = own.tail();
            tail.is_moving = true;
            tail.bounds(&self.inner.journal, own.id)
        });
        let frozen = match reached.collect::<Result<Vec<Bounds>, _>>() {
            Ok(reached) => self.take_still(&pipe, to, hold, &reached).await,
            Err(error) => Err(error),
        };
        frozen.map_err(|error| {
            thaw(&pipe);
            MoveError::Write(error)
        })
    }

    /// Once nothing new is let in: waits for what was, and writes down how everything stands.
    async fn take_still(
        &self,
        pipe: &Pipe,
        to: u32,
        hold: Duration,
        reached: &[Bounds],
    ) -> Result<Frozen, PushError> {
        for (number, Bounds { next, rolled_back, .. }) in (0..).zip(reached) {
            crate::push::durable(&self.inner.journal, pipe, number, *next, *rolled_back).await?;
        }
        let fence = pipe.fence();
        let mut changes = vec![pipe.change((*pipe.spec()).clone(), fence.epoch, &fence.starts)];
        for group in pipe.all_groups() {
            let mut state = group.lock();
            state.is_moving = true;
            let cursors = state.slots.iter().map(|slot| slot.share.cursor()).collect();
            changes.push(Change::Group { dnpipe: pipe.name.clone(), spec: state.spec.clone(), cursors });
            changes.extend((0..pipe.partitions.len()).map(|at| state.change(&pipe.name, at)));
        }
        for (own, Bounds { next, .. }) in pipe.partitions.iter().zip(reached) {
            changes.push(producers_change(own.id, &own.tail(), *next));
        }
        let mut text = Vec::new();
        for change in &changes {
            let failed = |error: serde_json::Error| PushError::Failed { reason: error.to_string().into() };
            serde_json::to_writer(&mut text, change).map_err(failed)?;
            text.push(b'\n');
        }
        let state = Bytes::from(text);
        let token = self.new_token();
        let frozen = Frozen {
            token,
            term: self.homes().of.get(&pipe.name).map_or(0, |known| known.term) + 1,
            ends: reached.iter().map(|bounds| bounds.next).collect(),
            lives: pipe
                .partitions
                .iter()
                .zip(reached)
                .map(|(own, bounds)| self.life(own.id, bounds))
                .collect(),
            state_bytes: state.len() as u64,
        };
        let until = Some(self.inner.clock.now() + hold);
        *lock(&pipe.freeze) = Some(Freeze { token, to, until, state });
        Ok(frozen)
    }

    /// A piece of all that is to be known of a dnpipe that stands still, beside its records.
    pub fn frozen_state(
        &self,
        name: &DnpipeName,
        token: u64,
        from: u64,
        max_bytes: usize,
    ) -> Result<Bytes, MoveError> {
        let pipe = self.pipe(name).ok_or_else(|| MoveError::Unknown(name.clone()))?;
        let freeze = lock(&pipe.freeze);
        let state = freeze.as_ref().filter(|own| own.token == token).map(|own| own.state.clone());
        let state = state.ok_or(ENDED)?;
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(state.len());
        Ok(state.slice(from..state.len().min(from.saturating_add(max_bytes))))
    }

    /// Gives a dnpipe that stands still to server `to`, for good: when this returns, this one does not have it any more, whatever
    /// crashes. Asking again has the same answer.
    pub async fn release(&self, name: &DnpipeName, token: u64, to: u32) -> Result<(), MoveError> {
        let _numbers = self.inner.numbers.lock().await;
        let Some(pipe) = self.pipe(name) else {
            let stance = self.homes().of.get(name).map(|known| known.stance);
            return match stance {
                Some(Stance::Away { to: went, token: with }) if (went, with) == (to, token) => Ok(()),
                _ => Err(stale("it was given to another server")),
            };
        };
        let _turn = pipe.turn.lock().await;
        {
            let mut freeze = lock(&pipe.freeze);
            let is_on = |own: &&mut Freeze| own.token == token && own.to == to;
            // What may be on the disk is never taken back: only a start can tell.
            freeze.as_mut().filter(is_on).ok_or(ENDED)?.until = None;
        }
        let term = self.homes().of.get(name).map_or(0, |known| known.term) + 1;
        let stance = Stance::Away { to, token };
        self.write_home(name, term, stance).await.map_err(MoveError::Write)?;
        let spec = Some(pipe.spec());
        self.homes().of.insert(name.clone(), Known { spec, ..Known::new(term, stance) });
        self.pipes_mut().remove(name);
        pipe.fence.send_modify(|fence| fence.is_removed = true);
        pipe.all_groups().iter().for_each(|group| group.end());
        for partition in &pipe.partitions {
            // Those that are not removed before a crash are at the next start, for nothing names them any more.
            drop(self.inner.journal.remove(partition.id));
        }
        self.inner.moved.send_modify(|moved| *moved += 1);
        Ok(())
    }

    /// Ends a freeze, unless a release may be on the disk.
    pub async fn thaw(&self, name: &DnpipeName, token: u64) {
        if let Some(pipe) = self.pipe(name) {
            let _turn = pipe.turn.lock().await;
            let is_on = |own: &Freeze| own.token == token && own.until.is_some();
            if lock(&pipe.freeze).as_ref().is_some_and(is_on) {
                thaw(&pipe);
            }
        }
    }

    /// Ends a freeze that nobody came back for.
    pub(crate) fn thaw_late(&self, pipe: &Pipe) {
        let now = self.inner.clock.now();
        let is_late = |own: &Freeze| own.until.is_some_and(|until| until <= now);
        // Whoever has the turn is about to release it, or begins a freeze that replaces this one.
        let Ok(_turn) = pipe.turn.try_lock() else { return };
        if lock(&pipe.freeze).as_ref().is_some_and(is_late) {
            tracing::warn!(dnpipe = %pipe.name, "nobody came back to move a dnpipe that stood still: it goes on here");
            thaw(pipe);
        }
    }

    /// Groups whose dead letters are of a dnpipe or go there: letters and what says that they are on their way move together.
    fn related(&self, name: &DnpipeName) -> Vec<(Arc<Pipe>, Arc<Group>)> {
        let pipes: Vec<Arc<Pipe>> = self.pipes().values().cloned().collect();
        let groups =
            pipes.iter().flat_map(|pipe| pipe.all_groups().into_iter().map(|own| (pipe.clone(), own)));
        let is_related = |(pipe, group): &(Arc<Pipe>, Arc<Group>)| {
            pipe.name == *name || group.lock().spec.dead_letter.as_ref() == Some(name)
        };
        groups.filter(is_related).collect()
    }

    /// Letters that were on their way when a burial ended early get there, or not.
    async fn end_burials(&self, related: &[(Arc<Pipe>, Arc<Group>)]) {
        for (pipe, group) in related {
            let is_on = |at: &usize| !group.lock().slots[*at].burying.is_empty();
            for at in (0..pipe.partitions.len()).filter(is_on).collect::<Vec<_>>() {
                if let Err(error) = self.bury(pipe, group, at).await {
                    tracing::warn!(dnpipe = %pipe.name, group = group.name, %error, "dead letters keep a dnpipe from moving");
                }
            }
        }
    }

    /// A start that is not written down yet has a number that the next may have too.
    fn is_known(&self) -> Result<(), MoveError> {
        match self.inner.state.owes() {
            true => Err(busy("the disk had no room for what a start writes")),
            false => Ok(()),
        }
    }

    /// What a partition is as long as an offset of it names the same record.
    fn life(&self, id: PartitionId, bounds: &Bounds) -> u128 {
        (u128::from(self.inner.leader_epoch) << 96)
            + (u128::from(id.0) << 64)
            + u128::from(bounds.rolled_back)
    }

    /// Never the same twice: each start has its own.
    fn new_token(&self) -> u64 {
        let mut tokens = lock(&self.inner.tokens);
        *tokens += 1;
        (u64::from(self.inner.leader_epoch) << 32) + *tokens
    }
}

impl Pipe {
    /// Refuses what would change a dnpipe that is about to go. Whoever asks has its turn, or the burial of a group.
    pub(crate) fn stays(&self) -> Result<(), PushError> {
        match lock(&self.freeze).is_some() {
            true => Err(PushError::Moving),
            false => Ok(()),
        }
    }
}

fn thaw(pipe: &Pipe) {
    *lock(&pipe.freeze) = None;
    for group in pipe.all_groups() {
        group.lock().is_moving = false;
        group.wake();
    }
    pipe.partitions.iter().for_each(|own| own.tail().is_moving = false);
}

impl fmt::Display for MoveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoveError::Unknown(name) => {
                write!(out, "this server has no dnpipe `{name}`; ask the one that has it")
            }
            MoveError::Stale { what } => write!(out, "{what}; the move begins anew"),
            MoveError::Busy { what } => write!(out, "{what}; try again in a moment"),
            MoveError::Lost { reason } => write!(out, "the other server does not answer: {reason}"),
            MoveError::Read(error) => write!(out, "what is to be moved cannot be read: {error}"),
            MoveError::Write(error) => write!(out, "the move is not written down: {error}"),
            MoveError::Key(error) => write!(out, "it cannot be served here: {error}"),
            MoveError::Bad { reason } => write!(out, "{reason}; use servers of one release"),
        }
    }
}

impl std::error::Error for MoveError {}

pub(crate) const fn stale(what: &'static str) -> MoveError {
    MoveError::Stale { what: Cow::Borrowed(what) }
}

const fn busy(what: &'static str) -> MoveError {
    MoveError::Busy { what: Cow::Borrowed(what) }
}

/// A freeze that somebody counts on is not on any more.
const ENDED: MoveError = stale("it does not stand still any more");
