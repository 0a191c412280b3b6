//! A dnpipe comes from another server: what the one that is to have it does. The other side is in [`moves`](crate::moves).
//!
//! Records come first, into partitions that nothing names: after a crash they are not there. When the dnpipe stands still where
//! it is, its state is written down here as [`Coming`](Stance::Coming), which a start throws away, and last of all that it is
//! [`Ready`](Stance::Ready): only then is the other asked to release it. A start that finds one ready asks again.

use std::collections::BTreeMap;

use sidestream_event::{native::DnpipeName, record::Header};
use sidestream_log::{AppendError, Durability, PartitionId};

use crate::{
    Broker,
    error::{OpenError, PushError, write_error},
    homes::{Known, Stance},
    moves::{Copied, Frozen, MoveError, stale},
    open::{ReadState, SavedPipe},
    state::{Change, change},
};

/// What has come of a dnpipe.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// Its partitions in this journal.
    pub(crate) ids: Vec<u32>,
    /// What its server said of each when it was first copied.
    lives: BTreeMap<u32, u128>,
    /// What has come is not what is there any more.
    is_broken: bool,
    /// All of it, once it is written down.
    pub(crate) whole: Option<Whole>,
}

/// What a start would read of it.
pub(crate) type Whole = (SavedPipe, BTreeMap<u32, Vec<Change>>);

impl Broker {
    /// Whether what has come of a dnpipe is sound, so that the rest can follow.
    pub(crate) fn is_arriving(&self, name: &DnpipeName, partitions: u32) -> bool {
        let homes = self.homes();
        let arrival = homes.of.get(name).and_then(|known| known.arrival.as_ref());
        arrival
            .is_some_and(|own| own.whole.is_none() && !own.is_broken && own.ids.len() == partitions as usize)
    }

    /// What has come of a dnpipe is of no use: the next move begins anew.
    pub(crate) fn break_arrival(&self, name: &DnpipeName) {
        if let Some(arrival) = self.homes().of.get_mut(name).and_then(|known| known.arrival.as_mut()) {
            arrival.is_broken = true;
        }
    }

    /// Makes room for a dnpipe that another server has. What came of it before, and is not ready, is thrown away.
    pub async fn begin_arrival(&self, name: &DnpipeName, partitions: u32) -> Result<(), MoveError> {
        let mut numbers = self.inner.numbers.lock().await;
        self.clear(name).await?;
        let ids: Vec<u32> = (*numbers..*numbers + partitions).collect();
        *numbers += partitions;
        let broker = Change::Broker { leader_epoch: self.inner.leader_epoch, next_partition: *numbers };
        self.write_change(&broker).await?;
        let mut homes = self.homes();
        let known = homes.of.get_mut(name).ok_or_else(|| MoveError::Unknown(name.clone()))?;
        known.arrival = Some(Arrival { ids, ..Arrival::default() });
        Ok(())
    }

    /// Takes in records of a partition that were copied, from where the last ones ended, and says where these do. They are
    /// durable when this returns.
    pub async fn take_in(&self, name: &DnpipeName, partition: u32, copied: Copied) -> Result<u64, MoveError> {
        let id = self.arriving(name, partition, copied.life)?;
        let journal = &self.inner.journal;
        if journal.bounds(id).is_none() {
            let begin = copied.batches.first().map_or(copied.first, |first| first.header.base_offset);
            journal.create_at(id, begin).await.map_err(not_written)?;
        }
        let mut appended = Vec::new();
        for batch in &copied.batches {
            let Header { base_offset, .. } = batch.header;
            if journal.bounds(id).is_none_or(|bounds| bounds.next != base_offset) {
                return Err(stale("what was copied does not follow what was copied before"));
            }
            let appending = loop {
                match journal.append(id, batch.header, &batch.body, Durability::Device) {
                    Err(AppendError::Busy) => journal.room().await,
                    outcome => break outcome.map_err(not_written)?,
                }
            };
            appended.push(appending);
        }
        for appending in appended {
            appending.await.map_err(not_written)?;
        }
        // The batch that holds the oldest may begin before it.
        journal.trim(id, copied.first).await.map_err(not_written)?;
        Ok(journal.bounds(id).map_or(0, |bounds| bounds.next))
    }

    /// The offset behind what has come of a partition; none where nothing has.
    pub(crate) fn arrived(&self, name: &DnpipeName, partition: u32) -> Option<u64> {
        let id = {
            let homes = self.homes();
            *homes.of.get(name)?.arrival.as_ref()?.ids.get(partition as usize)?
        };
        self.inner.journal.bounds(PartitionId(id)).map(|bounds| bounds.next)
    }

