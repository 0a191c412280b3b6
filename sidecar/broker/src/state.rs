//! What a broker must not forget, as records in the journal's partition of state.
//!
//! ```text
//!   partition 0   … │ dnpipe a │ share b/billing 3 │ dnpipe b │ producers 17 │ …
//!                       a change is the whole of what it is about; the last one of a thing is true
//! ```
//!
//! A record of a batch is a [`Change`] as JSON: what later programs add, earlier ones ignore; a kind they don't know they
//! refuse to start with. Because a change says all of its thing, it can be written twice, and a snapshot is nothing but
//! every thing once more, after which the older records are let go.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sidestream_event::{
    native::DnpipeName,
    record::{BatchWriter, Header, RecordError, records, split},
};
use sidestream_log::{AppendError, Appending, Durability, Journal, PartitionId, StoredBatch};
use tokio::sync::Notify;

use crate::{
    error::{PushError, Room, write_error},
    group::{Intent, Written},
    homes::Stance,
    keys::Wrapped,
    limits,
    producers::Producer,
    spec::{DnpipeSpec, GroupSpec},
};

/// The whole of one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(crate) enum Change {
    /// The broker itself.
    #[serde(rename_all = "camelCase")]
    Broker { leader_epoch: u32, next_partition: u32 },
    /// A dnpipe: what it is to be, its partitions in the journal, and its last reset.
    #[serde(rename_all = "camelCase")]
    Dnpipe {
        spec: Box<DnpipeSpec>,
        partitions: Vec<u32>,
        epoch: u32,
        starts: Vec<u64>,
        /// What its records of this epoch are encrypted with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Wrapped>,
    },
    /// A dnpipe is no more, nor are its groups.
    Removed { name: DnpipeName },
    /// Where a dnpipe of a pool is: that it is here, or not. What is behind it is of that place.
    #[serde(rename_all = "camelCase")]
    Home { dnpipe: DnpipeName, term: u32, stance: Stance },
    /// A group that somebody joined, and where it began.
    #[serde(rename_all = "camelCase")]
    Group { dnpipe: DnpipeName, spec: GroupSpec, cursors: Vec<u64> },
    /// A group is no more.
    GroupRemoved { dnpipe: DnpipeName, group: String },
    /// A group's share of a partition.
    #[serde(rename_all = "camelCase")]
    Share {
        dnpipe: DnpipeName,
        group: String,
        partition: u32,
        share: Written,
        /// Records on their way to the dead letters.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        burying: Vec<Intent>,
        /// How far the dead letters were redriven.
        #[serde(default, skip_serializing_if = "is_zero")]
        redriven: u64,
    },
    /// Partitions of the journal with records that no dnpipe named when a start could not read all of this; whether what named
    /// them is gone for good.
    Nameless { partitions: Vec<u32>, forgotten: bool },
    /// All producers of a partition of the journal, as its first `upto` records left them.
    #[serde(rename_all = "camelCase")]
    Producers { partition: u32, upto: u64, append_time: i64, producers: Vec<(u64, Producer)> },
    /// One of them, where no record says it.
    #[serde(rename_all = "camelCase")]
    Producer { partition: u32, upto: u64, id: u64, producer: Producer },
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Writes changes. Whoever changes something holds its lock from the change until [`StateLog::append`] has returned: so the
/// order of the records is that of the changes.
pub(crate) struct StateLog {
    journal: Journal,
    written: Mutex<Sizes>,
    /// Told when the reserve is low, so that everything is written anew before what is left is used up, and when so much was
    /// pushed that what is known of producers is to be written down.
    due: Notify,
}

/// How much state there is, about.
#[derive(Debug, Default)]
struct Sizes {
    /// Bytes since the last snapshot, and of it.
    since: u64,
    snapshot: u64,
    /// A start had no room to write what it had to.
    owes: bool,
    /// Everything is being written anew.
    is_snapshot: bool,
    /// Bytes pushed since the last checkpoint, and those from which on the next one is due.
    pushed: u64,
    due: u64,
    /// What the journal had written at the last one, and when all was written anew.
    written: u64,
    written_at_snapshot: u64,
    /// The last one was not whole.
    is_partial: bool,
    /// Bytes that had been pushed when that was looked at last, and how often there were no more.
    seen: u64,
    rests: u32,
}

