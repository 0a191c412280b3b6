//! What a broker does by itself, once a second: retention, leases and sessions, dead letters that had to wait, partitions
//! whose disk failed, and writing its state anew before there is too much of it, or too little room for more.

use std::{sync::Arc, time::Duration};

use sidestream_log::{Appending, PartitionId, ReadError};

use crate::{
    Broker,
    error::{PushError, write_error},
    limits,
    open::read_state,
    pipe::{Partition, Pipe, Tail},
    spec::Retention,
    state::{Change, StateLog},
};

impl Broker {
    /// Looks after itself until it is dropped. Somebody must run it.
    pub async fn run(&self) {
        let mut turns = tokio::time::interval(limits::MAINTENANCE);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Acknowledgements on a full disk may use up the reserve in less than a turn.
            tokio::select! {
                _ = turns.tick() => self.maintain().await,
                () = self.inner.state.due() => self.write_down().await,
            }
        }
    }

    /// One turn of [`Broker::run`]. What fails is said in the log and tried again in the next turn.
    pub async fn maintain(&self) {
        let pipes: Vec<Arc<Pipe>> = self.pipes().values().cloned().collect();
        // Before this is written no partition that waits for it takes anything: see `Broker::open`.
        let owes = self.inner.state.owes() && self.catch_up().await.is_err();
        for pipe in &pipes {
            self.thaw_late(pipe);
            self.unlock_late(pipe).await;
            self.keep_groups(pipe);
            let mut failed = None;
            for (at, partition) in pipe.partitions.iter().enumerate().filter(|_| !owes) {
                let kept = self.keep_partition(pipe, at, partition).await;
                failed = failed.or(kept.err());
            }
            if let Some(error) = failed {
                tracing::warn!(dnpipe = %pipe.name, %error, "a dnpipe could not be looked after");
            }
        }
        self.inner.state.look();
        self.write_down().await;
    }

    /// Writes what is due: what partitions know of their producers, then everything anew.
    async fn write_down(&self) {
        if self.inner.state.is_checkpoint_due() {
            self.checkpoint().await;
        }
        if self.inner.state.is_snapshot_due() && self.may_forget_state() {
            self.write_anew().await;
        }
    }

    /// Writes all state anew, or says why not.
    pub(crate) async fn write_anew(&self) {
        let written = self.snapshot().await;
        self.inner.state.end_snapshot(written.is_ok());
        if let Err(error) = written {
            tracing::warn!(%error, "the state of the dnpipes could not be written anew");
        }
    }

    /// Writes what a start had no room for: that it was, and where each dnpipe begins.
    async fn catch_up(&self) -> Result<(), PushError> {
        let numbers = self.inner.numbers.lock().await;
        let now = self.inner.clock.wall_nanos();
        let mut written = Written::behind(self.append_own(*numbers, now).await?, &self.inner.state);
        if let Some(note) = self.nameless_noted() {
            written.note(self.inner.state.when_room(|state| state.append(&note, now)).await?).await?;
        }
        let pipes: Vec<Arc<Pipe>> = self.pipes().values().cloned().collect();
        for pipe in pipes {
            let _turn = pipe.turn.lock().await;
            written.note(self.append_pipe(&pipe, now).await?).await?;
        }
        written.durable().await?;
        self.inner.state.set_owes(false);
        Ok(())
    }

    /// Appends that this start was, and which number the next partition has.
    async fn append_own(&self, next_partition: u32, now: i64) -> Result<Appending, PushError> {
        let broker = Change::Broker { leader_epoch: self.inner.leader_epoch, next_partition };
        self.inner.state.when_room(|state| state.append(&broker, now)).await
    }

    /// Appends what a dnpipe is and where it begins. Whoever asks has its turn.
    async fn append_pipe(&self, pipe: &Pipe, now: i64) -> Result<Appending, PushError> {
        let fence = pipe.fence();
        let change = pipe.change((*pipe.spec()).clone(), fence.epoch, &fence.starts);
        self.inner.state.when_room(|state| state.append(&change, now)).await
    }

    fn keep_groups(&self, pipe: &Arc<Pipe>) {
        let now = self.inner.clock.now();
        for group in pipe.all_groups() {
            let (changed, dying) = {
                let mut state = group.lock();
                let changed = state.expire(now);
                let is_dying = |slot: &crate::group::Slot| !slot.is_buried && !slot.share.dying().is_empty();
                let slots = state.slots.iter().enumerate();
                let dying: Vec<usize> = slots.filter(|(_, slot)| is_dying(slot)).map(|(at, _)| at).collect();
                (changed, dying)
            };
            if changed {
                group.wake();
            }
            self.write_dirty(pipe, &group);
            dying.into_iter().for_each(|at| self.bury_soon(pipe, &group, at));
        }
    }

    async fn keep_partition(&self, pipe: &Pipe, at: usize, partition: &Partition) -> Result<(), PushError> {
        if partition.tail().bounds(&self.inner.journal, partition.id).is_err() {
            self.mend(pipe, partition).await?;
        }
        self.retain(pipe, at, partition).await
    }

    /// Lets go of what was reset, and of what is older, or more, than is to be kept.
    async fn retain(&self, pipe: &Pipe, at: usize, partition: &Partition) -> Result<(), PushError> {
        let lost = |error: ReadError| PushError::Failed { reason: error.to_string().into() };
        let (retention, journal) = (pipe.spec().retention, &self.inner.journal);
        let (_, range) = pipe.seen(journal, at as u32);
        let mut keep = range.start;
        // What nobody can read for now is not let go of meanwhile.
        let retention = if pipe.locked().is_some() { Retention::default() } else { retention };
        if let Some(time) = retention.time {
            let since = self.inner.clock.wall_nanos().saturating_sub(nanos(time));
            keep = keep.max(journal.offset_at(partition.id, since).await.map_err(lost)?);
        }
        if let Some(bytes) = retention.bytes {
            keep = keep.max(journal.offset_keeping(partition.id, bytes).await.map_err(lost)?);
        }
        self.let_go(partition, keep.min(range.end)).await
    }

    /// Trims a partition. Its producers are written down before: what says of them what they pushed goes with the records.
    pub(crate) async fn let_go(&self, partition: &Partition, before: u64) -> Result<(), PushError> {
        let first = self.inner.journal.bounds(partition.id).map_or(before, |bounds| bounds.first);
        if before <= first {
            return Ok(());
        }
        let now = self.inner.clock.wall_nanos();
        self.inner
            .state
            .write(|state| self.write_producers(state, partition, &mut partition.tail(), now))
            .await?;
        self.inner.journal.trim(partition.id, before).await.map_err(write_error)
    }

    /// All producers of a partition, as they are at this moment. What is on its way to the disk counts: it is before this in
    /// the journal, so it is there if this is; where it was refused all the same, the partition ends before what this says,
    /// and it is not believed. After records were taken back nothing is written until the partition is read anew.
    pub(crate) fn write_producers(
        &self,
        state: &StateLog,
        partition: &Partition,
        tail: &mut Tail,
        now: i64,
    ) -> Result<Appending, PushError> {
        let upto = tail.bounds(&self.inner.journal, partition.id)?.next;
        let appending = state.append(&producers_change(partition.id, tail, upto), now)?;
        tail.is_dirty = false;
        Ok(appending)
    }

    /// Writes down what partitions know of their producers.
    async fn checkpoint(&self) {
        let state = &self.inner.state;
        if state.owes() {
            return;
        }
        let mut is_whole = true;
        let (begun, now) = (state.begin_checkpoint(), self.inner.clock.wall_nanos());
        let pipes: Vec<Arc<Pipe>> = self.pipes().values().cloned().collect();
        for partition in pipes.iter().flat_map(|pipe| &pipe.partitions) {
            is_whole &= state.when_room(|state| self.note_producers(state, partition, now)).await.is_ok();
        }
        state.end_checkpoint(begun, is_whole);
    }

    /// The same of one of them.
    fn note_producers(&self, state: &StateLog, partition: &Partition, now: i64) -> Result<(), PushError> {
        let mut tail = partition.tail();
        if tail.is_dirty && !tail.is_removed {
            drop(self.write_producers(state, partition, &mut tail, now)?);
        }
        Ok(())
    }

    /// After its disk failed, a partition takes pushes again, from what the disk has: what was not acknowledged is forgotten.
    /// One at a time, or what was pushed since would be forgotten too; and not while a reset looks where it ends.
    async fn mend(&self, pipe: &Pipe, partition: &Partition) -> Result<(), PushError> {
        let _turn = pipe.turn.lock().await;
        self.mend_in_turn(pipe, partition).await
    }

    /// The same for whoever has the dnpipe's turn.
    pub(crate) async fn mend_in_turn(&self, pipe: &Pipe, partition: &Partition) -> Result<(), PushError> {
        if partition.tail().bounds(&self.inner.journal, partition.id).is_ok() {
            return Ok(());
        }
        let lost = |error: String| PushError::Failed { reason: error.into() };
        let Some(bounds) = self.inner.journal.resume(partition.id) else { return Ok(()) };
        let mut read = read_state(&self.inner.journal).await.map_err(|error| lost(error.to_string()))?;
        let tails = self.read_tails([partition.id], &mut read.producers).await;
        let mut tails = tails.map_err(|error| lost(error.to_string()))?;
        let fresh = tails.remove(&partition.id).unwrap_or_default().tail;
        let epoch = {
            let mut tail = partition.tail();
            let (is_removed, is_moving) = (tail.is_removed, tail.is_moving);
            let append_time = fresh.append_time.max(tail.append_time);
            let (epoch, rolled_back) = (tail.epoch, tail.rolled_back);
            *tail = Tail { epoch, is_removed, is_moving, append_time, rolled_back, ..fresh };
            tail.epoch
        };
        let start = pipe.fence().starts[pipe.place(partition)];
        let ids = self.read_ids(pipe, partition, &pipe.spec(), start).await;
        ids.map_err(|error| lost(error.to_string()))?;
        let mut tail = partition.tail();
        // What was written down of pushes that never came to be is over with this.
        let before = std::mem::replace(&mut tail.rolled_back, bounds.rolled_back);
        let now = self.inner.clock.wall_nanos();
        if let Err(error) = self.write_producers(&self.inner.state, partition, &mut tail, now) {
            tail.rolled_back = before;
            return Err(error);
        }
        tracing::warn!(dnpipe = %pipe.name, epoch, next = bounds.next, "a partition takes pushes again after its disk failed");
        Ok(())
    }

    /// Writes all state anew, and lets the old go. It waits for the disk once for many records: while a dnpipe is written it
    /// can't be reset or changed.
    pub(crate) async fn snapshot(&self) -> Result<(), PushError> {
        let numbers = self.inner.numbers.lock().await;
        let (state, now) = (&self.inner.state, self.inner.clock.wall_nanos());
        let Some(homes) = self.home_changes() else { return Ok(()) };
        state.begin_snapshot();
        let own = self.append_own(*numbers, now).await?;
        // What is before it is told by it and what comes after it, once all of that is durable.
        let begin = own.base_offset;
        let mut written = Written::behind(own, state);
        for change in homes.into_iter().chain(self.nameless_forgotten()) {
            written.note(state.when_room(|state| state.append(&change, now)).await?).await?;
        }
        let pipes: Vec<Arc<Pipe>> = self.pipes().values().cloned().collect();
        for pipe in pipes {
            // Nobody resets or changes it, or makes or removes a group of it, meanwhile.
            let _turn = pipe.turn.lock().await;
            written.note(self.append_pipe(&pipe, now).await?).await?;
            for group in pipe.all_groups() {
                let spec = group.lock().spec.clone();
                let cursors = group.lock().slots.iter().map(|slot| slot.share.cursor()).collect();
                let change = Change::Group { dnpipe: pipe.name.clone(), spec, cursors };
                written.note(state.when_room(|state| state.append(&change, now)).await?).await?;
                for at in 0..pipe.partitions.len() {
                    written.note(state.when_room(|_| self.append_share(&pipe, &group, at)).await?).await?;
                }
            }
            for partition in &pipe.partitions {
                let append =
                    |state: &StateLog| self.write_producers(state, partition, &mut partition.tail(), now);
                written.note(state.when_room(append).await?).await?;
            }
        }
        written.durable().await?;
        let trimmed = self.inner.journal.trim(PartitionId::STATE, begin);
        trimmed.await.map_err(write_error)
    }
}