    /// Writes down all of a dnpipe that stands still at server `from`: that one may release it when this returns.
    pub async fn confirm_arrival(
        &self,
        name: &DnpipeName,
        from: u32,
        frozen: &Frozen,
        state: &[u8],
    ) -> Result<(), MoveError> {
        let _numbers = self.inner.numbers.lock().await;
        let ids = {
            let homes = self.homes();
            let arrival = homes.of.get(name).and_then(|known| known.arrival.as_ref());
            let arrival = arrival.ok_or(NOTHING_CAME)?;
            // The same offsets alone are not the same records.
            if !arrival.lives.values().eq(&frozen.lives) {
                return Err(stale("what was copied is not what stands still"));
            }
            arrival.ids.clone()
        };
        let next = |id: &u32| self.inner.journal.bounds(PartitionId(*id)).map(|bounds| bounds.next);
        if !ids.iter().map(next).eq(frozen.ends.iter().map(|end| Some(*end))) {
            return Err(stale("not all of its records came"));
        }
        let changes = translated(name, &ids, state)?;
        self.has_key_of(&changes)?;
        let coming = Stance::Coming { from };
        let term = frozen.term - 1;
        self.write_home(name, term, coming).await.map_err(MoveError::Write)?;
        if let Some(known) = self.homes().of.get_mut(name) {
            (known.term, known.stance, known.is_written) = (term, coming, true);
        }
        for change in &changes {
            self.write_change(change).await?;
        }
        let ready = Stance::Ready { from, token: frozen.token };
        self.write_home(name, frozen.term, ready).await.map_err(MoveError::Write)?;
        let mut read = ReadState::default();
        changes.into_iter().for_each(|change| read.take(change));
        let whole = read.take_pipe(name).ok_or_else(|| bad("what came names no dnpipe"))?;
        if let Some(known) = self.homes().of.get_mut(name) {
            (known.term, known.stance) = (frozen.term, ready);
            known.arrival = Some(Arrival { ids, whole: Some(whole), ..Arrival::default() });
        }
        Ok(())
    }

    /// Serves a dnpipe that its server has released.
    pub async fn own(&self, name: &DnpipeName) -> Result<(), MoveError> {
        let _numbers = self.inner.numbers.lock().await;
        if self.pipe(name).is_some() {
            return Ok(());
        }
        let term = {
            let homes = self.homes();
            match homes.of.get(name) {
                Some(known) if matches!(known.stance, Stance::Ready { .. } | Stance::Here) => known.term,
                _ => return Err(NOTHING_CAME),
            }
        };
        self.write_home(name, term, Stance::Here).await.map_err(MoveError::Write)?;
        let whole = {
            let mut homes = self.homes();
            let known = homes.of.get_mut(name).ok_or(NOTHING_CAME)?;
            known.stance = Stance::Here;
            known.arrival.as_mut().and_then(|arrival| arrival.whole.take()).ok_or(NOTHING_CAME)?
        };
        let (saved, mut producers) = whole.clone();
        self.make_missing(&saved);
        let opened = match self.read_tails(saved.ids(), &mut producers).await {
            Ok(mut tails) => self.open_pipe(saved, &mut tails).await,
            Err(error) => Err(OpenError::Read(error)),
        };
        match opened {
            Ok(pipe) => {
                if let Some(known) = self.homes().of.get_mut(name) {
                    known.arrival = None;
                    known.came = Some(self.inner.clock.now());
                }
                self.pipes_mut().insert(name.clone(), std::sync::Arc::new(pipe));
                self.inner.moved.send_modify(|moved| *moved += 1);
                Ok(())
            }
            Err(error) => {
                // It is this one's, so it is tried again.
                let mut homes = self.homes();
                if let Some(arrival) = homes.of.get_mut(name).and_then(|known| known.arrival.as_mut()) {
                    arrival.whole = Some(whole);
                }
                Err(MoveError::Write(PushError::Failed { reason: error.to_string().into() }))
            }
        }
    }

    /// Throws away what came of a dnpipe that its server did not release, and never will for what is here.
    pub async fn drop_arrival(&self, name: &DnpipeName) -> Result<(), MoveError> {
        let _numbers = self.inner.numbers.lock().await;
        self.clear(name).await
    }