impl StateLog {
    pub(crate) fn new(journal: Journal) -> Self {
        let sizes = Sizes { due: limits::CHECKPOINT_BYTES, ..Sizes::default() };
        Self { journal, written: Mutex::new(sizes), due: Notify::new() }
    }

    /// Appends a change; it is durable when the future says so.
    pub(crate) fn append(&self, change: &Change, now: i64) -> Result<Appending, PushError> {
        let text = serde_json::to_vec(change)
            .map_err(|error| PushError::Failed { reason: error.to_string().into() })?;
        let mut writer = BatchWriter::new();
        let none: [(&str, &[u8]); 0] = [];
        writer.push(now, None, &none, &text)?;
        let batch = writer.finish(Header::default())?;
        let (header, body) = split(&batch)?;
        let header = Header { append_time: now, ..header };
        let (left, whole) = self.journal.reserve();
        let is_snapshot = {
            let mut sizes = self.sizes();
            if left < whole / 4 && !sizes.is_snapshot {
                // What is left is for writing everything anew, after which there is room again.
                return Err(PushError::Full { what: Room::Disk, limit: whole });
            }
            sizes.since += batch.len() as u64;
            sizes.is_snapshot
        };
        let append = || self.journal.append(PartitionId::STATE, header, &body, Durability::Device);
        // After a failure the journal asks to be told that its offsets are known: here nothing goes by them.
        let appending = append().or_else(|error| match error {
            AppendError::Failed { .. } if self.journal.resume(PartitionId::STATE).is_some() => append(),
            error => Err(error),
        });
        // One that fails is tried again in the next turn, not at once and for ever.
        if self.journal.is_reserve_low() && !is_snapshot {
            self.due.notify_one();
        }
        appending.map_err(write_error)
    }

    /// Resolves once something may be to be written that waits for no turn.
    pub(crate) async fn due(&self) {
        self.due.notified().await;
    }

    /// Appends by `append`, which takes the lock it needs, until it is durable. A refusal that passes is waited for, and what
    /// failed is appended anew a few times: a change may be there twice.
    pub(crate) async fn write(
        &self,
        append: impl Fn(&StateLog) -> Result<Appending, PushError>,
    ) -> Result<(), PushError> {
        let mut failures = 0;
        loop {
            let outcome = match self.when_room(&append).await {
                Ok(appending) => appending.await.map(drop).map_err(write_error),
                Err(error) => Err(error),
            };
            match outcome {
                Err(PushError::Failed { .. }) if failures < ATTEMPTS => failures += 1,
                outcome => return outcome,
            }
        }
    }

    /// What `append` comes to as soon as there is room for it.
    pub(crate) async fn when_room<T>(
        &self,
        append: impl Fn(&StateLog) -> Result<T, PushError>,
    ) -> Result<T, PushError> {
        loop {
            match append(self) {
                Err(PushError::Busy) => self.journal.room().await,
                outcome => return outcome,
            }
        }
    }

    /// Whether everything should be written anew: there is much that is of no use any more, or little room for more, or what
    /// there is stands far apart.
    pub(crate) fn is_snapshot_due(&self) -> bool {
        let least = if self.journal.is_reserve_low() { 1 } else { limits::STATE_BYTES };
        let written = self.journal.counts().written_bytes;
        let sizes = self.sizes();
        let is_spread = written - sizes.written_at_snapshot
            >= limits::STATE_SPREAD_BYTES.max(sizes.snapshot * limits::STATE_SPREAD_SHARE);
        // Less than the last one had would not be worth another.
        sizes.since >= sizes.snapshot.max(least) || (sizes.since > 0 && is_spread)
    }

    /// A snapshot begins.
    pub(crate) fn begin_snapshot(&self) {
        let written = self.journal.counts().written_bytes;
        let mut sizes = self.sizes();
        (sizes.since, sizes.is_snapshot, sizes.written_at_snapshot) = (0, true, written);
    }

    /// Bytes since the last snapshot began.
    pub(crate) fn since(&self) -> u64 {
        self.sizes().since
    }

    /// As many bytes of a snapshot as are on their way at once: where the reserve is all there is, a piece of it has them.
    pub(crate) fn portion(&self) -> u64 {
        match self.journal.reserve().1 {
            0 => PORTION_BYTES,
            whole => PORTION_BYTES.min(whole / PORTIONS),
        }
    }

