//! Reset: every record of a dnpipe is gone at once, in all its partitions; offsets go on.
//!
//! ```text
//!   pushes   ── epoch 3 ──┤ fence ├── epoch 4: appended, answered when the reset is ────────────
//!   pulls    ──────────── epoch 3 ──────────────────┤ the same moment for all ├── epoch 4 ──────
//!   journal                    │ reset ───────────▶ durable
//! ```
//!
//! The reset's record stands in the journal before whatever is pushed after the fence: so a crash either leaves all of it
//! undone, or a reset with every later push that was answered. Pulls give nothing from beyond the fence until it is done:
//! who has seen a record of epoch 4 knows that nobody sees one of epoch 3 any more.
//!
//! The fence counts what is on its way to the disk. Where the disk takes that back, the fence moves to where the partition
//! ends then, and is written down again before anything is pushed behind it: here, or by the next start.

use std::sync::Arc;

use sidestream_event::native::DnpipeName;
use sidestream_log::{Appending, PartitionId};

use crate::{
    Broker,
    error::{PushError, ResetError, write_error},
    ids::Ids,
    keys::DataKey,
    pipe::{Fence, Pipe},
};

impl Broker {
    /// Removes every record. After it returned, the new epoch is the answer and nothing older is delivered to anybody. It goes
    /// on when its future is dropped.
    pub async fn reset(&self, name: &DnpipeName) -> Result<u32, ResetError> {
        let pipe = self.pipe(name).ok_or_else(|| ResetError::Unknown(name.clone()))?;
        let broker = self.clone();
        let task = tokio::spawn(async move { broker.reset_pipe(&pipe).await });
        task.await.unwrap_or(Err(ResetError::Write(PushError::Closed)))
    }

    async fn reset_pipe(&self, pipe: &Arc<Pipe>) -> Result<u32, ResetError> {
        let _turn = pipe.turn.lock().await;
        pipe.stays().map_err(ResetError::Write)?;
        // A full disk may have taken back what was pushed, and this is the cure for that.
        for partition in &pipe.partitions {
            self.mend_in_turn(pipe, partition).await.map_err(ResetError::Write)?;
        }
        let state = &self.inner.state;
        let Begun { appending, producers, epoch, mut starts, ids } = loop {
            match self.begin_reset(pipe) {
                Err(ResetError::Write(PushError::Busy)) => self.inner.journal.room().await,
                outcome => break outcome?,
            }
        };
        let mut outcome = appending.await.map(drop).map_err(write_error);
        if matches!(outcome, Err(PushError::Full { .. })) && self.unbegin_reset(pipe, &starts, ids) {
            return Err(ResetError::Write(outcome.err().unwrap_or(PushError::Closed)));
        }
        let is_failed = matches!(outcome, Err(PushError::Failed { .. }));
        let reached = self.reached(pipe.partitions.iter().map(|own| own.id), &starts);
        if is_failed || (outcome.is_ok() && reached != starts) {
            // What was on its way before the fence is not there after all, whether the reset stands or not. Nobody else
            // changes this dnpipe meanwhile, nor reads such a partition anew, so this is where the next push comes.
            starts = reached;
            let change = pipe.change((*pipe.spec()).clone(), epoch, &starts);
            outcome = state.write(|state| state.append(&change, self.inner.clock.wall_nanos())).await;
        }
        if let Err(error) = outcome {
            let reason: Arc<str> = format!("a reset did not reach the disk: {error}").into();
            pipe.fence.send_modify(|fence| fence.failed = Some(reason));
            return Err(ResetError::Write(error));
        }
        let fence = Fence { epoch, starts: starts.clone(), pending: None, is_removed: false, failed: None };
        pipe.fence.send_replace(fence);
        // From here on nobody can read what was there, wherever its bytes still are.
        pipe.forget_keys_before(epoch);
        // A letter of a record that is gone now is there before this returns, or never.
        for group in pipe.all_groups() {
            drop(group.burial.lock().await);
        }
        let mut are_written = true;
        for written in producers {
            are_written &= written.await.is_ok();
        }
        if are_written {
            for (partition, start) in pipe.partitions.iter().zip(starts.iter()) {
                // The room comes back when the journal gets to it; what is not done now is done later, or at a start.
                drop(self.inner.journal.trim(partition.id, *start));
            }
        }
        pipe.all_groups().iter().for_each(|group| group.wake());
        Ok(epoch)
    }

