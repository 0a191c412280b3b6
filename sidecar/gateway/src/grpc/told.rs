//! What is answered, as messages.

use bytes::Bytes;
use sidestream_event::{
    native::{DamageView, DnpipeView, GroupView, MemberView, PartitionView, Verified},
    record::Record,
};

use super::proto;

pub(super) fn dnpipe(view: DnpipeView) -> proto::Dnpipe {
    proto::Dnpipe {
        name: view.name.to_string(),
        epoch: view.epoch,
        durability: view.durability,
        used_bytes: view.used_bytes,
        quota_bytes: view.quota_bytes,
        retention_millis: view.retention_millis,
        retention_bytes: view.retention_bytes,
        partitions: view.partitions.into_iter().map(partition).collect(),
    }
}

fn partition(view: PartitionView) -> proto::Partition {
    proto::Partition { first: view.first, end: view.end, owner: view.owner }
}

pub(super) fn verified(found: Verified) -> proto::VerifyResponse {
    let Verified { batches, bytes, damage } = found;
    proto::VerifyResponse { batches, bytes, damage: damage.into_iter().map(damaged).collect() }
}

fn damaged(view: DamageView) -> proto::verify_response::Damage {
    proto::verify_response::Damage {
        dnpipe: view.dnpipe.map(|name| name.to_string()),
        partition: view.partition,
        offsets: view.offsets.map(|(from, to)| proto::Range { from, to }),
        reason: view.reason,
    }
}

/// A record that is no group's. Its bytes are those of the body.
pub(super) fn record(record: &Record<'_>, body: &Bytes) -> proto::StoredRecord {
    let header =
        |(name, value): (&str, &[u8])| proto::Header { name: name.to_owned(), value: body.slice_ref(value) };
    let own = proto::Record {
        value: body.slice_ref(record.value),
        key: record.key.map(|key| body.slice_ref(key)),
        time: Some(record.time),
        headers: record.headers.iter().map(header).collect(),
    };
    proto::StoredRecord { offset: record.offset, record: Some(own), delivery: 0 }
}

pub(super) fn group(view: GroupView) -> proto::groups_response::Group {
    proto::groups_response::Group {
        name: view.name,
        members: view.members.into_iter().map(member).collect(),
        cursors: view.cursors,
        lag_records: view.lag_records,
        lag_seconds: view.lag_seconds,
        dead_letter: view.dead_letter.map(|name| name.to_string()),
    }
}

fn member(view: MemberView) -> proto::groups_response::GroupMember {
    proto::groups_response::GroupMember { name: view.name, partitions: view.partitions }
}
