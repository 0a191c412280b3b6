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

use std::{path::PathBuf, sync::Arc};

use tokio::runtime::{Builder, Runtime};

use crate::{
    Address, ClientConfig, ClientError, Delivery, DnpipeView, From, GroupConfig, ProducerConfig, Pulled,
    ReaderConfig, Receipt, Record,
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

    /// Waits until everything that was pushed before is answered.
    ///
    /// # Errors
    /// As [`crate::Producer::flush`].
    pub fn flush(&self) -> Result<(), ClientError> {
        self.runtime.block_on(self.producer.flush())
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

impl Iterator for Reader {
    type Item = Result<Pulled, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.block_on(self.reader.next()).transpose()
    }
}

impl GroupReader {
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

    /// Leaves the group.
    ///
    /// # Errors
    /// As [`crate::GroupReader::leave`].
    pub fn leave(self) -> Result<(), ClientError> {
        self.runtime.block_on(self.reader.leave())
    }
}
