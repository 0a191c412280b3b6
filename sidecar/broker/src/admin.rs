//! Making, changing, removing and looking at dnpipes.

use std::{ops::Range, sync::Arc};

use sidestream_event::native::DnpipeName;
use sidestream_log::PartitionId;

use crate::{
    Broker,
    error::{ApplyError, PushError, write_error},
    group::Group,
    keys::{DataKey, KeyError},
    pipe::{Pipe, lock},
    spec::DnpipeSpec,
    state::{Change, StateLog},
};

/// A dnpipe as it is.
#[derive(Clone, Debug)]
pub struct Described {
    /// What it is to be.
    pub spec: Arc<DnpipeSpec>,
    /// How often it was reset.
    pub epoch: u32,
    /// Its partitions, from 0 on.
    pub partitions: Vec<PartitionInfo>,
    /// Bytes it has on the disk.
    pub used_bytes: u64,
}

/// A partition as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number in the journal.
    pub journal: PartitionId,
    /// The oldest offset there is.
    pub first: u64,
    /// The offset behind the newest record that may be seen.
    pub end: u64,
    /// The offset that the next push gets.
    pub next: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

impl Broker {
    /// Makes a dnpipe, or changes what it is to be. It is durable when this returns. Of one that another server has it is only
    /// remembered.
    pub async fn apply(&self, spec: DnpipeSpec) -> Result<(), ApplyError> {
        spec.check()?;
        let mut numbers = self.inner.numbers.lock().await;
        match self.pipe(&spec.name) {
            Some(pipe) => self.change(&pipe, spec).await,
            None if self.set_spec_elsewhere(&spec) => Ok(()),
            None => self.create(&mut numbers, spec).await,
        }
    }

    async fn create(&self, numbers: &mut u32, spec: DnpipeSpec) -> Result<(), ApplyError> {
        self.check_nameless()?;
        let create = |by| DataKey::create(&*self.inner.keys, by, &spec.name, 0);
        let key = spec.encryption.as_ref().map(create).transpose().map_err(ApplyError::Key)?;
        let ids: Vec<u32> = (*numbers..*numbers + spec.partitions).collect();
        // Never used twice, whatever becomes of this: old batches of a number can't be taken for new ones.
        *numbers += spec.partitions;
        let made: Vec<_> = ids.iter().map(|id| self.inner.journal.create(PartitionId(*id))).collect();
        for made in made {
            made.await.map_err(|error| ApplyError::Write(write_error(error)))?;
        }
        let pipe = Pipe::new(spec.clone(), &ids, 0, vec![0; ids.len()]);
        pipe.set_key(0, key);
        let changes = [
            Change::Broker { leader_epoch: self.inner.leader_epoch, next_partition: *numbers },
            pipe.change(spec.clone(), 0, &vec![0; ids.len()]),
        ];
        for change in &changes {
            let write = self.inner.state.write(|state| state.append(change, self.inner.clock.wall_nanos()));
            write.await.map_err(ApplyError::Write)?;
        }
        self.declare_groups(&pipe, &spec);
        self.pipes_mut().insert(spec.name.clone(), Arc::new(pipe));
        Ok(())
    }

    async fn change(&self, pipe: &Pipe, spec: DnpipeSpec) -> Result<(), ApplyError> {
        let has = pipe.partitions.len() as u32;
        if has != spec.partitions {
            return Err(ApplyError::PartitionsChanged { has, asked: spec.partitions });
        }
        let _turn = pipe.turn.lock().await;
        self.unlock(pipe).await.map_err(ApplyError::Key)?;
        if *pipe.spec() == spec {
            return Ok(());
        }
        pipe.stays().map_err(ApplyError::Write)?;
        let fence = pipe.fence();
        let key = self.key_for(pipe, &spec, fence.epoch).map_err(ApplyError::Key)?;
        let wrapped = key.as_ref().map(|key| key.wrapped.clone());
        for group in &spec.groups {
            let own = pipe.group(&group.name);
            let other = own.filter(|own| own.lock().spec.dead_letter != group.dead_letter);
            if let Some(own) = other {
                self.forget_letters(pipe, &own).await.map_err(ApplyError::Write)?;
            }
        }
        let change = pipe.change_with(spec.clone(), fence.epoch, &fence.starts, wrapped);
        let write = self.inner.state.write(|state| state.append(&change, self.inner.clock.wall_nanos()));
        write.await.map_err(ApplyError::Write)?;
        self.declare_groups(pipe, &spec);
        pipe.set_key(fence.epoch, key);
        pipe.set_spec(spec);
        pipe.all_groups().iter().for_each(|group| group.wake());
        Ok(())
    }

