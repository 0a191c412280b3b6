//! Request by request: who may ask it, and what the broker answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sidestream_broker::{Broker, Described, Limits, OpenProducer, PullError, Pulled};
use sidestream_event::{
    native::{
        Answer, DiskView, DnpipeName, DnpipeView, Frame, From, HEAD_BYTES_MAX, Incarnation, PartitionView,
        Refusal, Request, write_places,
    },
    record::{HEADER_BYTES, Header},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    caller::Verb,
    elsewhere,
    limits::{PULL_BYTES_MAX, ROOM_WITHIN, WAIT_MAX},
    refusals::{of_begun_push, of_pull, of_push, of_reset},
    session::{Done, Session, Work, never_held_up},
};

impl Session {
    /// Begins what a frame asks for. A push has its place when this returns.
    pub(crate) async fn begin(&self, frame: Frame) -> Work {
        match frame.read::<Request>() {
            Ok(request) => self.ask(request, frame.tail).await,
            Err(error) => now(Err(Refusal::Bad { reason: error.to_string() })),
        }
    }

    /// Begins a request; `batch` is what a push appends. A push has its place when this returns.
    pub(crate) async fn ask(&self, request: Request, batch: Bytes) -> Work {
        // Where there is one server, each request is for that.
        let place = if self.broker().is_shared() { request.dnpipe().cloned() } else { None };
        let changes = !request.only_reads();
        let begun = match request {
            Request::Ping => Ok(now(Ok(Answer::Pong))),
            Request::List => Ok(now(Ok(Answer::Dnpipes(page(self.views(None)))))),
            Request::ListBehind { dnpipe } => Ok(now(Ok(Answer::Dnpipes(page(self.views(Some(dnpipe))))))),
            Request::Describe { dnpipe } => Ok(now(self.describe(&dnpipe).map(Answer::Dnpipe))),
            Request::Push { dnpipe, partition, only_if } => {
                match self.caller.check(self.broker(), &dnpipe, Verb::Push) {
                    Ok(()) => self.push(&dnpipe, partition, batch, only_if).await,
                    Err(refusal) => Err(refusal),
                }
            }
            Request::Pull { dnpipe, partition, from, max_bytes, max_records, wait_millis } => {
                let limits = limits(max_bytes, max_records);
                self.pull(dnpipe, partition, from, limits, wait(wait_millis))
            }
            Request::Open { dnpipe, partition, producer } => self.open(dnpipe, partition, producer),
            Request::Reset { dnpipe } => self.reset(dnpipe),
            Request::Verify { dnpipe } => self.verify(dnpipe),
            Request::Move(request) => self.begin_move(request),
            Request::Next { ref member, .. } => {
                let name = member.dnpipe.clone();
                self.begin_group(request).map(|claiming| self.claim(name, claiming))
            }
            of_group => self.begin_group(of_group),
        };
        let work = begun.unwrap_or_else(|refusal| now(Err(refusal)));
        match place {
            None => work,
            Some(name) => {
                let shared = self.shared.clone();
                Box::pin(async move { shared.redirected(&name, changes, work.await) })
            }
        }
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.shared.broker
    }

    pub(crate) fn list(&self) -> Vec<DnpipeView> {
        self.views(None).collect()
    }

    /// What the caller may see, in the order of the names.
    fn views(&self, behind: Option<DnpipeName>) -> impl Iterator<Item = DnpipeView> {
        let mut names = self.broker().list();
        names.extend(self.broker().all_elsewhere().into_iter().map(|own| own.name));
        names.sort();
        let names = names.into_iter().filter(move |name| behind.as_ref().is_none_or(|behind| name > behind));
        names.filter_map(|name| self.describe(&name).ok())
    }

    pub(crate) fn describe(&self, name: &DnpipeName) -> Result<DnpipeView, Refusal> {
        self.caller.check_any(self.broker(), name)?;
        let disk = self.shared.storage.disk();
        match self.broker().describe(name) {
            Some(found) => Ok(view(name, &found, disk)),
            None => {
                let elsewhere = self.broker().elsewhere(name);
                let view = elsewhere.and_then(|elsewhere| elsewhere::view(elsewhere, disk));
                view.ok_or_else(|| Refusal::UnknownDnpipe(name.clone()))
            }
        }
    }

