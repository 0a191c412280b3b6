//! Request by request: who may ask it, and what the broker answers.

use std::time::Duration;

use bytes::Bytes;
use sidestream_broker::{Broker, Described, Limits};
use sidestream_event::{
    native::{Answer, DiskView, DnpipeName, DnpipeView, Frame, PartitionView, Refusal, Request},
    record::{HEADER_BYTES, Header},
};
use tokio::time::timeout;

use crate::{
    caller::Verb,
    limits::{PULL_BYTES_MAX, ROOM_WITHIN, WAIT_MAX},
    refusals::{of_pull, of_push, of_reset},
    session::{Done, Session, Work, to_its_end},
};

impl Session<'_> {
    /// Begins what a frame asks for. A push has its place when this returns.
    pub(crate) async fn begin(&mut self, frame: Frame) -> Work {
        let request = match frame.read::<Request>() {
            Ok(request) => request,
            Err(error) => return now(Err(Refusal::Bad { reason: error.to_string() })),
        };
        let begun = match request {
            Request::Ping => Ok(now(Ok(Answer::Pong))),
            Request::List => Ok(now(Ok(Answer::Dnpipes(self.list())))),
            Request::Describe { dnpipe } => Ok(now(self.describe(&dnpipe).map(Answer::Dnpipe))),
            Request::Push { dnpipe, partition, only_if } => {
                match self.caller.check(self.broker(), &dnpipe, Verb::Push) {
                    Ok(()) => self.push(&dnpipe, partition, frame.tail, only_if).await,
                    Err(refusal) => Err(refusal),
                }
            }
            Request::Pull { dnpipe, partition, from, max_bytes, max_records, wait_millis } => {
                let limits = limits(max_bytes, max_records);
                self.pull(dnpipe, partition, from, limits, wait(wait_millis))
            }
            Request::Reset { dnpipe } => self.reset(dnpipe),
            Request::Verify { dnpipe } => self.verify(dnpipe),
            of_group => self.begin_group(of_group),
        };
        begun.unwrap_or_else(|refusal| now(Err(refusal)))
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.shared.broker
    }

    pub(crate) fn list(&self) -> Vec<DnpipeView> {
        let names = self.broker().list();
        let visible = names.iter().filter_map(|name| self.describe(name).ok());
        visible.collect()
    }

    pub(crate) fn describe(&self, name: &DnpipeName) -> Result<DnpipeView, Refusal> {
        self.caller.check_any(self.broker(), name)?;
        let found = self.broker().describe(name).ok_or_else(|| Refusal::UnknownDnpipe(name.clone()))?;
        Ok(view(name, &found, self.shared.storage.disk()))
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
                    Done::of(Answer::Pushed { base_offset: pushed.base_offset, epoch: pushed.epoch })
                }
                Err(error) => Done::refused(of_push(error)),
            }
        }))
    }

    fn pull(
        &self,
        name: DnpipeName,
        partition: u32,
        from: sidestream_event::native::From,
        limits: Limits,
        wait: Option<Duration>,
    ) -> Result<Work, Refusal> {
        self.caller.check(self.broker(), &name, Verb::Pull)?;
        let broker = self.broker().clone();
        Ok(Box::pin(async move {
            match broker.pull(&name, partition, from, limits, wait).await {
                Ok(pulled) => {
                    let answer = Answer::Pulled {
                        from: pulled.from,
                        next: pulled.next,
                        epoch: pulled.epoch,
                        first: pulled.first,
                        end: pulled.end,
                    };
                    let tail = pulled.batches.into_iter().flat_map(|batch| [head(&batch.header), batch.body]);
                    Done { tail: tail.collect(), ..Done::of(answer) }
                }
                Err(error) => Done::refused(of_pull(error)),
            }
        }))
    }

    fn reset(&self, name: DnpipeName) -> Result<Work, Refusal> {
        self.caller.check(self.broker(), &name, Verb::Reset)?;
        let broker = self.broker().clone();
        Ok(to_its_end(async move {
            let epoch = broker.reset(&name).await.map_err(of_reset)?;
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
        let storage = self.shared.storage.clone();
        Ok(Box::pin(async move {
            match storage.verify().await {
                Ok(mut found) => {
                    found
                        .damage
                        .retain(|damage| name.is_none() || damage.dnpipe.is_none() || damage.dnpipe == name);
                    Done::of(Answer::Verified(found))
                }
                Err(refusal) => Done::refused(refusal),
            }
        }))
    }
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