    /// The key that a dnpipe of this spec goes on with: what it has is kept, for its records need it, and is wrapped anew
    /// where that is asked for.
    fn key_for(&self, pipe: &Pipe, spec: &DnpipeSpec, epoch: u32) -> Result<Option<DataKey>, KeyError> {
        let keys = &*self.inner.keys;
        match (pipe.key(epoch), &spec.encryption) {
            (Some(key), Some(by)) if key.wrapped.by != *by => {
                key.rewrap(keys, by, &spec.name, epoch).map(Some)
            }
            (None, Some(by)) => DataKey::create(keys, by, &spec.name, epoch).map(Some),
            (key, _) => Ok(key),
        }
    }

    /// Groups that a spec names begin with the oldest record there is; those it no longer names stay, until they are removed.
    pub(crate) fn declare_groups(&self, pipe: &Pipe, spec: &DnpipeSpec) {
        let mut groups = lock(&pipe.groups);
        let fence = pipe.fence.borrow();
        for group in &spec.groups {
            match groups.get(&group.name) {
                Some(own) => own.set_spec(group.clone(), self.inner.clock.now()),
                None => {
                    let first = |at: usize| pipe.visible(&self.inner.journal, &fence, at as u32).start;
                    let cursors: Vec<u64> = (0..pipe.partitions.len()).map(first).collect();
                    groups.insert(group.name.clone(), Arc::new(Group::new(group.clone(), &cursors)));
                }
            }
        }
    }

    /// Removes a dnpipe with its records and its groups. Who waits for it is told; its partitions' room comes back.
    pub async fn remove(&self, name: &DnpipeName) -> Result<(), ApplyError> {
        let _numbers = self.inner.numbers.lock().await;
        let Some(pipe) = self.pipe(name) else { return self.forget(name).await };
        // Another one of its name has letters of its own.
        let others: Vec<_> = self.pipes().values().cloned().collect();
        for other in others {
            for group in other.all_groups() {
                if group.lock().spec.dead_letter.as_ref() == Some(name) {
                    self.forget_letters(&other, &group).await.map_err(ApplyError::Write)?;
                }
            }
        }
        let _turn = pipe.turn.lock().await;
        let change = Change::Removed { name: name.clone() };
        for partition in &pipe.partitions {
            partition.tail().is_removed = true;
        }
        let write = self.inner.state.write(|state| state.append(&change, self.inner.clock.wall_nanos()));
        if let Err(error) = write.await {
            let is_certain = !matches!(error, PushError::Failed { .. } | PushError::Closed);
            // Where nobody knows, a start will: until then nothing is pushed to what may be gone.
            pipe.partitions.iter().for_each(|partition| partition.tail().is_removed = !is_certain);
            return Err(ApplyError::Write(error));
        }
        self.pipes_mut().remove(name);
        self.homes().of.remove(name);
        pipe.fence.send_modify(|fence| fence.is_removed = true);
        pipe.all_groups().iter().for_each(|group| group.end());
        for partition in &pipe.partitions {
            // Those that are not removed before a crash are at the next start, for nothing names them any more.
            drop(self.inner.journal.remove(partition.id));
        }
        Ok(())
    }

    /// Forgets where a dnpipe is that is not here, with what has come of it.
    async fn forget(&self, name: &DnpipeName) -> Result<(), ApplyError> {
        let is_written = match self.homes().of.get(name) {
            Some(known) => known.is_written,
            None => return Err(ApplyError::Unknown(name.clone())),
        };
        if is_written {
            let change = Change::Removed { name: name.clone() };
            let append = |state: &StateLog| state.append(&change, self.inner.clock.wall_nanos());
            self.inner.state.write(append).await.map_err(ApplyError::Write)?;
        }
        let known = self.homes().of.remove(name);
        for id in known.and_then(|known| known.arrival).into_iter().flat_map(|arrival| arrival.ids) {
            drop(self.inner.journal.remove(PartitionId(id)));
        }
        Ok(())
    }

    /// The dnpipes that are here, by name.
    pub fn list(&self) -> Vec<DnpipeName> {
        self.pipes().keys().cloned().collect()
    }

    /// A dnpipe as it is; none where there is none of that name.
    pub fn describe(&self, name: &DnpipeName) -> Option<Described> {
        let pipe = self.pipe(name)?;
        let fence = pipe.fence.borrow();
        let info = |(at, partition): (usize, &crate::pipe::Partition)| {
            let bounds = self.inner.journal.bounds(partition.id);
            let Range { start: first, end } = pipe.visible(&self.inner.journal, &fence, at as u32);
            let (next, bytes) = bounds.map_or((end, 0), |bounds| (bounds.next, bounds.bytes));
            PartitionInfo { journal: partition.id, first, end, next, bytes }
        };
        let partitions: Vec<_> = pipe.partitions.iter().enumerate().map(info).collect();
        let epoch = fence.epoch;
        drop(fence);
        let used_bytes = partitions.iter().map(|partition| partition.bytes).sum();
        Some(Described { spec: pipe.spec(), epoch, partitions, used_bytes })
    }
}