    /// Draws the fence through all partitions at one moment: whatever is pushed later is of the new epoch, and comes after
    /// the reset in the journal.
    fn begin_reset(&self, pipe: &Pipe) -> Result<Begun, ResetError> {
        let mut tails: Vec<_> = pipe.partitions.iter().map(|partition| partition.tail()).collect();
        if tails.iter().any(|tail| tail.is_removed) {
            return Err(ResetError::Unknown(pipe.name.clone()));
        }
        let next =
            |at: usize| self.inner.journal.bounds(pipe.partitions[at].id).map_or(0, |bounds| bounds.next);
        let starts: Arc<[u64]> = (0..tails.len()).map(next).collect();
        let before = pipe.fence.borrow().epoch;
        let epoch = before + 1;
        if let Some(by) = &pipe.spec().encryption {
            let key = match pipe.key(before) {
                Some(key) => key.renew(&pipe.name, epoch),
                None => DataKey::create(&*self.inner.keys, by, &pipe.name, epoch),
            };
            let key = key.map_err(|error| ResetError::Write(error.into()))?;
            pipe.set_key(epoch, Some(key));
        }
        let (state, now) = (&self.inner.state, self.inner.clock.wall_nanos());
        // With the records goes what says of producers what they pushed.
        let producers = pipe.partitions.iter().zip(&mut tails);
        let producers: Result<Vec<_>, _> =
            producers.map(|(partition, tail)| self.write_producers(state, partition, tail, now)).collect();
        let producers = producers.map_err(ResetError::Write)?;
        let change = pipe.change((*pipe.spec()).clone(), epoch, &starts);
        let appending = state.append(&change, now).map_err(ResetError::Write)?;
        let mut ids = Vec::with_capacity(tails.len());
        for tail in &mut tails {
            tail.epoch = epoch;
            // One of an earlier try had a key that is no more, for an epoch of the same number.
            tail.sealer = None;
            // A message that is pushed again after a reset is wanted again.
            ids.push(std::mem::take(&mut tail.ids));
        }
        pipe.fence.send_modify(|fence| fence.pending = Some(starts.clone()));
        Ok(Begun { appending, producers, epoch, starts, ids })
    }

    /// The starts of a reset, none behind the end of its partition: the fence counts what is on its way to the disk, and the
    /// disk may have taken that back. What is pushed next would be in front of such a fence, and nobody would see it.
    pub(crate) fn reached(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
        starts: &[u64],
    ) -> Arc<[u64]> {
        let end = |id| self.inner.journal.bounds(id).map_or(u64::MAX, |bounds| bounds.next);
        partitions.zip(starts).map(|(id, start)| end(id).min(*start)).collect()
    }

    /// Takes the fence of a reset away that was refused before anything of it was written, as if it had not been asked for.
    /// Whether it could: not where something was pushed behind it.
    fn unbegin_reset(&self, pipe: &Pipe, starts: &[u64], ids: Vec<Ids>) -> bool {
        let mut tails: Vec<_> = pipe.partitions.iter().map(|partition| partition.tail()).collect();
        let is_untouched =
            pipe.partitions.iter().zip(starts).zip(&tails).all(|((partition, start), tail)| {
                // A partition that is to be read anew takes nothing until then.
                tail.bounds(&self.inner.journal, partition.id).map_or(true, |bounds| bounds.next == *start)
            });
        if !is_untouched {
            return false;
        }
        pipe.fence.send_modify(|fence| {
            fence.pending = None;
            pipe.set_key(fence.epoch + 1, None);
            tails.iter_mut().for_each(|tail| (tail.epoch, tail.sealer) = (fence.epoch, None));
        });
        tails.iter_mut().zip(ids).for_each(|(tail, ids)| tail.ids = ids);
        true
    }
}

/// A reset on its way to the disk.
struct Begun {
    appending: Appending,
    /// What must be there before anything is trimmed.
    producers: Vec<Appending>,
    epoch: u32,
    starts: Arc<[u64]>,
    /// Of messages that were pushed before it.
    ids: Vec<Ids>,
}