    /// Refuses who may not push, before anything is made of what that one sent.
    pub(crate) fn may_push(&self, name: &DnpipeName) -> Result<(), Refusal> {
        let checked = self.caller.check(self.broker(), name, Verb::Push);
        checked.map_err(|refusal| self.shared.refusal_of(name, refusal))
    }

    async fn push(
        &self,
        name: &DnpipeName,
        partition: u32,
        batch: Bytes,
        only_if: sidestream_event::native::Conditions,
    ) -> Result<Work, Refusal> {
        let pushing = loop {
            match self.broker().push(name, partition, batch.clone(), only_if) {
                // Nothing behind it may go first, so all of the connection waits.
                Err(sidestream_broker::PushError::Busy) => {
                    timeout(ROOM_WITHIN, self.broker().room()).await.map_err(|_| Refusal::Busy)?;
                }
                pushed => break pushed.map_err(of_push)?,
            }
        };
        Ok(Box::pin(async move {
            match pushing.await {
                Ok(pushed) => {
                    let answer = Answer::Pushed { base_offset: pushed.base_offset, epoch: pushed.epoch };
                    Done { tail: vec![write_places(&pushed.runs)], ..Done::of(answer) }
                }
                Err(error) => Done::refused(of_begun_push(error)),
            }
        }))
    }

    fn open(&self, name: DnpipeName, partition: u32, producer: u64) -> Result<Work, Refusal> {
        self.caller.check(self.broker(), &name, Verb::Push)?;
        if producer == 0 {
            return Err(Refusal::Bad { reason: "producer 0 is nobody; choose another number".into() });
        }
        let broker = self.broker().clone();
        Ok(self.to_its_end(async move {
            let opened = broker.open_producer(&name, partition, producer).await.map_err(of_push)?;
            let OpenProducer { epoch, next_sequence, position } = opened;
            Ok(Answer::Opened(Incarnation { epoch, next_sequence, position }))
        }))
    }

    fn pull(
        &self,
        name: DnpipeName,
        partition: u32,
        from: From,
        limits: Limits,
        wait: Option<Duration>,
    ) -> Result<Work, Refusal> {
        self.caller.check(self.broker(), &name, Verb::Pull)?;
        let (shared, turns) = (self.shared.clone(), self.turns.clone());
        Ok(Box::pin(async move {
            let read = |from, wait| {
                let (broker, name) = (shared.broker.clone(), name.clone());
                never_held_up(async move { broker.pull(&name, partition, from, limits, wait).await })
            };
            let pulled = loop {
                match in_turn(&turns, from, wait, read).await {
                    // Also one without records: whoever hears the epoch hands out what it has of it.
                    Ok((pulled, _)) if !shared.leases.give(&shared.broker, &name, pulled.epoch) => {}
                    pulled => break pulled,
                }
            };
            match pulled {
                Ok((pulled, turn)) => {
                    let answer = Answer::Pulled {
                        from: pulled.from,
                        next: pulled.next,
                        epoch: pulled.epoch,
                        first: pulled.first,
                        end: pulled.end,
                    };
                    let tail = pulled.batches.into_iter().flat_map(|batch| [head(&batch.header), batch.body]);
                    Done { tail: tail.collect(), turn, ..Done::of(answer) }
                }
                Err(error) => Done::refused(of_pull(error)),
            }
        }))
    }

    /// Records for a member: those that a reset took since they were claimed are not given.
    fn claim(&self, name: DnpipeName, claiming: Work) -> Work {
        let shared = self.shared.clone();
        Box::pin(async move {
            let mut done = claiming.await;
            let Answer::Claimed(claimed) = &mut done.answer else { return done };
            let epoch = claimed.shares.iter().map(|share| share.epoch).min();
            if epoch.is_some_and(|epoch| !shared.leases.give(&shared.broker, &name, epoch)) {
                claimed.shares.clear();
                done.tail.clear();
            }
            done
        })
    }

    fn reset(&self, name: DnpipeName) -> Result<Work, Refusal> {
        self.caller.check(self.broker(), &name, Verb::Reset)?;
        let shared = self.shared.clone();
        Ok(self.to_its_end(async move {
            let epoch = shared.broker.reset(&name).await.map_err(of_reset)?;
            shared.handed_out(&name).await;
            Ok(Answer::Reset { epoch })
        }))
    }

