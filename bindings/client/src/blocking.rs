//! The same without `async`: calls that return when it is done.
//!
//! ```no_run
//! use sidestream_client::{Record, blocking};
//!
//! # fn example() -> Result<(), sidestream_client::ClientError> {
//! let client = blocking::Client::local("data/sidestream.sock")?;
//! let offset = client.push("orders", Record::new("hello"))?.offset;
//! println!("stored at {offset}");
//! # Ok(())
//! # }
//! ```

use std::{ops::Range, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::{
    Address, Batch, ClientConfig, ClientError, Delivery, DnpipeName, DnpipeView, From, GroupConfig,
    GroupView, Incarnation, Numbers, Page, ProducerConfig, Pulled, ReaderConfig, Receipt, Record,
    StoredBatch, StoredPage, Verified,
};

/// A client of one server, with a thread of its own for the connection. Not to be used inside an async runtime.
#[derive(Clone)]
pub struct Client {
    client: crate::Client,
    runtime: Arc<Runtime>,
}

/// Whoever pushes to one dnpipe.
pub struct Producer {
    producer: crate::Producer,
    runtime: Arc<Runtime>,
}

/// The receipt that is to come.
#[must_use = "a push is not done before its promise says so"]
pub struct Promise {
    promise: crate::Promise,
    runtime: Arc<Runtime>,
}

/// Whoever pulls from one dnpipe: an iterator of records.
pub struct Reader {
    reader: crate::Reader,
    runtime: Arc<Runtime>,
}

/// A member of a group.
pub struct GroupReader {
    reader: crate::GroupReader,
    runtime: Arc<Runtime>,
}

/// Acknowledges for a member of a group, also while that one waits for records in another thread. Clones are the same.
#[derive(Clone)]
pub struct Acknowledger {
    acknowledger: crate::Acknowledger,
    runtime: Arc<Runtime>,
}

impl Client {
    /// A client of the server at `address`.
    ///
    /// # Errors
    /// [`ClientError::Lost`] where the machine gives no thread.
    pub fn new(address: Address, config: ClientConfig) -> Result<Client, ClientError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dnpipe-client")
            .enable_all()
            .build()
            .map_err(|error| ClientError::Lost(error.to_string()))?;
        Ok(Client { client: crate::Client::new(address, config), runtime: Arc::new(runtime) })
    }

    /// A client of the server that listens at the socket `path` of this machine.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn local(path: impl Into<PathBuf>) -> Result<Client, ClientError> {
        Client::new(Address::Local(path.into()), ClientConfig::default())
    }

    /// Where its server is.
    pub fn address(&self) -> &Address {
        self.client.address()
    }

    /// What time it is; see [`crate::Client::now`].
    pub fn now(&self) -> i64 {
        self.client.now()
    }

    /// Pushes one record, and returns when it is as durable as the dnpipe says.
    ///
    /// # Errors
    /// As [`crate::Client::producer`], and why the record is refused.
    pub fn push(&self, dnpipe: &str, record: Record) -> Result<Receipt, ClientError> {
        self.runtime.block_on(async {
            let producer = self.client.producer(dnpipe, ProducerConfig::default()).await?;
            producer.push(record).await?.await
        })
    }

    /// Whoever pushes many.
    ///
    /// # Errors
    /// As [`crate::Client::producer`].
    pub fn producer(&self, dnpipe: &str, config: ProducerConfig) -> Result<Producer, ClientError> {
        let producer = self.runtime.block_on(self.client.producer(dnpipe, config))?;
        Ok(Producer { producer, runtime: self.runtime.clone() })
    }

    /// Pushes a batch to a partition, and returns when it is as durable as the dnpipe says: a receipt for each record.
    ///
    /// # Errors
    /// As [`crate::Client::push_together`], and why the batch is refused.
    pub fn push_together(
        &self,
        dnpipe: &str,
        partition: u32,
        batch: &Batch,
    ) -> Result<Vec<Receipt>, ClientError> {
        self.runtime.block_on(async { self.client.push_together(dnpipe, partition, batch).await?.await })
    }

    /// Pushes a batch that the caller has made and numbered; see [`crate::Client::push_batch`].
    ///
    /// # Errors
    /// As there.
    pub fn push_batch(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        batch: Bytes,
    ) -> Result<Receipt, ClientError> {
        self.runtime.block_on(self.client.push_batch(dnpipe, partition, batch))
    }

    /// Pushes a batch as it was stored; see [`crate::Client::push_stored`].
    ///
    /// # Errors
    /// As there.
    pub fn push_stored(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        batch: &StoredBatch,
        numbers: Numbers,
    ) -> Result<Receipt, ClientError> {
        self.runtime.block_on(self.client.push_stored(dnpipe, partition, batch, numbers))
    }

    /// Takes over a producer of a partition; see [`crate::Client::open_producer`].
    ///
    /// # Errors
    /// As there.
    pub fn open_producer(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        producer: u64,
    ) -> Result<Incarnation, ClientError> {
        self.runtime.block_on(self.client.open_producer(dnpipe, partition, producer))
    }

    /// One page of a partition; see [`crate::Client::pull`].
    ///
    /// # Errors
    /// As there.
    pub fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        max_records: u32,
        wait: Duration,
    ) -> Result<Page, ClientError> {
        self.runtime.block_on(self.client.pull(dnpipe, partition, from, max_records, wait))
    }

    /// Batches of a partition as they are stored; see [`crate::Client::pull_stored`].
    ///
    /// # Errors
    /// As there.
    pub fn pull_stored(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        from: u64,
    ) -> Result<StoredPage, ClientError> {
        self.runtime.block_on(self.client.pull_stored(dnpipe, partition, from))
    }

    /// Whoever pulls, from a place on.
    ///
    /// # Errors
    /// As [`crate::Client::reader`].
    pub fn reader(&self, dnpipe: &str, from: From, config: ReaderConfig) -> Result<Reader, ClientError> {
        let reader = self.runtime.block_on(self.client.reader(dnpipe, from, config))?;
        Ok(Reader { reader, runtime: self.runtime.clone() })
    }

    /// A member of a group.
    ///
    /// # Errors
    /// As [`crate::Client::join`].
    pub fn join(&self, dnpipe: &str, group: &str, config: GroupConfig) -> Result<GroupReader, ClientError> {
        let reader = self.runtime.block_on(self.client.join(dnpipe, group, config))?;
        Ok(GroupReader { reader, runtime: self.runtime.clone() })
    }

    /// Removes all records; see [`crate::Client::reset`].
    ///
    /// # Errors
    /// As there.
    pub fn reset(&self, dnpipe: &str) -> Result<u32, ClientError> {
        self.runtime.block_on(self.client.reset(dnpipe))
    }

    /// One dnpipe as it is.
    ///
    /// # Errors
    /// As [`crate::Client::describe`].
    pub fn describe(&self, dnpipe: &str) -> Result<DnpipeView, ClientError> {
        self.runtime.block_on(self.client.describe(dnpipe))
    }

    /// The dnpipes that this client may use.
    ///
    /// # Errors
    /// As [`crate::Client::list`].
    pub fn list(&self) -> Result<Vec<DnpipeView>, ClientError> {
        self.runtime.block_on(self.client.list())
    }

    /// The groups of a dnpipe.
    ///
    /// # Errors
    /// As [`crate::Client::groups`].
    pub fn groups(&self, dnpipe: &str) -> Result<Vec<GroupView>, ClientError> {
        self.runtime.block_on(self.client.groups(dnpipe))
    }

    /// Moves the cursors of a group, of one partition or of all.
    ///
    /// # Errors
    /// As [`crate::Client::seek`].
    pub fn seek(
        &self,
        dnpipe: &str,
        group: &str,
        partition: Option<u32>,
        to: From,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(self.client.seek(dnpipe, group, partition, to))
    }

    /// Has the dead letters of a group delivered to it once more; see [`crate::Client::redrive`].
    ///
    /// # Errors
    /// As there.
    pub fn redrive(&self, dnpipe: &str, group: &str) -> Result<(u64, u64), ClientError> {
        self.runtime.block_on(self.client.redrive(dnpipe, group))
    }

    /// Has every checksum compared, of one dnpipe or of all.
    ///
    /// # Errors
    /// As [`crate::Client::verify`].
    pub fn verify(&self, dnpipe: Option<&str>) -> Result<Verified, ClientError> {
        self.runtime.block_on(self.client.verify(dnpipe))
    }
}

