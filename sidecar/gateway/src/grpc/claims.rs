//! What a member was handed out and did not get yet: a claim cannot be read again, and may be more than fits into a message.

use std::{
    collections::{HashMap, VecDeque},
    ops::ControlFlow,
};

use bytes::Bytes;
use sidestream_event::native::{Answer, Claimed, DnpipeName, Member, Refusal, Request};

use super::{proto, told};
use crate::{
    limits::CLAIMED_BYTES_MAX,
    pulled::{Most, bytes, each},
    session::{Done, Session},
};

/// Records of a member, in the order in which they are to be handled.
#[derive(Default)]
pub(super) struct Ahead {
    records: VecDeque<Given>,
    partitions: Vec<u32>,
}

struct Given {
    partition: u32,
    epoch: u32,
    bytes: u64,
    record: proto::StoredRecord,
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
        }
        !self.records.is_empty()
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
            let mut found: HashMap<u64, (u64, proto::StoredRecord)> = HashMap::new();
            let _to_the_end = each(own, |record, body| {
                let is_meant = |(from, to, _): &(u64, u64, u32)| (*from..*to).contains(&record.offset);
                if share.ranges.iter().any(is_meant) {
                    found.insert(record.offset, (bytes(record), told::record(record, body)));
                }
                ControlFlow::Continue(())
            })?;
            for (from, to, delivery) in share.ranges {
                let given =
                    (from..to).filter_map(|offset| found.remove(&offset)).map(|(bytes, record)| Given {
                        partition: share.partition,
                        epoch: share.epoch,
                        bytes,
                        record: proto::StoredRecord { delivery, ..record },
                    });
                self.records.extend(given);
            }
        }
        Ok(())
    }

    /// The next of them.
    pub(super) fn take(&mut self, most: Most) -> Vec<proto::Share> {
        let (mut shares, mut left, mut count): (Vec<proto::Share>, _, _) = (Vec::new(), most.bytes, 0);
        while let Some(given) = self.records.front() {
            if count >= most.records || (given.bytes > left && count > 0) {
                break;
            }
            (left, count) = (left.saturating_sub(given.bytes), count + 1);
            let Some(Given { partition, epoch, record, .. }) = self.records.pop_front() else { break };
            match shares.last_mut().filter(|share| (share.partition, share.epoch) == (partition, epoch)) {
                Some(share) => share.records.push(record),
                None => shares.push(proto::Share { partition, epoch, records: vec![record] }),
            }
        }
        shares
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The partitions that were the member's own when it last asked.
    pub(super) fn partitions(&self) -> &[u32] {
        &self.partitions
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

/// What the records of shares take of a credit.
pub(super) fn size(shares: &[proto::Share]) -> (u64, u64) {
    let records = shares.iter().flat_map(|share| &share.records);
    records.fold((0, 0), |(count, bytes), stored| (count + 1, bytes + stored_bytes(stored)))
}

/// What a record takes of a limit of bytes.
pub(super) fn stored_bytes(stored: &proto::StoredRecord) -> u64 {
    let Some(record) = &stored.record else { return 0 };
    let headers: usize = record.headers.iter().map(|own| own.name.len() + own.value.len()).sum();
    (record.value.len() + record.key.as_ref().map_or(0, Bytes::len) + headers) as u64
}
