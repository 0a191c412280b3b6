//! Dead letters: records that were delivered often enough go to another dnpipe, and can be called back.
//!
//! ```text
//!   share    dying ─── intent: offset 7 is number 3 ───────────────── done
//!   letters              └─── push, producer of this share, number 3 ──┘
//! ```
//!
//! A share is a producer of its dead letters. What number an offset has is written down before it is pushed: after a crash
//! the letters' own partition says whether it came that far, and only what did not is pushed, with the same numbers.
//!
//! A letter has the key, headers and value of its record and five headers more; see [`Origin`]. Where the record can't be
//! taken out of its batch, which its pusher encrypted, or is too large with them, the letter has no value: the record still is
//! where the headers say.

use std::sync::Arc;

use bytes::Bytes;
use sidestream_event::{
    fnv1a,
    native::{Conditions, DnpipeName},
    record::{BatchWriter, HEADER_BYTES, Header, Record, RecordError, expand, records},
};
use sidestream_log::{Bounds, ReadError};

use super::{Group, Intent, Redriven};
use crate::{
    Broker,
    error::{GroupError, PullError, PushError, read_error},
    limits,
    pipe::Pipe,
    push::{Sameness, durable},
};

/// Where a dead letter comes from, as its headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `dead-letter-dnpipe`: the dnpipe.
    pub dnpipe: DnpipeName,
    /// `dead-letter-group`: the group that could not handle it.
    pub group: String,
    /// `dead-letter-partition`: the partition.
    pub partition: u32,
    /// `dead-letter-offset`: the offset.
    pub offset: u64,
    /// `dead-letter-deliveries`: how often it was delivered.
    pub deliveries: u32,
}

impl Origin {
    /// Where `letter` comes from; none where it is no dead letter.
    pub fn read(letter: &Record<'_>) -> Option<Origin> {
        let text = |name: &str| std::str::from_utf8(letter.headers.get(name)?).ok();
        Some(Origin {
            dnpipe: text(DNPIPE)?.parse().ok()?,
            group: text(GROUP)?.to_owned(),
            partition: text(PARTITION)?.parse().ok()?,
            offset: text(OFFSET)?.parse().ok()?,
            deliveries: text(DELIVERIES)?.parse().ok()?,
        })
    }

    fn headers(&self) -> Vec<(String, Bytes)> {
        [
            (DNPIPE, self.dnpipe.to_string()),
            (GROUP, self.group.clone()),
            (PARTITION, self.partition.to_string()),
            (OFFSET, self.offset.to_string()),
            (DELIVERIES, self.deliveries.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.into()))
        .into()
    }
}

impl Broker {
    /// Sees to what is dying, unless somebody does.
    pub(crate) fn bury_soon(&self, pipe: &Arc<Pipe>, group: &Arc<Group>, at: usize) {
        if std::mem::replace(&mut group.lock().slots[at].is_buried, true) {
            return;
        }
        let (broker, pipe, group) = (self.clone(), pipe.clone(), group.clone());
        tokio::spawn(async move {
            if let Err(error) = broker.bury(&pipe, &group, at).await {
                let (dnpipe, group) = (&pipe.name, &group.name);
                tracing::warn!(%dnpipe, group, partition = at, %error, "dead letters wait");
            }
            group.lock().slots[at].is_buried = false;
        });
    }

    /// Moves what is dying to the dead letters. After an error it is still dying.
    pub(crate) async fn bury(&self, pipe: &Arc<Pipe>, group: &Group, at: usize) -> Result<(), PushError> {
        let _turn = group.burial.lock().await;
        let Some(name) = group.lock().spec.dead_letter.clone() else { return Ok(()) };
        let target = self.pipe(&name).ok_or(PushError::Unknown(name))?;
        // Neither of them may change on the quiet when the one or the other is about to go.
        pipe.stays()?;
        target.stays()?;
        pipe.is_open()?;
        target.is_open()?;
        let number = (at % target.partitions.len()) as u32;
        self.finish_burial(pipe, group, at, &target, number).await?;
        while self.bury_some(pipe, group, at, &target, number).await? {}
        Ok(())
    }

    /// What was on its way when a burial ended early: it is there, or it is buried anew.
    async fn finish_burial(
        &self,
        pipe: &Pipe,
        group: &Group,
        at: usize,
        target: &Pipe,
        number: u32,
    ) -> Result<(), PushError> {
        let intents = group.lock().slots[at].burying.clone();
        if intents.is_empty() {
            return Ok(());
        }
        let own = &target.partitions[number as usize];
        let (known, Bounds { next, rolled_back, .. }) = {
            let tail = own.tail();
            let known = tail.producers.get(producer(pipe, group, at)).map_or(0, |known| known.next);
            (known, tail.bounds(&self.inner.journal, own.id)?)
        };
        durable(&self.inner.journal, target, number, next, rolled_back).await?;
        {
            let mut state = group.lock();
            let slot = &mut state.slots[at];
            for intent in intents.iter().filter(|intent| intent.target == own.id.0 && intent.sequence < known)
            {
                slot.share.settle(intent.offset..intent.offset + 1);
            }
            slot.burying.clear();
        }
        self.write_burial(pipe, group, at).await
    }