impl Producer {
    /// Pushes a record; waits only while there is no room.
    ///
    /// # Errors
    /// As [`crate::Producer::push`].
    pub fn push(&self, record: Record) -> Result<Promise, ClientError> {
        let promise = self.runtime.block_on(self.producer.push(record))?;
        Ok(Promise { promise, runtime: self.runtime.clone() })
    }

    /// Pushes a record to a partition.
    ///
    /// # Errors
    /// As [`crate::Producer::push_to`].
    pub fn push_to(&self, partition: u32, record: Record) -> Result<Promise, ClientError> {
        let promise = self.runtime.block_on(self.producer.push_to(partition, record))?;
        Ok(Promise { promise, runtime: self.runtime.clone() })
    }

    /// Waits until everything that was pushed before is answered.
    ///
    /// # Errors
    /// As [`crate::Producer::flush`].
    pub fn flush(&self) -> Result<(), ClientError> {
        self.runtime.block_on(self.producer.flush())
    }

    /// How many batches were acknowledged so far.
    pub fn batches(&self) -> u64 {
        self.producer.batches()
    }
}

impl Promise {
    /// Waits for the receipt.
    ///
    /// # Errors
    /// Why the record is refused.
    pub fn wait(self) -> Result<Receipt, ClientError> {
        self.runtime.block_on(self.promise)
    }
}