    fn verify(&self, name: Option<DnpipeName>) -> Result<Work, Refusal> {
        match &name {
            Some(name) => drop(self.describe(name)?),
            // All of it is seen by who may see all of it.
            None => {
                self.broker().list().iter().try_for_each(|name| self.caller.check_any(self.broker(), name))?
            }
        }
        let permit = self.shared.verifying.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let storage = self.shared.storage.clone();
        // To its end, also where the caller leaves: the disk is read to the end then, too.
        Ok(self.to_its_end(async move {
            let mut found = storage.verify().await?;
            drop(permit);
            found.damage.retain(|damage| name.is_none() || damage.dnpipe.is_none() || damage.dnpipe == name);
            Ok(Answer::Verified(found))
        }))
    }
}

/// Pulls, and gives what was pulled with a turn to be written. Where all turns are taken nothing is kept meanwhile: it is read
/// again when there is one.
async fn in_turn<F: Future<Output = Result<Pulled, PullError>>>(
    turns: &Arc<Semaphore>,
    from: From,
    wait: Option<Duration>,
    read: impl Fn(From, Option<Duration>) -> F,
) -> Result<(Pulled, Option<OwnedSemaphorePermit>), PullError> {
    let pulled = read(from, wait).await?;
    if pulled.batches.is_empty() {
        return Ok((pulled, None));
    }
    if let Ok(turn) = turns.clone().try_acquire_owned() {
        return Ok((pulled, Some(turn)));
    }
    let place = From::Offset(pulled.from);
    drop(pulled);
    let turn = turns.clone().acquire_owned().await.map_err(|_| PullError::Closed)?;
    Ok((read(place, None).await?, Some(turn)))
}

/// As many as the head of an answer holds.
fn page(views: impl Iterator<Item = DnpipeView>) -> Vec<DnpipeView> {
    let mut left = HEAD_BYTES_MAX - 16;
    let fits = |view: &DnpipeView| {
        let texts = view.name.namespace().len() + view.name.name().len() + view.durability.len();
        let disk = view.disk.driver.len() + view.disk.reason.len();
        let owners: usize = view.partitions.iter().flat_map(|own| &own.owner).map(|own| own.len() + 2).sum();
        let bytes = VIEW_BYTES_MAX + texts + disk + owners + PARTITION_BYTES_MAX * view.partitions.len();
        left.checked_sub(bytes).map(|rest| left = rest).is_some()
    };
    views.take_while(fits).collect()
}

/// What needs no waiting.
pub(crate) fn now(answer: Result<Answer, Refusal>) -> Work {
    let done = answer.map_or_else(Done::refused, Done::of);
    Box::pin(std::future::ready(done))
}

/// A header as it is written, to stand before its body.
pub(crate) fn head(header: &Header) -> Bytes {
    let mut bytes = [0; HEADER_BYTES];
    header.write(&mut bytes);
    Bytes::copy_from_slice(&bytes)
}

pub(crate) fn limits(max_bytes: u32, max_records: u32) -> Limits {
    let max_records = match max_records {
        u32::MAX => u64::MAX,
        records => u64::from(records),
    };
    Limits { max_bytes: (max_bytes as usize).min(PULL_BYTES_MAX), max_records }
}

pub(crate) fn wait(millis: u32) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(u64::from(millis)).min(WAIT_MAX))
}

fn view(name: &DnpipeName, found: &Described, disk: DiskView) -> DnpipeView {
    let retention = &found.spec.retention;
    let partition = |own: &sidestream_broker::PartitionInfo| PartitionView {
        owner: None,
        first: own.first,
        end: own.end,
    };
    DnpipeView {
        name: name.clone(),
        epoch: found.epoch,
        durability: format!("{:?}", found.spec.durability),
        quota_bytes: found.spec.quota_bytes,
        used_bytes: found.used_bytes,
        retention_millis: retention.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        retention_bytes: retention.bytes,
        partitions: found.partitions.iter().map(partition).collect(),
        disk,
    }
}

/// A view with nothing in its texts and lists is smaller: lengths of 3 bytes, numbers of 10.
const VIEW_BYTES_MAX: usize = 80;
/// The same for a partition without an owner.
const PARTITION_BYTES_MAX: usize = 21;
