//! What messages ask, in the words of every door.

use sidestream_event::native::{DnpipeName, From, Member, Refusal, Request};

use super::proto;
use crate::limits::{PULL_BYTES_MAX, RECORDS_DEFAULT, RECORDS_MAX, WAIT_MAX};
use crate::pulled::Most;

pub(super) fn name(text: &str) -> Result<DnpipeName, Refusal> {
    text.parse().map_err(|bad: sidestream_event::native::BadName| Refusal::Bad { reason: bad.to_string() })
}

pub(super) fn place(place: Option<proto::Place>) -> From {
    match place.and_then(|place| place.at) {
        None => From::First(0),
        Some(proto::place::At::Offset(offset)) => From::Offset(offset),
        Some(proto::place::At::Time(time)) => From::Time(time),
        Some(proto::place::At::First(count)) => From::First(count),
        Some(proto::place::At::Last(count)) => From::Last(count),
    }
}

pub(super) fn member(member: Option<proto::Member>) -> Result<Member, Refusal> {
    let missing =
        || Refusal::Bad { reason: "there is no member; say the dnpipe, the group and a name".into() };
    let proto::Member { dnpipe, group, name: own } = member.ok_or_else(missing)?;
    Ok(Member { dnpipe: name(&dnpipe)?, group, name: own })
}

pub(super) fn join(member: Member, delivery: i32) -> Result<Request, Refusal> {
    match proto::Delivery::try_from(delivery) {
        Ok(proto::Delivery::Acknowledged) => Ok(Request::Join { member, auto_ack: false }),
        Ok(proto::Delivery::Automatic) => Ok(Request::Join { member, auto_ack: true }),
        Ok(proto::Delivery::Held) => Ok(Request::JoinToHold { member }),
        Err(_) => Err(Refusal::Bad {
            reason: format!("delivery {delivery} is not known here; use one that the server's release has"),
        }),
    }
}

pub(super) fn ranges(ranges: Vec<proto::Range>) -> Vec<(u64, u64)> {
    ranges.into_iter().map(|range| (range.from, range.to)).collect()
}

/// How much of an answer is asked for.
pub(super) fn most(records: Option<u32>, bytes: Option<u32>) -> Most {
    let records = records.map_or(RECORDS_DEFAULT, u64::from).min(RECORDS_MAX);
    Most { records, bytes: bytes.map_or(u64::MAX, u64::from).min(PULL_BYTES_MAX as u64) }
}

/// A pull of so much. Whole batches are pulled, and cut later.
pub(super) fn pull(dnpipe: DnpipeName, partition: u32, from: From, most: Most, wait_millis: u32) -> Request {
    let (max_bytes, max_records) = (most.bytes as u32, most.records as u32);
    // Who wants none asks for the epoch.
    let wait_millis = if max_records > 0 { wait_millis } else { 0 };
    Request::Pull { dnpipe, partition, from, max_bytes, max_records, wait_millis }
}

/// As long as anybody waits.
pub(super) fn long() -> u32 {
    WAIT_MAX.as_millis() as u32
}
