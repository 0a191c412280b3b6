//! Batches as they are stored, neither decrypted nor decompressed: what a back-up is made of.

use bytes::Bytes;
use sidestream_event::{
    native::{Answer, DnpipeName, From, Request},
    record::{BATCH_BYTES_MAX, Flags, HEADER_BYTES, Header, RecordError, split},
};

use crate::{Client, ClientError, Numbers, Receipt, client::unexpected, reader::batches};

/// A batch as a server gives it: whole, its checksums right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    header: Header,
    bytes: Bytes,
}

/// Batches of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredPage {
    /// In their order; the first may begin before the place that was asked for.
    pub batches: Vec<StoredBatch>,
    /// The offset to pull from next.
    pub next: u64,
    /// The epoch.
    pub epoch: u32,
}

impl StoredBatch {
    /// As many bytes say how long the batch is that begins with them.
    pub const LENGTH_BYTES: usize = 4;

    /// How long a batch is that begins so.
    ///
    /// # Errors
    /// A length that none can have.
    pub fn length(begin: [u8; Self::LENGTH_BYTES]) -> Result<usize, RecordError> {
        let found = u32::from_le_bytes(begin);
        match (HEADER_BYTES..=BATCH_BYTES_MAX).contains(&(found as usize)) {
            true => Ok(found as usize),
            false => Err(RecordError::Length { found }),
        }
    }

    /// A batch from its bytes.
    ///
    /// # Errors
    /// Bytes that are none, or not as they were written.
    pub fn read(bytes: Bytes) -> Result<StoredBatch, RecordError> {
        let (header, _) = split(&bytes)?;
        Ok(StoredBatch { header, bytes })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The offset of its first record.
    pub fn first(&self) -> u64 {
        self.header.base_offset
    }

    /// Whether its pusher encrypted it: then it is bound to its pusher's numbers, and cannot be pushed by another.
    pub fn is_encrypted(&self) -> bool {
        self.header.flags.has(Flags::ENCRYPTED)
    }

    /// How many records it has.
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// The same, pushed by somebody who numbers it so.
    fn numbered(&self, numbers: Numbers) -> Bytes {
        let header = Header {
            producer_id: numbers.producer,
            producer_epoch: numbers.epoch,
            first_sequence: numbers.first,
            skipped: 0,
            position: 0,
            ..self.header
        };
        let mut head = [0; HEADER_BYTES];
        header.write(&mut head);
        [&head[..], &self.bytes[HEADER_BYTES..]].concat().into()
    }
}

impl Client {
    /// Pulls batches of a partition from an offset on, as many as one answer holds. Where there is nothing there are none.
    ///
    /// # Errors
    /// An offset that is not there, damage in what is stored, and those of the connection.
    pub async fn pull_stored(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        from: u64,
    ) -> Result<StoredPage, ClientError> {
        let request = Request::Pull {
            dnpipe: dnpipe.clone(),
            partition,
            from: From::Offset(from),
            max_bytes: u32::MAX,
            max_records: u32::MAX,
            wait_millis: 0,
        };
        let (answer, tail) = self.send(request, Bytes::new()).await?.answered().await?;
        let Answer::Pulled { next, epoch, .. } = answer else { return Err(unexpected(&answer)) };
        let found = batches(tail).map(|batch| StoredBatch::read(batch?.1));
        Ok(StoredPage { batches: found.collect::<Result<_, _>>()?, next, epoch })
    }

    /// Pushes a batch as it is, but for the numbers, to a partition: once for these numbers. Not one that is encrypted, which nobody
    /// could decrypt then.
    ///
    /// # Errors
    /// Why it is refused, and those of the connection: then it may be there or not, and pushing it again is safe.
    pub async fn push_stored(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        batch: &StoredBatch,
        numbers: Numbers,
    ) -> Result<Receipt, ClientError> {
        self.push_batch(dnpipe, partition, batch.numbered(numbers)).await
    }
}