    /// A snapshot has ended; where it is durable, what was before it is gone.
    pub(crate) fn end_snapshot(&self, is_durable: bool) {
        let mut sizes = self.sizes();
        sizes.is_snapshot = false;
        if is_durable {
            sizes.snapshot = std::mem::take(&mut sizes.since);
        }
    }

    /// So much more was pushed.
    pub(crate) fn pushed(&self, bytes: u64) {
        let mut sizes = self.sizes();
        let was_due = sizes.pushed >= sizes.due;
        sizes.pushed += bytes;
        if !was_due && sizes.pushed >= sizes.due {
            self.due.notify_one();
        }
    }

    /// Looks, once a turn, whether anything was pushed since the last one.
    pub(crate) fn look(&self) {
        let mut sizes = self.sizes();
        sizes.rests = if sizes.seen == sizes.pushed { sizes.rests.saturating_add(1) } else { 0 };
        if std::mem::take(&mut sizes.is_partial) {
            sizes.pushed += sizes.due;
        }
        sizes.seen = sizes.pushed;
    }

    /// Whether what is known of producers should be written down: after many bytes, pushed or written around what was, and
    /// when nothing is pushed any more.
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        let written = self.journal.counts().written_bytes;
        let sizes = self.sizes();
        let is_much = sizes.pushed.max(written - sizes.written) >= sizes.due;
        sizes.pushed > 0 && (is_much || sizes.rests >= limits::REST)
    }

    /// A checkpoint begins: what [`end_checkpoint`](StateLog::end_checkpoint) is to be told.
    pub(crate) fn begin_checkpoint(&self) -> u64 {
        let written = self.journal.counts().written_bytes;
        let mut sizes = self.sizes();
        (sizes.pushed, sizes.written) = (0, written);
        sizes.since
    }

    /// A checkpoint has ended; one that is not whole is due again in the next turn. The next one waits until as much was pushed as this one was
    /// worth.
    pub(crate) fn end_checkpoint(&self, begun: u64, is_whole: bool) {
        let mut sizes = self.sizes();
        sizes.due =
            limits::CHECKPOINT_BYTES.max(sizes.since.saturating_sub(begun) * limits::CHECKPOINT_SHARE);
        sizes.is_partial = !is_whole;
    }

    /// Whether a start had no room to write what it had to.
    pub(crate) fn owes(&self) -> bool {
        self.sizes().owes
    }

    /// Says so, or that it is written.
    pub(crate) fn set_owes(&self, owes: bool) {
        self.sizes().owes = owes;
    }

    fn sizes(&self) -> MutexGuard<'_, Sizes> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The changes of a batch, in order. An error says what a later program wrote, or that the batch is none.
pub(crate) fn read(batch: &StoredBatch) -> Result<Vec<Change>, String> {
    records(&batch.header, &batch.body)
        .map(|record| change(record.map_err(|error: RecordError| error.to_string())?.value))
        .collect()
}

pub(crate) fn change(text: &[u8]) -> Result<Change, String> {
    serde_json::from_slice(text).map_err(|error| {
        let start: String = String::from_utf8_lossy(text).chars().take(SHOWN_CHARS).collect();
        format!("{error} in {start}")
    })
}