impl Reader {
    /// A record that is there already, if one is; see [`crate::Reader::ready`].
    pub fn ready(&mut self) -> Option<Pulled> {
        self.reader.ready()
    }
}

impl Iterator for Reader {
    type Item = Result<Pulled, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.reader.next()).transpose()
    }
}

impl GroupReader {
    /// Whoever acknowledges for it.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { acknowledger: self.reader.acknowledger(), runtime: self.runtime.clone() }
    }

    /// Its name in the group.
    pub fn member(&self) -> &str {
        self.reader.member()
    }

    /// The partitions that are its own, as it heard last.
    pub fn partitions(&self) -> &[u32] {
        self.reader.partitions()
    }

    /// From now on no more than `max_records` are handed out at once; see [`crate::GroupReader::claim_at_most`].
    pub fn claim_at_most(&mut self, max_records: u32) {
        self.reader.claim_at_most(max_records);
    }

    /// A record that has come with those before it, if one has; see [`crate::GroupReader::ready`].
    pub fn ready(&mut self) -> Option<Delivery> {
        self.reader.ready()
    }

    /// How many records have come and are not handed out.
    pub fn ahead(&self) -> usize {
        self.reader.ahead()
    }

    /// The next record; none where there is none within `wait_millis` milliseconds.
    ///
    /// # Errors
    /// As [`crate::GroupReader::next_within`].
    pub fn next_within(&mut self, wait_millis: u32) -> Result<Option<Delivery>, ClientError> {
        self.runtime.block_on(self.reader.next_within(wait_millis))
    }

    /// The next record; waits until there is one.
    ///
    /// # Errors
    /// As [`crate::GroupReader::next`].
    pub fn next_delivery(&mut self) -> Result<Delivery, ClientError> {
        self.runtime.block_on(self.reader.next())
    }

    /// Says that a record was handled.
    ///
    /// # Errors
    /// As [`crate::GroupReader::ack`].
    pub fn ack(&mut self, delivery: &Delivery) -> Result<(), ClientError> {
        self.runtime.block_on(self.reader.ack(delivery))
    }

    /// Says that records of a partition were handled.
    ///
    /// # Errors
    /// As [`crate::GroupReader::ack_range`].
    pub fn ack_range(&mut self, partition: u32, offsets: Range<u64>) -> Result<(), ClientError> {
        self.runtime.block_on(self.reader.ack_range(partition, offsets))
    }

    /// Says that a record could not be handled: it is delivered again.
    ///
    /// # Errors
    /// As [`crate::GroupReader::give_back`].
    pub fn give_back(&mut self, delivery: &Delivery) -> Result<(), ClientError> {
        self.runtime.block_on(self.reader.give_back(delivery))
    }

    /// Leaves the group.
    ///
    /// # Errors
    /// As [`crate::GroupReader::leave`].
    pub fn leave(self) -> Result<(), ClientError> {
        self.runtime.block_on(self.reader.leave())
    }
}

impl Acknowledger {
    /// Says that records of a partition were handled.
    ///
    /// # Errors
    /// As [`crate::Acknowledger::ack`].
    pub fn ack(&self, partition: u32, offsets: Range<u64>) -> Result<(), ClientError> {
        self.runtime.block_on(self.acknowledger.ack(partition, offsets))
    }

    /// Says that records of a partition could not be handled: they are delivered again.
    ///
    /// # Errors
    /// As [`crate::Acknowledger::give_back`].
    pub fn give_back(&self, partition: u32, offsets: Range<u64>) -> Result<(), ClientError> {
        self.runtime.block_on(self.acknowledger.give_back(partition, offsets))
    }

    /// Shows that the member is there.
    ///
    /// # Errors
    /// As [`crate::Acknowledger::stay`].
    pub fn stay(&self) -> Result<(), ClientError> {
        self.runtime.block_on(self.acknowledger.stay())
    }

    /// Ends the membership.
    ///
    /// # Errors
    /// As [`crate::Acknowledger::leave`].
    pub fn leave(self) -> Result<(), ClientError> {
        self.runtime.block_on(self.acknowledger.leave())
    }
}
