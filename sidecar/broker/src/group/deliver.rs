//! The next records for a member.
//!
//! Offsets are claimed under the group's lock, and then read; what was claimed and can't be given goes back as if it had
//! never been claimed. A look at the fence before and after makes sure that nothing older than a reset is given.

use std::{ops::Range, sync::Arc, time::Duration};

use futures_util::future::{pending, select_all};
use sidestream_event::native::DnpipeName;
use sidestream_host::Moment;
use sidestream_log::{ReadError, StoredBatch};
use tokio::sync::watch;

use super::{Claimed, Delivery, Group, Membership, share::Claim};
use crate::{
    Broker,
    error::{GroupError, PullError, read_error},
    pipe::Pipe,
    pull::{Limits, check, read_to},
};

impl Broker {
    /// The next records for a member: those that come again, then new ones. Where there are none it waits, for `wait` at most,
    /// and then gives none. Records are not more than `limits` says; of bytes, one batch comes however large it is.
    pub async fn next(
        &self,
        membership: &Membership,
        limits: Limits,
        wait: Option<Duration>,
    ) -> Result<Claimed, GroupError> {
        let (pipe, group) = self.group_of(membership)?;
        let _alive = self.wait_as(&group, membership)?;
        pipe.is_open().map_err(PullError::from)?;
        let timer = tokio::time::sleep(wait.unwrap_or_default());
        tokio::pin!(timer);
        let (mut changed, mut fences) = (group.changed.subscribe(), pipe.fence.subscribe());
        let mut readable: Vec<(u32, watch::Receiver<u64>)> = Vec::new();
        loop {
            tokio::task::coop::consume_budget().await;
            // Whatever changes after these wakes us.
            changed.mark_unchanged();
            readable.iter_mut().for_each(|(_, readable)| readable.mark_unchanged());
            fences.mark_unchanged();
            let look = self.look(&pipe, &group, membership, limits.max_records)?;
            look.dying.iter().for_each(|at| self.bury_soon(&pipe, &group, *at));
            if !look.claims.is_empty() {
                let Look { epoch, claims, auto_ack, .. } = look;
                let held = Held { broker: self, group: &group, claims };
                let deliveries = self.deliver(&pipe, held, epoch, limits, auto_ack).await?;
                if !deliveries.is_empty() {
                    return Ok(Claimed { deliveries, partitions: look.partitions });
                }
                continue;
            }
            let empty = Claimed { deliveries: Vec::new(), partitions: look.partitions };
            if wait.is_none_or(|wait| wait.is_zero()) {
                return Ok(empty);
            }
            if !readable.iter().map(|(partition, _)| partition).eq(&empty.partitions) {
                let watch = |partition: &u32| {
                    let id = pipe.partitions[*partition as usize].id;
                    self.inner.journal.watch(id).map(|readable| (*partition, readable))
                };
                readable = empty.partitions.iter().filter_map(watch).collect();
                continue;
            }
            tokio::select! {
                biased;
                _ = changed.changed() => (),
                _ = fences.changed() => (),
                is_open = any(&mut readable) => if !is_open {
                    check(&pipe.fence(), &pipe.name)?;
                    return Err(PullError::Closed.into());
                },
                () = until(look.due, self.inner.clock.now()) => (),
                () = &mut timer => return Ok(empty),
            }
        }
    }

    /// Claims what is there for a member.
    fn look(
        &self,
        pipe: &Pipe,
        group: &Group,
        membership: &Membership,
        records_max: u64,
    ) -> Result<Look, GroupError> {
        let mut state = group.lock();
        self.verify(group, &mut state, membership)?;
        let fence = pipe.fence.borrow();
        check(&fence, &pipe.name)?;
        let now = self.inner.clock.now();
        let Some(member) = state.members.get(&membership.member) else {
            return Err(GroupError::NotMember { group: membership.group.clone() });
        };
        let (until, auto_ack) = (now + member.options.lease, member.options.auto_ack);
        // Nothing is handed out of what is about to go: its next server would not know.
        let partitions = if state.is_moving { Vec::new() } else { state.owned(&membership.member) };
        let (claims, epoch) = (Vec::new(), fence.epoch);
        let mut look = Look { claims, epoch, partitions, due: None, dying: Vec::new(), auto_ack };
        let count = look.partitions.len();
        state.turn = state.turn.wrapping_add(1);
        let first = state.turn;
        let mut left = records_max;
        for turn in 0..count {
            let partition = look.partitions[(first + turn) % count];
            let range = pipe.visible(&self.inner.journal, &fence, partition);
            let slot = &mut state.slots[partition as usize];
            slot.share.fence(range.start);
            let claims = slot.share.claim(range.end, left, now, until);
            left -= claims.iter().map(|claim| claim.range.end - claim.range.start).sum::<u64>();
            look.claims.extend(claims.into_iter().map(|claim| (partition, claim)));
            look.due = [look.due, slot.share.next_due()].into_iter().flatten().min();
            if !slot.is_buried && !slot.share.dying().is_empty() {
                look.dying.push(partition as usize);
            }
        }
        Ok(look)
    }