    /// Moves as many as a batch takes. Whether there are more.
    async fn bury_some(
        &self,
        pipe: &Arc<Pipe>,
        group: &Group,
        at: usize,
        target: &Arc<Pipe>,
        number: u32,
    ) -> Result<bool, PushError> {
        let dying: Vec<(u64, u32)> = {
            let state = group.lock();
            let all = state.slots[at].share.dying().into_iter();
            all.flat_map(|(range, deliveries)| range.map(move |offset| (offset, deliveries)))
                .take(LETTERS_MAX)
                .collect()
        };
        if dying.is_empty() {
            return Ok(false);
        }
        let (mut buried, mut gone) = (Vec::new(), Vec::new());
        let mut writer = BatchWriter::bounded(self.inner.journal.batch_bytes_max());
        let (epoch, start) = fence(pipe, at);
        for (offset, deliveries) in dying {
            if offset < start {
                gone.push(offset);
                continue;
            }
            let (dnpipe, partition) = (pipe.name.clone(), at as u32);
            let origin = Origin { dnpipe, group: group.name.clone(), partition, offset, deliveries };
            match self.write_letter(pipe, &origin, &mut writer).await? {
                Letter::Written => buried.push(offset),
                Letter::Gone => gone.push(offset),
                Letter::Full => break,
            }
        }
        if fence(pipe, at).0 != epoch {
            // What was read is gone. A reset that comes after this look waits for this burial.
            return Ok(true);
        }
        let id = producer(pipe, group, at);
        let own = &target.partitions[number as usize];
        let first = own.tail().producers.get(id).map_or(0, |known| known.next);
        if !buried.is_empty() {
            let epoch = own.tail().producers.get(id).map_or(0, |known| known.epoch);
            let header =
                Header { producer_id: id, producer_epoch: epoch, first_sequence: first, ..Header::default() };
            let batch = writer.finish(header)?;
            group.lock().slots[at].burying = (first..)
                .zip(&buried)
                .map(|(sequence, offset)| Intent { offset: *offset, sequence, target: own.id.0 })
                .collect();
            self.write_burial(pipe, group, at).await?;
            loop {
                let (batch, only_if) = (batch.clone(), Conditions::default());
                match self.push_to(target.clone(), number, batch, only_if, Sameness::ByNumber) {
                    Ok(pushing) => break pushing.await.map(|_| ())?,
                    Err(PushError::Busy) => self.room().await,
                    Err(error) => return Err(error),
                }
            }
        }
        {
            let mut state = group.lock();
            let slot = &mut state.slots[at];
            buried.iter().chain(&gone).for_each(|offset| slot.share.settle(*offset..*offset + 1));
            slot.burying.clear();
            state.hand_over();
        }
        self.write_burial(pipe, group, at).await?;
        group.wake();
        Ok(true)
    }

