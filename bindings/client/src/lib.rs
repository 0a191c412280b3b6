//! Dnpipes from a program: push, pull and reset, over the native protocol.
//!
//! ```no_run
//! use sidestream_client::{Client, From, ReaderConfig, Record};
//!
//! # async fn example() -> Result<(), sidestream_client::ClientError> {
//! let client = Client::local("data/sidestream.sock");
//! let orders = client.producer("orders", Default::default()).await?;
//! let promise = orders.push(Record::new("hello").key("greetings")).await?;
//! println!("stored at offset {}", promise.await?.offset); // as durable as the dnpipe says
//!
//! let mut reader = client.reader("orders", From::First(0), ReaderConfig::default()).await?;
//! while let Some(record) = reader.next().await? {
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ```text
//!   push -> Producer: batches by partition -> Client: one connection, reconnected -> gateway
//!                    <- receipts, in order
//!   Reader, GroupReader: one pull ahead of whoever reads
//! ```
//!
//! A producer numbers its records, so a push that is tried again is stored once. What a program can make this hold is bounded:
//! [`ProducerConfig::buffer_bytes`] and one answer ahead for each partition read. [`blocking`] is the same without `async`.

mod address;
pub mod blocking;
mod client;
mod connection;
mod error;
mod group;
mod lane;
mod once;
mod owners;
mod producer;
mod reader;
mod record;
mod seal;
mod stored;

pub use address::{Address, Stream};
pub use bytes::Bytes;
pub use client::{Client, ClientConfig};
pub use error::ClientError;
pub use group::{Acknowledger, Delivery, GroupConfig, GroupReader};
pub use once::{Batch, Numbers, Page, Receipts};
pub use producer::{Producer, ProducerConfig, Promise, Receipt};
pub use reader::{Reader, ReaderConfig};
pub use record::{Pulled, Record};
pub use seal::{DataKey, SealError};
pub use sidestream_event::native::{
    BadName, Conditions, DamageView, DiskView, DnpipeName, DnpipeView, From, GroupView, Incarnation,
    MemberView, MoveAnswer, MoveRequest, PartitionView, Refusal, Verified,
};
pub use stored::{StoredBatch, StoredPage};
