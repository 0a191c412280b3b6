//! One batch pushed, one page pulled: what producers and readers are made of, for who keeps his own numbers and places.
//!
//! Nothing is tried again here: after an error of the connection, whether a push was done is for its caller to find out, by
//! pushing the same numbers again.

use std::{pin::Pin, time::Duration};

use sidestream_event::{
    Bytes,
    native::{Answer, Conditions, DnpipeName, From, Request},
    record::{BatchWriter, Header},
};

use crate::{
    Client, ClientError, Pulled, Receipt, Record, client::unexpected, producer::stored, reader::batches,
    record,
};

/// Records to be pushed together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In their order.
    pub records: Vec<Record>,
    /// Whose they are: a batch of the same numbers is stored once. None by default.
    pub numbers: Option<Numbers>,
    /// Only under these conditions; none by default.
    pub only_if: Conditions,
}

/// How a pusher numbers its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Who it is: any number but 0 that nobody else has.
    pub producer: u64,
    /// Its incarnation: a later one ends those before it.
    pub epoch: u32,
    /// The number of the first record; the others follow it. It begins with 0 in each partition and incarnation.
    pub first: u64,
}

/// Records of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In their order.
    pub records: Vec<Pulled>,
    /// The offset to pull from next.
    pub next: u64,
    /// The epoch.
    pub epoch: u32,
}

/// The receipts that are to come, one for each record.
pub type Receipts = Pin<Box<dyn Future<Output = Result<Vec<Receipt>, ClientError>> + Send>>;

impl Client {
    /// Pushes a batch to a partition. It is on its way when this returns, behind what this client sent before.
    ///
    /// # Errors
    /// A batch that is empty or too large, and those of the connection.
    pub async fn push_together(
        &self,
        dnpipe: &str,
        partition: u32,
        batch: &Batch,
    ) -> Result<Receipts, ClientError> {
        let (dnpipe, mut writer) = (dnpipe.parse::<DnpipeName>()?, BatchWriter::new());
        for record in &batch.records {
            let (time, headers) = (record.time.unwrap_or_else(|| self.now()), &record.headers);
            writer.push(time, record.key.as_deref(), headers, &record.value)?;
        }
        let header = batch.numbers.map_or(Header::default(), |numbers| Header {
            producer_id: numbers.producer,
            producer_epoch: numbers.epoch,
            first_sequence: numbers.first,
            ..Header::default()
        });
        let request = Request::Push { dnpipe, partition, only_if: batch.only_if };
        let (count, answering) = (writer.len(), self.send(request, writer.finish(header)?).await?);
        Ok(Box::pin(async move { stored(partition, answering.answered().await?)?.receipts(count) }))
    }

    /// Pulls records of a partition from a place on, `max_records` at most; as many as there are, or as one answer holds. Where
    /// there is nothing it waits, for `wait` at most.
    ///
    /// # Errors
    /// A place that is not there, damage in what is stored, and those of the connection.
    pub async fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        max_records: u32,
        wait: Duration,
    ) -> Result<Page, ClientError> {
        let request = Request::Pull {
            dnpipe: dnpipe.parse()?,
            partition,
            from,
            max_bytes: u32::MAX,
            max_records,
            wait_millis: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let (answer, tail) = self.send(request, Bytes::new()).await?.answered().await?;
        let Answer::Pulled { from, next, epoch, .. } = answer else { return Err(unexpected(&answer)) };
        let mut records = Vec::new();
        for batch in batches(tail) {
            let is_wanted = |offset| (from..next).contains(&offset);
            records.extend(record::of_batch(&batch?.1, None, partition, is_wanted)?);
        }
        Ok(Page { records, next, epoch })
    }
}
