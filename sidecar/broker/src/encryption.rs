//! What of a dnpipe is encrypted: its keys, and records on their way to the disk and back.
//!
//! ```text
//!   push ──▶ seal ──▶ journal          the key of the tail's epoch
//!   pull ◀── read ◀── journal          the key of the batch's epoch; gone with the reset that ended it
//! ```
//!
//! A dnpipe whose key can't be read is locked: it is there, nothing of it is read, pushed or let go, and the others are served.
//! Once a second, and whenever it is applied, it is tried whether the key is there now.

use std::collections::BTreeMap;

use bytes::Bytes;
use sidestream_event::record::{Flags, Header};
use sidestream_log::{Journal, Read, ReadError};

use crate::{
    Broker,
    error::PushError,
    keys::{DataKey, KeyError, Wrapped},
    pipe::{Pipe, Tail, lock},
    seal::{self, Sealer},
};

/// The keys of a dnpipe.
#[derive(Debug, Default)]
pub(crate) struct Encryption {
    /// By epoch: during a reset there are two. Those of epochs that are over are gone.
    keys: BTreeMap<u32, DataKey>,
    locked: Option<Unread>,
}

/// What is known of a key that can't be read.
#[derive(Debug)]
struct Unread {
    epoch: u32,
    wrapped: Wrapped,
    error: KeyError,
}

impl Pipe {
    /// What records of an epoch are encrypted with.
    pub(crate) fn key(&self, epoch: u32) -> Option<DataKey> {
        lock(&self.encryption).keys.get(&epoch).cloned()
    }

    /// The same as it is written down, readable or not.
    pub(crate) fn wrapped(&self, epoch: u32) -> Option<Wrapped> {
        let own = lock(&self.encryption);
        let locked = own.locked.as_ref().filter(|locked| locked.epoch == epoch);
        let known = own.keys.get(&epoch).map(|key| &key.wrapped);
        known.or(locked.map(|locked| &locked.wrapped)).cloned()
    }

    /// Sets the key of an epoch, or takes it away.
    pub(crate) fn set_key(&self, epoch: u32, key: Option<DataKey>) {
        let mut own = lock(&self.encryption);
        match key {
            Some(key) => drop(own.keys.insert(epoch, key)),
            None => drop(own.keys.remove(&epoch)),
        }
    }

    /// What was encrypted in epochs before this one can't be read any more, by nobody.
    pub(crate) fn forget_keys_before(&self, epoch: u32) {
        let mut own = lock(&self.encryption);
        own.keys.retain(|of, _| *of >= epoch);
        own.locked = None;
    }

    /// Its key can't be read.
    pub(crate) fn lock_up(&self, epoch: u32, wrapped: Wrapped, error: KeyError) {
        lock(&self.encryption).locked = Some(Unread { epoch, wrapped, error });
    }

    /// Why nothing of it can be read, where that is so.
    pub(crate) fn locked(&self) -> Option<KeyError> {
        lock(&self.encryption).locked.as_ref().map(|locked| locked.error.clone())
    }

    /// Refuses what can't be while it is locked. What is open stays so.
    pub(crate) fn is_open(&self) -> Result<(), KeyError> {
        self.locked().map_or(Ok(()), Err)
    }

    /// A batch as it is to be stored in an encrypted dnpipe. Its header is complete, but for what the journal adds.
    pub(crate) fn seal(
        &self,
        tail: &mut Tail,
        number: u32,
        header: &Header,
        body: &[u8],
    ) -> Result<(Header, Bytes), PushError> {
        let epoch = tail.epoch;
        let sealer = match tail.sealer.take() {
            Some(own) if own.epoch == epoch => own,
            _ => {
                let no_key =
                    || PushError::Failed { reason: "its key is not known; start the server again".into() };
                let key = self.key(epoch).ok_or_else(no_key)?;
                Sealer::new(&key, epoch, header.leader_epoch, number)?
            }
        };
        Ok(tail.sealer.insert(sealer).seal(header, body)?)
    }

    /// Records of a partition as they were pushed. What was encrypted in an epoch that is over is not there any more. Whoever
    /// reads for others asks before whether it is open.
    pub(crate) async fn read(
        &self,
        journal: &Journal,
        number: u32,
        from: u64,
        max_bytes: usize,
    ) -> Result<Read, ReadError> {
        let mut read = journal.read(self.partitions[number as usize].id, from, max_bytes).await?;
        for at in 0..read.batches.len() {
            let header = read.batches[at].header;
            if !header.flags.has(Flags::SEALED) {
                continue;
            }
            let key = self.key(header.reset_epoch);
            if let Some(opened) = key.as_ref().and_then(|key| seal::open(key, number, &read.batches[at])) {
                read.batches[at] = opened;
                continue;
            }
            let (first, next) = (header.base_offset, header.next_offset());
            if at > 0 {
                // What comes before it is given first.
                read.batches.truncate(at);
                read.next = first;
                break;
            }
            let is_over = header.reset_epoch < self.fence.borrow().epoch;
            return Err(match key {
                None if is_over => ReadError::OutOfRange { first: next, readable: next },
                // Nothing is wrong with it: to call it damaged would have groups go on without it.
                None => {
                    let reason = format!(
                        "the key of epoch {} is not known; start the server again",
                        header.reset_epoch
                    );
                    ReadError::Failed { reason: reason.into() }
                }
                Some(_) => ReadError::Damaged { from: from.max(first), to: next },
            });
        }
        Ok(read)
    }
}

impl Broker {
    /// Looks whether the key of a locked dnpipe can be read now. Whoever asks has its turn.
    pub(crate) async fn unlock(&self, pipe: &Pipe) -> Result<(), KeyError> {
        let (epoch, wrapped) = match &lock(&pipe.encryption).locked {
            Some(locked) => (locked.epoch, locked.wrapped.clone()),
            None => return Ok(()),
        };
        let key = DataKey::unwrap(&*self.inner.keys, &wrapped, &pipe.name, epoch);
        let still_locked = |error: &KeyError| {
            if pipe.locked().as_ref() != Some(error) {
                tracing::error!(dnpipe = %pipe.name, %error, "a dnpipe is still locked");
            }
            pipe.lock_up(epoch, wrapped.clone(), error.clone());
        };
        pipe.set_key(epoch, Some(key.inspect_err(still_locked)?));
        let starts = pipe.fence().starts;
        for (partition, start) in pipe.partitions.iter().zip(starts.iter()) {
            // Before anybody pushes: a message that comes again must be known.
            if let Err(error) = self.read_ids(pipe, partition, &pipe.spec(), *start).await {
                let error = KeyError::Unread { reason: error.to_string() };
                still_locked(&error);
                return Err(error);
            }
        }
        lock(&pipe.encryption).locked = None;
        tracing::info!(dnpipe = %pipe.name, "the key of a dnpipe can be read again");
        pipe.all_groups().iter().for_each(|group| group.wake());
        Ok(())
    }

    /// The same once a second: Secrets come when they come.
    pub(crate) async fn unlock_late(&self, pipe: &Pipe) {
        if pipe.locked().is_some() {
            let _turn = pipe.turn.lock().await;
            // It was said when it was locked.
            let _ = self.unlock(pipe).await;
        }
    }
}
