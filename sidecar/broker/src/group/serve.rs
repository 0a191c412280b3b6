//! What members ask for, beside records: to join, to acknowledge, to give back, to leave.

use std::{ops::Range, sync::Arc};

use sidestream_event::native::{DnpipeName, From};
use sidestream_log::Appending;

use super::{Group, JoinOptions, Membership, State, Waiting};
use crate::{
    Broker,
    error::{GroupError, PullError, PushError},
    limits,
    pipe::{Pipe, lock},
    spec::{GroupSpec, is_group_name},
    state::Change,
};

impl Broker {
    /// Makes `member` a member of a group, and the group where it is not there yet.
    pub async fn join(
        &self,
        name: &DnpipeName,
        group: &str,
        member: &str,
        options: JoinOptions,
    ) -> Result<Membership, GroupError> {
        for name in [group, member] {
            if !is_group_name(name) {
                return Err(GroupError::Name {
                    name: name.chars().take(limits::GROUP_NAME_BYTES_MAX).collect(),
                });
            }
        }
        let pipe = self.pipe(name).ok_or_else(|| PullError::Unknown(name.clone()))?;
        let own = match pipe.group(group) {
            Some(own) => own,
            None => self.create_group(&pipe, group, options.from).await?,
        };
        let now = self.inner.clock.now();
        let mut state = own.lock();
        if state.is_over {
            return Err(GroupError::UnknownGroup { group: group.into() });
        }
        state.stays()?;
        state.expire(now);
        if state.members.len() >= limits::MEMBERS_MAX && !state.members.contains_key(member) {
            return Err(GroupError::TooMany);
        }
        let token = state.join(member, options, now);
        let partitions = state.owned(member);
        drop(state);
        own.wake();
        Ok(Membership { dnpipe: name.clone(), group: group.into(), member: member.into(), token, partitions })
    }

    async fn create_group(&self, pipe: &Pipe, name: &str, from: From) -> Result<Arc<Group>, GroupError> {
        let _turn = pipe.turn.lock().await;
        pipe.stays().map_err(GroupError::Write)?;
        if let Some(group) = pipe.group(name) {
            return Ok(group);
        }
        if lock(&pipe.groups).len() >= limits::GROUPS_MAX {
            return Err(GroupError::TooMany);
        }
        let mut cursors = Vec::new();
        for partition in 0..pipe.partitions.len() as u32 {
            let (_, range) = pipe.seen(&self.inner.journal, partition);
            let at = self.resolve(pipe, partition, from, &range).await?;
            if !(range.start..=range.end).contains(&at) {
                return Err(PullError::OutOfRange { first: range.start, end: range.end }.into());
            }
            cursors.push(at);
        }
        let spec = GroupSpec::new(name);
        let change =
            Change::Group { dnpipe: pipe.name.clone(), spec: spec.clone(), cursors: cursors.clone() };
        let write = self.inner.state.write(|state| state.append(&change, self.inner.clock.wall_nanos()));
        write.await.map_err(GroupError::Write)?;
        let group = Arc::new(Group::new(spec, &cursors));
        lock(&pipe.groups).insert(name.into(), group.clone());
        Ok(group)
    }

    /// These records are handled. They are never delivered to the group again, whatever crashes after this has returned,
    /// unless it seeks. What was not handed out is not acknowledged by it.
    pub async fn ack(
        &self,
        membership: &Membership,
        partition: u32,
        ranges: &[Range<u64>],
    ) -> Result<(), GroupError> {
        self.answer(membership, partition, ranges, |state, at, range| state.slots[at].share.settle(range))
            .await
    }

    /// These records could not be handled: they are delivered again after a while, or go to the dead letters.
    pub async fn give_back(
        &self,
        membership: &Membership,
        partition: u32,
        ranges: &[Range<u64>],
    ) -> Result<(), GroupError> {
        let (now, patience) = (self.inner.clock.now(), |state: &State| state.patience());
        self.answer(membership, partition, ranges, |state, at, range| {
            let patience = patience(state);
            state.slots[at].share.fail(range, now, patience);
        })
        .await
    }