/// Records of state that are on their way to the disk: as many as may well be one group of it.
struct Written<'a> {
    state: &'a StateLog,
    appendings: Vec<Appending>,
    /// Bytes of state before the first of them.
    before: u64,
}

impl<'a> Written<'a> {
    fn behind(first: Appending, state: &'a StateLog) -> Self {
        Self { state, appendings: vec![first], before: state.since() }
    }

    /// One more; waits for them all where they are many.
    async fn note(&mut self, appending: Appending) -> Result<(), PushError> {
        self.appendings.push(appending);
        if self.state.since().saturating_sub(self.before) >= self.state.portion() {
            self.durable().await?;
        }
        Ok(())
    }

    /// Waits until all of them are durable.
    async fn durable(&mut self) -> Result<(), PushError> {
        for appending in self.appendings.drain(..) {
            appending.await.map_err(write_error)?;
        }
        self.before = self.state.since();
        Ok(())
    }
}

impl Pipe {
    pub(crate) fn place(&self, partition: &Partition) -> usize {
        self.partitions.iter().position(|own| own.id == partition.id).unwrap_or_default()
    }
}

/// All producers of a partition. Of what does not fit into one record the oldest runs are left out: repeats of those are
/// known to be repeats, and where they are is not.
pub(crate) fn producers_change(partition: PartitionId, tail: &Tail, upto: u64) -> Change {
    let all = tail.producers.all();
    let runs_max = (limits::STATE_RECORD_BYTES / RUN_BYTES / all.len().max(1)).clamp(1, limits::RUNS_MAX);
    let producers = all.into_iter().map(|(id, producer)| (id, producer.newest(runs_max))).collect();
    Change::Producers { partition: partition.0, upto, append_time: tail.append_time, producers }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// What a run takes as JSON, at most.
const RUN_BYTES: usize = 144;

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use sidestream_event::record::{Header, RECORD_BYTES_MAX};
    use sidestream_host::{Clock, disk::SimDisk};
    use sidestream_log::{Journal, Settings, Steps};

    use super::*;
    use crate::DnpipeSpec;

    /// What a call comes to, and how many groups the journal wrote meanwhile.
    fn until<T>(steps: &mut Steps, call: impl Future<Output = T>) -> (T, usize) {
        let mut call = pin!(call);
        for groups in 0..100 {
            if let Poll::Ready(done) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return (done, groups);
            }
            assert!(steps.commit(), "it waits for something else");
        }
        panic!("it waits for the disk again and again");
    }

    /// While a dnpipe is written it can't be reset: one wait for each of many partitions would be seconds.
    #[test]
    fn all_state_is_written_anew_with_one_wait_for_the_disk_and_one_for_what_is_trimmed() {
        let (clock, _) = Clock::simulated(0);
        let opened = Journal::open_stepped(Arc::new(SimDisk::new()), Settings::default(), clock.clone());
        let (journal, mut steps, recovered) = opened.unwrap();
        let broker = until(&mut steps, Broker::open(journal, &recovered, clock)).0.unwrap();
        for name in ["shop/orders", "shop/bills"] {
            let spec = DnpipeSpec { partitions: 100, ..DnpipeSpec::new(name.parse().unwrap()) };
            until(&mut steps, broker.apply(spec)).0.unwrap();
        }
        let (written, groups) = until(&mut steps, broker.snapshot());
        assert_eq!((written, groups), (Ok(()), 2));
    }

    /// On a full disk that would go on for ever.
    #[test]
    fn what_is_written_anew_does_not_ask_for_everything_to_be_written_anew() {
        let (clock, _) = Clock::simulated(0);
        let settings = Settings { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Settings::default() };
        // A segment and half of the reserve.
        let disk = SimDisk::new().with_capacity(96 << 10);
        let opened = Journal::open_stepped(Arc::new(disk), settings, clock.clone());
        let (journal, mut steps, recovered) = opened.unwrap();
        let broker = until(&mut steps, Broker::open(journal, &recovered, clock)).0.unwrap();
        while steps.keep() {}
        let is_due =
            || pin!(broker.inner.state.due()).poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let spec = DnpipeSpec::new("shop/orders".parse().unwrap());
        until(&mut steps, broker.apply(spec)).0.unwrap();
        assert!(broker.inner.journal.is_reserve_low() && is_due(), "a change asks for it");
        until(&mut steps, broker.write_anew());
        assert!(!is_due());
    }

    /// What can't be written down as one record would be lost in a crash.
    #[test]
    fn as_many_producers_as_there_may_be_fit_into_a_record() {
        let mut tail = Tail { append_time: i64::MAX, ..Tail::default() };
        let far = u64::MAX / 2;
        for run in 0..limits::RUNS_MAX as u64 {
            for id in 0..limits::PRODUCERS_MAX as u64 {
                let (first_sequence, base_offset) = (far + run, far + run * 3 + id * 7);
                let header = Header {
                    first_sequence,
                    base_offset,
                    count: 1,
                    append_time: i64::MAX,
                    ..Header::default()
                };
                let (producer_id, producer_epoch) = (u64::MAX - id, u32::MAX);
                tail.producers.note(&Header {
                    producer_id,
                    producer_epoch,
                    reset_epoch: u32::MAX,
                    position: u64::MAX,
                    ..header
                });
            }
        }
        let change = producers_change(PartitionId(u32::MAX), &tail, u64::MAX);
        let bytes = serde_json::to_vec(&change).unwrap().len();
        assert!(bytes < RECORD_BYTES_MAX, "{bytes}");
        let Change::Producers { producers, .. } = change else { panic!("not producers") };
        assert_eq!(producers.len(), limits::PRODUCERS_MAX);
        assert!(producers.iter().all(|(_, producer)| !producer.runs.is_empty()));
    }
}
