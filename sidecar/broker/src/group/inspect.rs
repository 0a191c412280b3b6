//! Looking at groups, moving their cursors, removing them.

use std::{ops::Range, sync::Arc};

use sidestream_event::native::{DnpipeName, From};

use super::{Group, GroupInfo, MemberInfo};
use crate::{
    Broker,
    error::{GroupError, PullError},
    pipe::{Pipe, lock},
    state::Change,
};

impl Broker {
    /// The groups of a dnpipe, by name.
    pub async fn groups(&self, name: &DnpipeName) -> Result<Vec<GroupInfo>, GroupError> {
        let pipe = self.pipe(name).ok_or_else(|| PullError::Unknown(name.clone()))?;
        let mut found = Vec::new();
        for group in pipe.all_groups() {
            found.push(self.inspect(&pipe, &group).await);
        }
        Ok(found)
    }

    /// One group of a dnpipe.
    pub async fn group(&self, name: &DnpipeName, group: &str) -> Result<GroupInfo, GroupError> {
        let (pipe, group) = self.find_group(name, group)?;
        Ok(self.inspect(&pipe, &group).await)
    }

    /// Records that the group of a dnpipe that is furthest behind has not done; none where there is no such dnpipe, 0 where it has
    /// no groups.
    pub fn lag(&self, name: &DnpipeName) -> Option<u64> {
        let pipe = self.pipe(name)?;
        let lags = pipe.all_groups().into_iter().map(|group| self.standing(&pipe, &group).0.lag_records);
        Some(lags.max().unwrap_or_default())
    }

    async fn inspect(&self, pipe: &Pipe, group: &Group) -> GroupInfo {
        let (mut info, behind) = self.standing(pipe, group);
        let now = self.inner.clock.wall_nanos();
        for (at, cursor) in behind {
            let oldest = self.inner.journal.headers(pipe.partitions[at].id, cursor, 1).await;
            // What can't be read, or went meanwhile, has no age.
            if let Some(header) = oldest.ok().and_then(|(headers, _)| headers.first().copied()) {
                let age = now.saturating_sub(header.append_time).max(0) as f64 / 1e9;
                info.lag_seconds = info.lag_seconds.max(age);
            }
        }
        info
    }

    /// A group but for the age of what it has not done, and where the oldest of that is, by place of the partition.
    fn standing(&self, pipe: &Pipe, group: &Group) -> (GroupInfo, Vec<(usize, u64)>) {
        let mut state = group.lock();
        if state.expire(self.inner.clock.now()) {
            group.wake();
        }
        let members = state.members.keys();
        let members =
            members.map(|name| MemberInfo { name: name.clone(), partitions: state.owned(name) }).collect();
        let (mut cursors, mut lag_records, mut dying, mut behind) = (Vec::new(), 0, 0, Vec::new());
        let fence = pipe.fence.borrow();
        for (at, slot) in state.slots.iter_mut().enumerate() {
            let range = pipe.visible(&self.inner.journal, &fence, at as u32);
            slot.share.fence(range.start);
            let lag = slot.share.lag(range.end);
            cursors.push(slot.share.cursor());
            lag_records += lag;
            dying += slot.share.dying().iter().map(|(range, _)| range.end - range.start).sum::<u64>();
            if lag > 0 {
                behind.push((at, slot.share.cursor()));
            }
        }
        let spec = state.spec.clone();
        (GroupInfo { spec, members, cursors, lag_records, lag_seconds: 0.0, dying }, behind)
    }

    /// Moves the cursors of a group, of all partitions or of one. What is out is delivered again where it is after the new
    /// cursor, and what was acknowledged before it too.
    pub async fn seek(
        &self,
        name: &DnpipeName,
        group: &str,
        partition: Option<u32>,
        to: From,
    ) -> Result<(), GroupError> {
        let (pipe, group) = self.find_group(name, group)?;
        let partitions = pipe.partitions.len() as u32;
        if let Some(partition) = partition.filter(|partition| *partition >= partitions) {
            return Err(PullError::UnknownPartition { partition, partitions }.into());
        }
        let these = partition.map_or(0..partitions, |partition| partition..partition + 1);
        let mut places = Vec::new();
        for partition in these {
            let (_, range) = pipe.seen(&self.inner.journal, partition);
            let at = self.resolve(&pipe, partition, to, &range).await?;
            if !(range.start..=range.end).contains(&at) {
                let Range { start: first, end } = range;
                return Err(PullError::OutOfRange { first, end }.into());
            }
            places.push((partition as usize, at));
        }
        {
            let mut state = group.lock();
            state.stays()?;
            places.iter().for_each(|(slot, at)| state.slots[*slot].share.seek(*at));
            state.hand_over();
        }
        for (slot, _) in places {
            self.write_share(&pipe, &group, slot).await?;
        }
        group.wake();
        Ok(())
    }

    /// Removes a group with its cursors; its members are none any more. One that the dnpipe itself names can't be removed.
    pub async fn remove_group(&self, name: &DnpipeName, group: &str) -> Result<(), GroupError> {
        let (pipe, own) = self.find_group(name, group)?;
        let _turn = pipe.turn.lock().await;
        pipe.stays().map_err(GroupError::Write)?;
        if pipe.spec().groups.iter().any(|spec| spec.name == group) {
            return Err(GroupError::Declared { group: group.into() });
        }
        let change = Change::GroupRemoved { dnpipe: name.clone(), group: group.into() };
        let write = self.inner.state.write(|state| {
            // Under the group's lock: no share of it is written after this.
            let mut locked = own.lock();
            locked.is_over = true;
            state.append(&change, self.inner.clock.wall_nanos())
        });
        write.await.map_err(GroupError::Write)?;
        lock(&pipe.groups).remove(group);
        own.end();
        Ok(())
    }

    pub(super) fn find_group(
        &self,
        name: &DnpipeName,
        group: &str,
    ) -> Result<(Arc<Pipe>, Arc<Group>), GroupError> {
        let pipe = self.pipe(name).ok_or_else(|| PullError::Unknown(name.clone()))?;
        let own = pipe.group(group).ok_or_else(|| GroupError::UnknownGroup { group: group.into() })?;
        Ok((pipe, own))
    }
}
