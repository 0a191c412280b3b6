//! A consumer of the bench: reads what there is, or what this run pushes, and times it where it is stamped.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sidestream_client::{Client, ClientError, DnpipeView, From, Pulled, Reader, ReaderConfig};
use sidestream_host::Moment;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Kind,
    load::Load,
    tally::{Done, Tally},
};

/// How long to read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Until {
    /// There may be more.
    More,
    /// Up to these offsets, by dnpipe and partition.
    Ends(Arc<[Vec<u64>]>),
    /// No longer.
    Now,
}

/// Spawns what one consumer does: it reads every dnpipe.
pub(super) fn consume(
    tasks: &mut JoinSet<Result<(), ClientError>>,
    client: &Client,
    load: &Arc<Load>,
    described: &[DnpipeView],
    tally: &Arc<Tally>,
    until: &watch::Receiver<Until>,
) {
    for (dnpipe, view) in described.iter().enumerate() {
        let partitions: Vec<u32> = (0..).take(view.partitions.len()).collect();
        let whole = || vec![(From::First(0), partitions.clone())];
        // Where a partition ends differs from that of the next, so each has a reader.
        let ends = || {
            let end = |own: &u32| (From::Offset(view.partitions[*own as usize].end), vec![*own]);
            partitions.iter().map(end).collect()
        };
        let parts: Vec<_> = if load.kind == Kind::EndToEnd { ends() } else { whole() };
        for (from, partitions) in parts {
            let bounds = |own: &u32| {
                let view = &view.partitions[*own as usize];
                (*own, if load.kind == Kind::EndToEnd { view.end } else { view.first })
            };
            let consumer = Consumer {
                load: load.clone(),
                tally: tally.clone(),
                until: until.clone(),
                dnpipe,
                places: partitions.iter().map(bounds).collect(),
            };
            tasks.spawn(consumer.pull(client.clone(), view.name.to_string(), from, partitions));
        }
    }
}

struct Consumer {
    load: Arc<Load>,
    tally: Arc<Tally>,
    until: watch::Receiver<Until>,
    dnpipe: usize,
    /// By partition, the offset of the next record.
    places: BTreeMap<u32, u64>,
}

impl Consumer {
    async fn pull(
        mut self,
        client: Client,
        name: String,
        from: From,
        partitions: Vec<u32>,
    ) -> Result<(), ClientError> {
        let follow = self.load.kind.pushes();
        let config = ReaderConfig { partitions: Some(partitions), follow, ..ReaderConfig::default() };
        let mut reader = client.reader(&name, from, config).await?;
        let mut left = if follow { u64::MAX } else { self.load.records.unwrap_or(u64::MAX) };
        while left > 0 {
            let Some(record) = self.next(&mut reader).await? else { return Ok(()) };
            self.take(&record);
            left -= 1;
        }
        Ok(())
    }

    /// The next record, unless there is none to wait for.
    async fn next(&mut self, reader: &mut Reader) -> Result<Option<Pulled>, ClientError> {
        loop {
            let until = self.until.borrow_and_update().clone();
            if until == Until::Now || self.is_at(&until) {
                return Ok(None);
            }
            if let Some(record) = reader.ready() {
                return Ok(Some(record));
            }
            tokio::select! {
                // What retention took away never comes.
                read = timeout(STILL_FOR, reader.next()) => match read {
                    Ok(read) => return read,
                    Err(_) if until != Until::More => return Ok(None),
                    Err(_) => {}
                },
                changed = self.until.changed() => if changed.is_err() {
                    // Nobody is left to say how far; that is not before all is over.
                    sleep(STILL_FOR).await;
                },
            }
        }
    }

    fn is_at(&self, until: &Until) -> bool {
        let Until::Ends(ends) = until else { return false };
        let ends = &ends[self.dnpipe];
        self.places.iter().all(|(partition, place)| *place >= ends[*partition as usize])
    }

    fn take(&mut self, record: &Pulled) {
        self.places.insert(record.partition, record.offset + 1);
        let due = match self.load.kind {
            Kind::EndToEnd => match self.load.due(&record.value) {
                Some(due) => Some(due),
                // Somebody else's.
                None => return,
            },
            _ => None,
        };
        let (at, bytes) = (self.load.clock.now(), record.value.len() as u64);
        self.tally.add(&Done { at, records: 1, bytes, due, sent: None });
    }
}

impl Load {
    /// When a record of this run was due, by its stamp.
    fn due(&self, value: &[u8]) -> Option<Moment> {
        let (run, rest) = value.split_first_chunk::<8>()?;
        let due = rest.first_chunk::<8>()?;
        (u64::from_le_bytes(*run) == self.run).then(|| Moment::from_nanos(u64::from_le_bytes(*due)))
    }
}

/// So long nothing has come that should have.
const STILL_FOR: Duration = Duration::from_secs(60);
