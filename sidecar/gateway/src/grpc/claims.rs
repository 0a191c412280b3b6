//! What a member was handed out and did not get yet: a claim cannot be read again, and may be more than fits into a message.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;
use sidestream_event::{
    native::{Answer, Claimed, DnpipeName, Member, Refusal, Request},
    record::{Header, Record, records},
};
use tokio::{runtime::Handle, sync::Mutex};

use super::{proto, told};
use crate::{
    limits::CLAIMED_BYTES_MAX,
    pulled::{Most, bytes, count, each},
    session::{Done, Session},
};

/// Records of a member, in the order in which they are to be handled.
#[derive(Default)]
pub(super) struct Ahead {
    records: VecDeque<Given>,
    partitions: Vec<u32>,
    /// That some of what was claimed cannot be read: said when the caller has what could be.
    unreadable: Option<Refusal>,
}

/// A record as it stands in its batch: as a message it is many times that.
pub(super) struct Given {
    partition: u32,
    epoch: u32,
    delivery: u32,
    offset: u64,
    time: i64,
    bytes: u64,
    raw: Bytes,
}

impl Ahead {
    /// Asks for more.
    pub(super) fn request(member: Member, most: Most, wait_millis: u32) -> Request {
        let max_bytes = CLAIMED_BYTES_MAX.min(most.bytes as u32);
        Request::Next { member, max_bytes, max_records: most.records as u32, wait_millis }
    }

    /// Whether there are records that may be handed out now. Those that a reset took are not there any more.
    pub(super) fn is_good(&mut self, session: &Session, dnpipe: &DnpipeName) -> bool {
        let oldest = self.records.iter().map(|given| given.epoch).min();
        let shared = &session.shared;
        if oldest.is_some_and(|epoch| !shared.leases.give(&shared.broker, dnpipe, epoch)) {
            self.records.clear();
            self.unreadable = None;
        }
        !self.records.is_empty()
    }

    /// What is to be told where no records are left.
    pub(super) fn unreadable(&mut self) -> Result<(), Refusal> {
        if self.records.is_empty() { self.unreadable.take().map_or(Ok(()), Err) } else { Ok(()) }
    }

    /// Takes in what was claimed.
    pub(super) fn fill(&mut self, mut done: Done) -> Result<(), Refusal> {
        let Answer::Claimed(Claimed { shares, partitions }) =
            std::mem::replace(&mut done.answer, Answer::Done)
        else {
            return Err(done.unexpected());
        };
        self.partitions = partitions;
        let mut rest = &done.tail[..];
        for share in shares {
            let own;
            (own, rest) = rest.split_at(batches_of(rest, share.bytes));
            let mut meant: Vec<_> = share.ranges.iter().map(|(from, to, _)| (*from, *to)).collect();
            meant.sort_unstable();
            let mut found = HashMap::new();
            for batch in own.chunks(2) {
                let walked = each(batch, |record, body| {
                    if is_among(&meant, record.offset) {
                        let raw = body.slice_ref(record.raw);
                        found.insert(record.offset, (record.time, bytes(record), raw));
                    }
                    ControlFlow::Continue(())
                });
                // The others of the claim can be read all the same.
                self.unreadable = walked.err().or(self.unreadable.take());
            }
            for (from, to, delivery) in share.ranges {
                let given = (from..to).filter_map(|offset| {
                    let (time, bytes, raw) = found.remove(&offset)?;
                    let (partition, epoch) = (share.partition, share.epoch);
                    Some(Given { partition, epoch, delivery, offset, time, bytes, raw })
                });
                self.records.extend(given);
            }
        }
        Ok(())
    }

    /// The next of them.
    pub(super) fn take(&mut self, most: Most) -> Vec<Given> {
        let (mut taken, mut left) = (Vec::new(), most.bytes);
        while let Some(given) = self.records.front() {
            if taken.len() as u64 >= most.records || (given.bytes > left && !taken.is_empty()) {
                break;
            }
            left = left.saturating_sub(given.bytes);
            taken.extend(self.records.pop_front());
        }
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The partitions that were the member's own when it last asked.
    pub(super) fn partitions(&self) -> &[u32] {
        &self.partitions
    }
}

impl Given {
    fn as_message(&self) -> proto::StoredRecord {
        let header = Header { base_offset: self.offset, count: 1, ..Header::default() };
        // It was read before, and from the same bytes.
        let read = records(&header, &self.raw).next().and_then(Result::ok);
        let own = read.map(|read| told::record(&Record { time: self.time, ..read }, &self.raw));
        proto::StoredRecord { offset: self.offset, delivery: self.delivery, ..own.unwrap_or_default() }
    }
}

/// As messages, those of a partition that follow each other in one share.
pub(super) fn shares(given: &[Given]) -> Vec<proto::Share> {
    let of_one = |a: &Given, b: &Given| (a.partition, a.epoch) == (b.partition, b.epoch);
    let share = |given: &[Given]| {
        let (partition, epoch) = given.first().map_or((0, 0), |first| (first.partition, first.epoch));
        proto::Share { partition, epoch, records: given.iter().map(Given::as_message).collect() }
    };
    given.chunk_by(of_one).map(share).collect()
}

/// What an answer has for a member, until its caller has taken it: it is there for the next call where the caller did not wait.
#[derive(Clone)]
pub(crate) struct Untaken(Arc<Owed>);

struct Owed {
    ahead: Arc<Mutex<Ahead>>,
    given: std::sync::Mutex<Vec<Given>>,
}

impl Untaken {
    pub(super) fn new(ahead: Arc<Mutex<Ahead>>, given: Vec<Given>) -> Untaken {
        Untaken(Arc::new(Owed { ahead, given: given.into() }))
    }

    /// The caller has it.
    pub(crate) fn is_taken(&self) {
        self.0.given.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let given = std::mem::take(self.given.get_mut().unwrap_or_else(PoisonError::into_inner));
        let Ok(runtime) = Handle::try_current() else { return };
        if !given.is_empty() {
            let ahead = self.ahead.clone();
            runtime.spawn(async move {
                let mut ahead = ahead.lock().await;
                given.into_iter().rev().for_each(|given| ahead.records.push_front(given));
            });
        }
    }
}

/// How many pieces of a tail are the first so many bytes of it.
fn batches_of(tail: &[Bytes], bytes: u32) -> usize {
    let mut seen = 0;
    let is_own = |piece: &&Bytes| {
        let is_own = seen < bytes as usize;
        seen += piece.len();
        is_own
    };
    tail.iter().take_while(is_own).count()
}

/// Whether an offset is in one of some ranges, which are in their order.
fn is_among(ranges: &[(u64, u64)], offset: u64) -> bool {
    let behind = ranges.partition_point(|(from, _)| *from <= offset);
    ranges[..behind].last().is_some_and(|(_, to)| offset < *to)
}

/// What the records of shares take of a credit.
pub(super) fn size(shares: &[proto::Share]) -> (u64, u64) {
    let records = shares.iter().flat_map(|share| &share.records);
    records.fold((0, 0), |(count, bytes), stored| (count + 1, bytes + stored_bytes(stored)))
}

/// What a record takes of a limit of bytes, as [`bytes`] counts it.
pub(super) fn stored_bytes(stored: &proto::StoredRecord) -> u64 {
    let Some(record) = &stored.record else { return 0 };
    let headers = record.headers.iter().map(|own| own.name.len() + own.value.len());
    count(record.value.len() + record.key.as_ref().map_or(0, Bytes::len), headers)
}