    async fn answer(
        &self,
        membership: &Membership,
        partition: u32,
        ranges: &[Range<u64>],
        change: impl Fn(&mut State, usize, Range<u64>),
    ) -> Result<(), GroupError> {
        let (pipe, group) = self.group_of(membership)?;
        let at = partition as usize;
        let is_dying = {
            let mut state = group.lock();
            self.verify(&group, &mut state, membership)?;
            state.stays()?;
            let Some(slot) = state.slots.get(at) else {
                let partitions = state.slots.len() as u32;
                return Err(PullError::UnknownPartition { partition, partitions }.into());
            };
            if slot.owner.as_deref() != Some(&membership.member) {
                return Err(GroupError::NotOwner { partition });
            }
            let before = slot.share.pieces();
            let as_it_was = (before + 2 * ranges.len() > limits::PIECES_MAX).then(|| slot.share.clone());
            ranges.iter().for_each(|range| change(&mut state, at, range.clone()));
            let share = &mut state.slots[at].share;
            if let Some(as_it_was) = as_it_was
                && share.pieces() > before.max(limits::PIECES_MAX)
            {
                *share = as_it_was;
                return Err(GroupError::Scattered { partition });
            }
            if state.hand_over() {
                group.wake();
            }
            !state.slots[at].share.dying().is_empty()
        };
        self.write_share(&pipe, &group, at).await?;
        if is_dying {
            self.bury_soon(&pipe, &group, at);
        }
        Ok(())
    }

    /// Ends a membership: what it has comes again, to others, at once.
    pub async fn leave(&self, membership: Membership) -> Result<(), GroupError> {
        let (pipe, group) = self.group_of(&membership)?;
        {
            let mut state = group.lock();
            self.verify(&group, &mut state, &membership)?;
            state.leave(&membership.member, self.inner.clock.now());
        }
        group.wake();
        self.write_dirty(&pipe, &group);
        Ok(())
    }

    /// Writes down a share as it is when it gets to the journal, which has it when this returns.
    pub(crate) async fn write_share(&self, pipe: &Pipe, group: &Group, at: usize) -> Result<(), GroupError> {
        let append = |_: &crate::state::StateLog| self.append_share(pipe, group, at);
        self.inner.state.write(append).await.map_err(GroupError::Write)
    }

    /// The same, without waiting. The group is locked until the journal has taken it: so shares are written in order.
    pub(crate) fn append_share(&self, pipe: &Pipe, group: &Group, at: usize) -> Result<Appending, PushError> {
        let mut state = group.lock();
        let change = state.change(&pipe.name, at);
        self.inner.state.append(&change, self.inner.clock.wall_nanos())
    }

    /// Writes down what changed and need not be durable at once; what is not taken now is tried again later.
    pub(crate) fn write_dirty(&self, pipe: &Pipe, group: &Group) {
        let dirty: Vec<usize> = group
            .lock()
            .slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.is_dirty)
            .map(|(at, _)| at)
            .collect();
        for at in dirty {
            if self.append_share(pipe, group, at).is_err() {
                group.lock().slots[at].is_dirty = true;
            }
        }
    }

    /// The group of a membership.
    pub(crate) fn group_of(&self, membership: &Membership) -> Result<(Arc<Pipe>, Arc<Group>), GroupError> {
        let unknown = || PullError::Unknown(membership.dnpipe.clone());
        let pipe = self.pipe(&membership.dnpipe).ok_or_else(unknown)?;
        let group = pipe.group(&membership.group);
        let group = group.ok_or_else(|| GroupError::UnknownGroup { group: membership.group.clone() })?;
        Ok((pipe, group))
    }

    /// Whether it still is a membership; then the member is alive.
    pub(super) fn verify(
        &self,
        group: &Group,
        state: &mut State,
        membership: &Membership,
    ) -> Result<(), GroupError> {
        let now = self.inner.clock.now();
        if state.expire(now) {
            group.wake();
        }
        let member =
            state.members.get_mut(&membership.member).filter(|member| member.token == membership.token);
        match member {
            Some(member) if !state.is_over => {
                member.seen = now;
                Ok(())
            }
            _ => Err(GroupError::NotMember { group: membership.group.clone() }),
        }
    }

    /// While this is kept, the member is not silent.
    pub(super) fn wait_as(&self, group: &Arc<Group>, membership: &Membership) -> Result<Waiting, GroupError> {
        let mut state = group.lock();
        self.verify(group, &mut state, membership)?;
        if let Some(member) = state.members.get_mut(&membership.member) {
            member.waiting += 1;
        }
        let (member, token) = (membership.member.clone(), membership.token);
        Ok(Waiting { group: group.clone(), member, token, clock: self.inner.clock.clone() })
    }
}