/// A reserve has so many portions of a snapshot, and none has more bytes than that.
const PORTIONS: u64 = 16;
const PORTION_BYTES: u64 = 256 << 10;
/// How often a change is appended whose disk fails.
const ATTEMPTS: u32 = 3;
/// As much of a record that makes no sense as an error repeats.
const SHOWN_CHARS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::tests::by;

    fn name() -> DnpipeName {
        "shop/orders".parse().unwrap()
    }

    /// Written by the first program that wrote any. They must be read for ever.
    #[test]
    fn changes_of_version_1_look_like_this() {
        let spec = Box::new(DnpipeSpec::new(name()));
        let share = Written { cursor: 5, done: vec![(7, 9)], delivered: vec![(5, 6, 2)] };
        let burying = vec![Intent { offset: 6, sequence: 1, target: 12 }];
        let group = || "billing".to_owned();
        let changes = [
            (
                Change::Broker { leader_epoch: 3, next_partition: 9 },
                r#"{"kind":"broker","leaderEpoch":3,"nextPartition":9}"#,
            ),
            (
                Change::Dnpipe { spec, partitions: vec![4], epoch: 2, starts: vec![70], key: None },
                r#"{"kind":"dnpipe","spec":{"name":["shop","orders"],"partitions":1,"durability":"Device","retention":{"time":null,"bytes":null},"quotaBytes":null,"dedupeWindow":null,"groups":[],"access":[]},"partitions":[4],"epoch":2,"starts":[70]}"#,
            ),
            (
                Change::Dnpipe {
                    spec: Box::new(DnpipeSpec { encryption: Some(by()), ..DnpipeSpec::new(name()) }),
                    partitions: vec![4],
                    epoch: 2,
                    starts: vec![70],
                    key: Some(Wrapped { by: by(), key: "64ff".into() }),
                },
                r#"{"kind":"dnpipe","spec":{"name":["shop","orders"],"partitions":1,"durability":"Device","retention":{"time":null,"bytes":null},"quotaBytes":null,"dedupeWindow":null,"encryption":{"name":"k","key":"key"},"groups":[],"access":[]},"partitions":[4],"epoch":2,"starts":[70],"key":{"by":{"name":"k","key":"key"},"key":"64ff"}}"#,
            ),
            (Change::Removed { name: name() }, r#"{"kind":"removed","name":["shop","orders"]}"#),
            (
                Change::Home { dnpipe: name(), term: 4, stance: Stance::Away { to: 2, token: 9 } },
                r#"{"kind":"home","dnpipe":["shop","orders"],"term":4,"stance":{"away":{"to":2,"token":9}}}"#,
            ),
            (
                Change::Home { dnpipe: name(), term: 4, stance: Stance::Ready { from: 0, token: 9 } },
                r#"{"kind":"home","dnpipe":["shop","orders"],"term":4,"stance":{"ready":{"from":0,"token":9}}}"#,
            ),
            (
                Change::Home { dnpipe: name(), term: 4, stance: Stance::Here },
                r#"{"kind":"home","dnpipe":["shop","orders"],"term":4,"stance":"here"}"#,
            ),
            (
                Change::Group { dnpipe: name(), spec: GroupSpec::new("billing"), cursors: vec![70] },
                r#"{"kind":"group","dnpipe":["shop","orders"],"spec":{"name":"billing","maxDeliveries":null,"deadLetter":null,"backoff":{"secs":1,"nanos":0}},"cursors":[70]}"#,
            ),
            (
                Change::GroupRemoved { dnpipe: name(), group: group() },
                r#"{"kind":"groupRemoved","dnpipe":["shop","orders"],"group":"billing"}"#,
            ),
            (
                Change::Share { dnpipe: name(), group: group(), partition: 0, share, burying, redriven: 3 },
                r#"{"kind":"share","dnpipe":["shop","orders"],"group":"billing","partition":0,"share":{"cursor":5,"done":[[7,9]],"delivered":[[5,6,2]]},"burying":[{"offset":6,"sequence":1,"target":12}],"redriven":3}"#,
            ),
            (
                Change::Share {
                    dnpipe: name(),
                    group: group(),
                    partition: 0,
                    share: Written { cursor: 9, ..Written::default() },
                    burying: vec![],
                    redriven: 0,
                },
                r#"{"kind":"share","dnpipe":["shop","orders"],"group":"billing","partition":0,"share":{"cursor":9}}"#,
            ),
            (
                Change::Nameless { partitions: vec![4, 5], forgotten: true },
                r#"{"kind":"nameless","partitions":[4,5],"forgotten":true}"#,
            ),
            (
                Change::Producer {
                    partition: 4,
                    upto: 90,
                    id: 7,
                    producer: Producer { epoch: 1, next: 5, seen: 2, ..Producer::default() },
                },
                r#"{"kind":"producer","partition":4,"upto":90,"id":7,"producer":{"epoch":1,"next":5,"position":0,"seen":2,"runs":[]}}"#,
            ),
        ];
        for (value, text) in changes {
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(change(text.as_bytes()), Ok(value));
        }
    }

    #[test]
    fn what_a_later_program_adds_is_ignored_and_what_it_invents_is_refused() {
        let added = r#"{"kind":"removed","name":["shop","orders"],"why":"because"}"#;
        assert_eq!(change(added.as_bytes()), Ok(Change::Removed { name: name() }));
        let error = change(br#"{"kind":"teleported","name":["shop","orders"]}"#).unwrap_err();
        assert!(error.contains("teleported"), "{error}");
        assert!(change(b"\xff").is_err());
    }
}