    async fn clear(&self, name: &DnpipeName) -> Result<(), MoveError> {
        let (term, from, is_written) = {
            let homes = self.homes();
            let known = homes.of.get(name).ok_or_else(|| MoveError::Unknown(name.clone()))?;
            match known.stance {
                Stance::Here => return Err(stale("it is here already")),
                Stance::Coming { from } => (known.term, from, true),
                Stance::Ready { from, .. } => (known.term - 1, from, true),
                Stance::Away { to, .. } => (known.term, to, false),
            }
        };
        if is_written {
            let away = Stance::Away { to: from, token: 0 };
            self.write_home(name, term, away).await.map_err(MoveError::Write)?;
            if let Some(known) = self.homes().of.get_mut(name) {
                (known.term, known.stance) = (term, away);
            }
        }
        let arrival = self.homes().of.get_mut(name).and_then(|known| known.arrival.take());
        for id in arrival.into_iter().flat_map(|arrival| arrival.ids) {
            // Where nothing came of it there is nothing to remove.
            drop(self.inner.journal.remove(PartitionId(id)));
        }
        Ok(())
    }

    /// Refuses what could never be served here: a dnpipe whose key can't be read.
    fn has_key_of(&self, changes: &[Change]) -> Result<(), MoveError> {
        let mut read = ReadState::default();
        changes.iter().cloned().for_each(|change| read.take(change));
        read.check_keys(&*self.inner.keys).map_err(MoveError::Key)
    }

    fn arriving(&self, name: &DnpipeName, partition: u32, life: u128) -> Result<PartitionId, MoveError> {
        let mut homes = self.homes();
        let arrival = homes.of.get_mut(name).and_then(|known| known.arrival.as_mut());
        let arrival = arrival.filter(|arrival| arrival.whole.is_none()).ok_or(NOTHING_CAME)?;
        if *arrival.lives.entry(partition).or_insert(life) != life {
            return Err(stale("its server began anew, or its disk failed"));
        }
        let id = arrival.ids.get(partition as usize);
        Ok(PartitionId(*id.ok_or_else(|| bad("it has not so many partitions here"))?))
    }

    async fn write_change(&self, change: &Change) -> Result<(), MoveError> {
        let now = self.inner.clock.wall_nanos();
        let written = self.inner.state.write(|state| state.append(change, now)).await;
        written.map_err(MoveError::Write)
    }
}

/// The state of a dnpipe as another server wrote it down, in the numbers of this journal.
fn translated(name: &DnpipeName, ids: &[u32], state: &[u8]) -> Result<Vec<Change>, MoveError> {
    let (mut changes, mut theirs) = (Vec::new(), Vec::new());
    for line in state.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let here = |their: &u32, theirs: &[u32]| {
            let at = theirs.iter().position(|own| own == their);
            at.and_then(|at| ids.get(at).copied()).ok_or_else(|| bad("a partition is of another dnpipe"))
        };
        let change = match change(line).map_err(|reason| MoveError::Bad { reason })? {
            Change::Dnpipe { spec, partitions, epoch, starts, key }
                if spec.name == *name && partitions.len() == ids.len() =>
            {
                theirs = partitions;
                Change::Dnpipe { spec, partitions: ids.to_vec(), epoch, starts, key }
            }
            Change::Producers { partition, upto, append_time, producers } => {
                let partition = here(&partition, &theirs)?;
                Change::Producers { partition, upto, append_time, producers }
            }
            change @ Change::Group { .. } => change,
            Change::Share { dnpipe, group, partition, share, burying, redriven } if burying.is_empty() => {
                Change::Share { dnpipe, group, partition, share, burying, redriven }
            }
            _ => return Err(bad("what came is no state of this dnpipe")),
        };
        changes.push(change);
    }
    Ok(changes)
}

impl Known {
    /// What a start found of a dnpipe that has come and was not released before.
    pub(crate) fn found(term: u32, stance: Stance, whole: Option<Whole>) -> Known {
        let arrival = whole.map(|whole| Arrival {
            ids: whole.0.partitions.clone(),
            whole: Some(whole),
            ..Arrival::default()
        });
        Known { arrival, ..Known::new(term, stance) }
    }
}

fn not_written(error: AppendError) -> MoveError {
    MoveError::Write(write_error(error))
}

fn bad(reason: &str) -> MoveError {
    MoveError::Bad { reason: reason.to_owned() }
}

const NOTHING_CAME: MoveError = stale("nothing of it has come here");