    async fn write_letter(
        &self,
        pipe: &Pipe,
        origin: &Origin,
        writer: &mut BatchWriter,
    ) -> Result<Letter, PushError> {
        let read = match pipe.read(&self.inner.journal, origin.partition, origin.offset, 1).await {
            Ok(read) => read,
            Err(ReadError::Failed { reason }) => return Err(PushError::Failed { reason }),
            Err(ReadError::Closed) => return Err(PushError::Closed),
            // Reset, trimmed or damaged: nothing is left to be buried.
            Err(ReadError::OutOfRange { .. } | ReadError::Damaged { .. } | ReadError::Unknown { .. }) => {
                return Ok(Letter::Gone);
            }
        };
        let Some(batch) = read.batches.first() else { return Ok(Letter::Gone) };
        let wrapped = |_| (batch.header, batch.body.clone());
        let (header, body) = expand(&batch.header, &batch.body).unwrap_or_else(wrapped);
        let found = records(&header, &body).flatten().find(|record| record.offset == origin.offset);
        // Who has no room for the record has room for where it is.
        let bare = |writer: &mut BatchWriter, time| writer.push(time, None, &origin.headers(), b"");
        let is_first = writer.is_empty();
        let written = match found {
            Some(record) => {
                let mut headers: Vec<(String, Bytes)> = record
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_owned(), body.slice_ref(value)))
                    .collect();
                headers.extend(origin.headers());
                // The first one fits whatever it is; a journal of small segments would refuse it.
                let bytes = HEADER_BYTES + record.raw.len() + ORIGIN_BYTES_MAX;
                if is_first && bytes > self.inner.journal.batch_bytes_max() {
                    bare(writer, record.time)
                } else {
                    match writer.push(record.time, record.key, &headers, record.value) {
                        Err(RecordError::RecordTooLarge { .. }) => bare(writer, record.time),
                        written => written,
                    }
                }
            }
            None => bare(writer, batch.header.base_time),
        };
        match written {
            Ok(()) => Ok(Letter::Written),
            Err(RecordError::BatchFull { .. }) => Ok(Letter::Full),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_burial(&self, pipe: &Pipe, group: &Group, at: usize) -> Result<(), PushError> {
        self.write_share(pipe, group, at).await.map_err(|error| match error {
            GroupError::Write(error) => error,
            other => PushError::Failed { reason: other.to_string().into() },
        })
    }

    /// Delivers the dead letters of a group once more: to that group alone, and as the records they were. Letters that were
    /// redriven before are not again. Of each partition come at most as many as a group may have unacknowledged; the rest
    /// come with the next call.
    pub async fn redrive(&self, name: &DnpipeName, group: &str) -> Result<Redriven, GroupError> {
        let (pipe, group) = self.find_group(name, group)?;
        let _turn = group.burial.lock().await;
        pipe.stays().map_err(GroupError::Write)?;
        let none = || GroupError::NoDeadLetter { group: group.name.clone() };
        let target = group.lock().spec.dead_letter.clone().ok_or_else(none)?;
        let target = self.pipe(&target).ok_or_else(none)?;
        target.is_open().map_err(PullError::from)?;
        let mut redriven = Redriven::default();
        for at in 0..pipe.partitions.len() {
            let number = at % target.partitions.len();
            let (letters, end) = self.letters(&pipe, &group, at, &target, number).await?;
            {
                let mut state = group.lock();
                let first = pipe.seen(&self.inner.journal, at as u32).1.start;
                let now = self.inner.clock.now();
                let slot = &mut state.slots[at];
                slot.redriven = end;
                for (letter, offset) in letters {
                    if offset < first {
                        redriven.gone += 1;
                    } else if slot.share.room() > 0 {
                        redriven.records += 1;
                        slot.share.revive(offset..offset + 1, now);
                    } else {
                        slot.redriven = letter;
                        break;
                    }
                }
            }
            self.write_share(&pipe, &group, at).await?;
        }
        group.wake();
        Ok(redriven)
    }

    /// Its dead letters are others from now on, of which none was redriven.
    pub(crate) async fn forget_letters(&self, pipe: &Pipe, group: &Group) -> Result<(), PushError> {
        let _turn = group.burial.lock().await;
        for at in 0..pipe.partitions.len() {
            if std::mem::take(&mut group.lock().slots[at].redriven) > 0 {
                self.write_burial(pipe, group, at).await?;
            }
        }
        Ok(())
    }

    /// Letters of a partition that were not redriven yet, each with the offset of its record, and where the next ones begin.
    async fn letters(
        &self,
        pipe: &Pipe,
        group: &Group,
        at: usize,
        target: &Pipe,
        number: usize,
    ) -> Result<(Vec<(u64, u64)>, u64), GroupError> {
        let (_, range) = target.seen(&self.inner.journal, number as u32);
        let mut place = group.lock().slots[at].redriven.max(range.start);
        let mut found = Vec::new();
        while place < range.end {
            let read = match target.read(&self.inner.journal, number as u32, place, LOOK_BYTES).await {
                Ok(read) => read,
                Err(ReadError::Damaged { to, .. }) => {
                    place = to;
                    continue;
                }
                Err(error) => match read_error(error) {
                    Some(error) => return Err(error.into()),
                    // Reset meanwhile: the letters are gone.
                    None => break,
                },
            };
            for batch in &read.batches {
                let letters = records(&batch.header, &batch.body).flatten();
                let fresh = letters.filter(|letter| (place..range.end).contains(&letter.offset));
                for letter in fresh {
                    let is_own = |origin: &Origin| {
                        origin.dnpipe == pipe.name
                            && origin.group == group.name
                            && origin.partition as usize == at
                    };
                    let Some(origin) = Origin::read(&letter).filter(is_own) else { continue };
                    if found.len() as u64 >= limits::PENDING_RECORDS_MAX {
                        return Ok((found, letter.offset));
                    }
                    found.push((letter.offset, origin.offset));
                }
            }
            place = read.next.max(place + 1);
        }
        Ok((found, range.end))
    }
}

/// The epoch, and the offset of a partition before which everything is gone.
fn fence(pipe: &Pipe, at: usize) -> (u32, u64) {
    let fence = pipe.fence.borrow();
    (fence.epoch, fence.starts[at])
}

enum Letter {
    Written,
    /// The record is not there any more.
    Gone,
    /// It is for the next batch.
    Full,
}

/// The producer that a share is of its dead letters: FNV-1a of what it is the share of, never 0.
fn producer(pipe: &Pipe, group: &Group, at: usize) -> u64 {
    let partition = pipe.partitions[at].id.0.to_le_bytes();
    let bytes = b"dead letters".iter().chain(&partition).chain(group.name.as_bytes());
    fnv1a(bytes).max(1)
}

const DNPIPE: &str = "dead-letter-dnpipe";
const GROUP: &str = "dead-letter-group";
const PARTITION: &str = "dead-letter-partition";
const OFFSET: &str = "dead-letter-offset";
const DELIVERIES: &str = "dead-letter-deliveries";

/// What the headers of an origin take at most: their names, two names of dnpipe and namespace, a group's, numbers.
const ORIGIN_BYTES_MAX: usize = 1024;
/// Letters that are moved at once.
const LETTERS_MAX: usize = 256;
/// How many bytes of letters are looked through at a time.
const LOOK_BYTES: usize = 1 << 20;
