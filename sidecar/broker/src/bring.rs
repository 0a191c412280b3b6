//! A dnpipe is brought here from the server that has it: the steps of a move in their order, whatever is between the two.

use std::time::Duration;

use bytes::Bytes;
use sidestream_event::native::DnpipeName;

use crate::{
    Broker,
    error::PushError,
    homes::Home,
    moves::{Copied, Frozen, MoveError, stale},
};

/// The server that has a dnpipe, as the one that is to have it sees it. See the methods of [`Broker`] of the same names.
pub trait Owner: Send + Sync {
    /// As [`Broker::copy_out`].
    fn copy_out(
        &self,
        name: &DnpipeName,
        partition: u32,
        from: Option<u64>,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Copied, MoveError>> + Send;

    /// As [`Broker::freeze`], for as long as [`HOLD`].
    fn freeze(&self, name: &DnpipeName, to: u32) -> impl Future<Output = Result<Frozen, MoveError>> + Send;

    /// As [`Broker::frozen_state`].
    fn frozen_state(
        &self,
        name: &DnpipeName,
        token: u64,
        from: u64,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Bytes, MoveError>> + Send;

    /// As [`Broker::release`].
    fn release(
        &self,
        name: &DnpipeName,
        token: u64,
        to: u32,
    ) -> impl Future<Output = Result<(), MoveError>> + Send;

    /// As [`Broker::thaw`].
    fn thaw(&self, name: &DnpipeName, token: u64) -> impl Future<Output = Result<(), MoveError>> + Send;
}

impl Broker {
    /// Brings a dnpipe here, to server `own`, from `owner`, which is server `from`: where it is [`Ready`](Home::Ready), the one
    /// that it is from. After an error the move can be begun again, and goes on where it is safe to.
    ///
    /// # Errors
    /// Those of either end. The dnpipe is served by one of them all the same, or by none until the answer to a release that was
    /// asked for is heard.
    pub async fn bring(
        &self,
        name: &DnpipeName,
        partitions: u32,
        own: u32,
        from: u32,
        owner: &impl Owner,
    ) -> Result<(), MoveError> {
        match self.home(name) {
            Some(Home::Here { .. }) => return self.own(name).await,
            Some(Home::Ready { token, .. }) => match owner.release(name, token, own).await {
                Ok(()) => return self.own(name).await,
                // It went on there, so what is here is old.
                Err(MoveError::Stale { .. } | MoveError::Unknown(_)) => {}
                Err(error) => return Err(error),
            },
            _ => {}
        }
        let is_begun = self.is_arriving(name, partitions);
        if !is_begun {
            self.begin_arrival(name, partitions).await?;
        }
        match self.copy_most(name, partitions, owner).await {
            // What came before is of no use any more.
            Err(MoveError::Stale { .. }) if is_begun => {
                self.begin_arrival(name, partitions).await?;
                self.copy_most(name, partitions, owner).await?;
            }
            copied => copied?,
        }
        let frozen = owner.freeze(name, own).await?;
        if let Err(error) = self.take_rest(name, from, owner, &frozen).await {
            // Where that is not heard, the freeze ends by itself.
            let _ = owner.thaw(name, frozen.token).await;
            return Err(error);
        }
        owner.release(name, frozen.token, own).await?;
        self.own(name).await
    }

    /// Ends the arrival of a dnpipe that is not to come to server `own` any more. What is [`Ready`](Home::Ready) may have been
    /// released already, so `owner` is asked to its end: then it is here. What else has come of it is thrown away.
    ///
    /// # Errors
    /// Those of either end. Nothing has changed then, and it can be asked for again.
    pub async fn end_arrival(
        &self,
        name: &DnpipeName,
        own: u32,
        owner: &impl Owner,
    ) -> Result<(), MoveError> {
        match self.home(name) {
            Some(Home::Here { .. }) => self.own(name).await,
            Some(Home::Ready { token, .. }) => match owner.release(name, token, own).await {
                Ok(()) => self.own(name).await,
                // It went on there.
                Err(MoveError::Stale { .. }) => self.drop_arrival(name).await,
                Err(error) => Err(error),
            },
            Some(Home::Away { .. }) => self.drop_arrival(name).await,
            None => Ok(()),
        }
    }

    /// While it is served where it is: until little is left.
    async fn copy_most(
        &self,
        name: &DnpipeName,
        partitions: u32,
        owner: &impl Owner,
    ) -> Result<(), MoveError> {
        for _ in 0..PASSES_MAX {
            let mut bytes = 0;
            for partition in 0..partitions {
                bytes += self.copy_until(name, partition, owner, None).await?;
            }
            if bytes < REST_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Once it stands still.
    async fn take_rest(
        &self,
        name: &DnpipeName,
        from: u32,
        owner: &impl Owner,
        frozen: &Frozen,
    ) -> Result<(), MoveError> {
        for (partition, end) in (0..).zip(&frozen.ends) {
            self.copy_until(name, partition, owner, Some(*end)).await?;
        }
        let mut state = Vec::new();
        while (state.len() as u64) < frozen.state_bytes {
            let more = owner.frozen_state(name, frozen.token, state.len() as u64, CHUNK_BYTES).await?;
            if more.is_empty() {
                return Err(MoveError::Bad { reason: "less of its state came than there is".into() });
            }
            state.extend_from_slice(&more);
        }
        let confirmed = self.confirm_arrival(name, from, frozen, &state).await;
        confirmed.inspect_err(|error| self.doubt(name, error))
    }

    /// Copies what there is of a partition, or what there is before `end`, and says how many bytes that was.
    async fn copy_until(
        &self,
        name: &DnpipeName,
        partition: u32,
        owner: &impl Owner,
        end: Option<u64>,
    ) -> Result<usize, MoveError> {
        let mut bytes = 0;
        loop {
            let at = self.arrived(name, partition);
            if end.is_some() && at == end {
                return Ok(bytes);
            }
            let copied = owner.copy_out(name, partition, at, CHUNK_BYTES).await;
            let copied = copied.inspect_err(|error| self.doubt(name, error))?;
            let came: usize = copied.batches.iter().map(|batch| batch.header.length as usize).sum();
            let to = copied.end;
            let next = match self.take_in(name, partition, copied).await {
                Ok(next) => next,
                Err(error) => {
                    self.doubt(name, &error);
                    if matches!(error, MoveError::Write(PushError::Full { .. })) {
                        // What is here of it must not keep others from their room.
                        self.drop_arrival(name).await?;
                    }
                    return Err(error);
                }
            };
            bytes += came;
            if next >= end.unwrap_or(to) {
                return Ok(bytes);
            }
            if came == 0 {
                self.break_arrival(name);
                return Err(stale("there is less of it than there was"));
            }
        }
    }

    /// What was copied is of no use once it is not what is there; after anything else the rest can follow.
    fn doubt(&self, name: &DnpipeName, error: &MoveError) {
        if matches!(error, MoveError::Stale { .. }) {
            self.break_arrival(name);
        }
    }
}

/// How long a dnpipe stands still for somebody who does not come back.
pub const HOLD: Duration = Duration::from_secs(30);
/// How often what has come since is copied before the dnpipe stands still: who pushes faster than can be copied waits then.
const PASSES_MAX: u32 = 16;
/// As much may be left to be copied while it stands still.
const REST_BYTES: usize = 1 << 20;
/// As much is copied at once.
const CHUNK_BYTES: usize = 1 << 20;