    /// Reads what was claimed.
    async fn deliver(
        &self,
        pipe: &Arc<Pipe>,
        mut held: Held<'_>,
        epoch: u32,
        limits: Limits,
        auto_ack: bool,
    ) -> Result<Vec<Delivery>, GroupError> {
        let (mut deliveries, mut left) = (Vec::new(), Vec::new());
        let mut bytes_left = limits.max_bytes.max(1);
        // Where not all of a claim is given, what is behind it would overtake the rest.
        let mut held_up = None;
        for (partition, claim) in &held.claims {
            let mut rest = (*partition, claim.clone());
            if bytes_left > 0 && held_up != Some(*partition) {
                let Range { start, end } = claim.range;
                match read_to(&self.inner.journal, pipe, *partition, start, end, bytes_left).await {
                    Ok(read) => {
                        rest.1.range.start = claim.range.end.min(read.next).max(claim.range.start);
                        let is_meant = |batch: &StoredBatch| batch.header.base_offset < rest.1.range.start;
                        let batches: Vec<_> = read.batches.into_iter().take_while(is_meant).collect();
                        let bytes: usize = batches.iter().map(|batch| batch.header.length as usize).sum();
                        if bytes > bytes_left && !deliveries.is_empty() {
                            // One batch there always is: it is for the next call, which has room for it.
                            bytes_left = 0;
                            left.push((*partition, claim.clone()));
                            continue;
                        }
                        bytes_left = bytes_left.saturating_sub(bytes);
                        let given = Claim { range: claim.range.start..rest.1.range.start, ..claim.clone() };
                        add(&mut deliveries, *partition, epoch, given, batches);
                    }
                    // What can't be read is never delivered: to hold everybody up for it for ever helps nobody.
                    Err(ReadError::Damaged { from, to }) => {
                        self.skip_damaged(&pipe.name, held.group, *partition, from, to);
                    }
                    // A reset or a trim came between: the next look knows.
                    Err(error) => read_error(error).map_or(Ok(()), Err)?,
                }
            }
            if !rest.1.range.is_empty() {
                held_up = Some(*partition);
            }
            left.push(rest);
        }
        if auto_ack && !deliveries.is_empty() && !self.settle_all(pipe, held.group, &deliveries).await? {
            return Ok(Vec::new());
        }
        // The second look: a reset that came between takes it all back.
        if pipe.fence.borrow().epoch != epoch {
            return Ok(Vec::new());
        }
        held.claims = left;
        Ok(deliveries)
    }

    /// At most once: what is about to be given is done. Whether it may be given: who was replaced, or was late, while it was
    /// read has lost it to another.
    async fn settle_all(
        &self,
        pipe: &Pipe,
        group: &Group,
        deliveries: &[Delivery],
    ) -> Result<bool, GroupError> {
        for delivery in deliveries {
            {
                let mut state = group.lock();
                state.stays()?;
                let share = &state.slots[delivery.partition as usize].share;
                let is_out = |(from, to, delivery): &(u64, u64, u32)| share.has_out(*from..*to, *delivery);
                if !delivery.ranges.iter().all(is_out) {
                    return Ok(false);
                }
                let share = &mut state.slots[delivery.partition as usize].share;
                delivery.ranges.iter().for_each(|(from, to, _)| share.settle(*from..*to));
                if state.hand_over() {
                    group.wake();
                }
            }
            self.write_share(pipe, group, delivery.partition as usize).await?;
        }
        Ok(true)
    }

    fn skip_damaged(&self, name: &DnpipeName, group: &Group, partition: u32, from: u64, to: u64) {
        tracing::error!(dnpipe = %name, group = group.name, partition, from, to, "damaged records are not delivered");
        let mut state = group.lock();
        let slot = &mut state.slots[partition as usize];
        slot.share.pass_over(from..to);
        slot.is_dirty = true;
    }
}

struct Look {
    claims: Vec<(u32, Claim)>,
    /// Of what is claimed.
    epoch: u32,
    partitions: Vec<u32>,
    /// When there may be more without anything being pushed.
    due: Option<Moment>,
    dying: Vec<usize>,
    auto_ack: bool,
}

/// Claims that are not given yet: what is not given in the end goes back, also when nobody waits any more.
struct Held<'a> {
    broker: &'a Broker,
    group: &'a Group,
    claims: Vec<(u32, Claim)>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let now = self.broker.inner.clock.now();
        let mut state = self.group.lock();
        // From the last to the first, so that what was fresh is fresh again.
        for (partition, claim) in self.claims.iter().rev() {
            state.slots[*partition as usize].share.unclaim(claim, now);
        }
    }
}

/// Adds records to what is given of their partition. Claims of one batch bring it once.
fn add(deliveries: &mut Vec<Delivery>, partition: u32, epoch: u32, given: Claim, batches: Vec<StoredBatch>) {
    if given.range.is_empty() {
        return;
    }
    let range = (given.range.start, given.range.end, given.delivery);
    match deliveries.last_mut().filter(|delivery| delivery.partition == partition) {
        Some(delivery) => {
            delivery.ranges.push(range);
            let has = |batch: &StoredBatch| {
                delivery.batches.iter().any(|own| own.header.base_offset == batch.header.base_offset)
            };
            let more: Vec<_> = batches.into_iter().filter(|batch| !has(batch)).collect();
            delivery.batches.extend(more);
        }
        None => deliveries.push(Delivery { partition, epoch, ranges: vec![range], batches }),
    }
}

/// Waits until more of any partition can be read; false where the journal is closed.
async fn any(readable: &mut [(u32, watch::Receiver<u64>)]) -> bool {
    if readable.is_empty() {
        return pending().await;
    }
    select_all(readable.iter_mut().map(|(_, readable)| Box::pin(readable.changed()))).await.0.is_ok()
}

async fn until(due: Option<Moment>, now: Moment) {
    match due {
        // Never at once: what is due now was looked at.
        Some(due) => tokio::time::sleep(due.since(now).max(Duration::from_millis(1))).await,
        None => pending().await,
    }
}
