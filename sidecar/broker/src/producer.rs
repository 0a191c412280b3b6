//! Producers that outlive their process: what exactly-once needs of a dnpipe.
//!
//! A pipeline that reads one dnpipe and writes another pushes its results under a producer id of its own, each batch with
//! the source position it was computed from. Position and results are one batch: they are there together or not at all.
//! After a crash the next incarnation opens the producer, which fences the one before, and is told how far it had come.

use sidestream_event::native::DnpipeName;
use sidestream_log::Bounds;

use crate::{
    Broker,
    error::PushError,
    pipe::{Partition, Tail},
    state::Change,
};

/// What a producer goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenProducer {
    /// Its epoch: pushes of lower ones are refused from now on, in every process.
    pub epoch: u32,
    /// The number of its next record.
    pub next_sequence: u64,
    /// The highest [`position`](sidestream_event::record::Header::position) among its records; 0 is none.
    pub position: u64,
}

impl Broker {
    /// Takes over a producer of a partition. What its earlier incarnations pushed is either counted in the answer, and as
    /// durable as can be, or will never be there.
    pub async fn open_producer(
        &self,
        name: &DnpipeName,
        partition: u32,
        id: u64,
    ) -> Result<OpenProducer, PushError> {
        let pipe = self.pipe(name).ok_or_else(|| PushError::Unknown(name.clone()))?;
        let partitions = pipe.partitions.len() as u32;
        let Some(own) = pipe.partitions.get(partition as usize) else {
            return Err(PushError::UnknownPartition { partition, partitions });
        };
        let wall = self.inner.clock.wall_nanos();
        let (opened, bounds) = {
            let mut tail = own.tail();
            if tail.is_removed {
                return Err(PushError::Unknown(name.clone()));
            }
            if tail.is_moving {
                return Err(PushError::Moving);
            }
            let bounds = tail.bounds(&self.inner.journal, own.id)?;
            let known = tail.producers.open(id, wall)?;
            let opened =
                OpenProducer { epoch: known.epoch, next_sequence: known.next, position: known.position };
            (opened, bounds)
        };
        self.inner
            .state
            .write(|state| {
                let tail = own.tail();
                let next = tail.bounds(&self.inner.journal, own.id)?.next;
                state.append(&self.producer_change(&tail, own, id, next), wall)
            })
            .await?;
        let Bounds { next, rolled_back, .. } = bounds;
        crate::push::durable(&self.inner.journal, &pipe, partition, next, rolled_back).await?;
        Ok(opened)
    }

    /// The highest position among the records of a producer, without taking it over; 0 is none. It may still move.
    pub fn position(&self, name: &DnpipeName, partition: u32, id: u64) -> Result<u64, PushError> {
        let pipe = self.pipe(name).ok_or_else(|| PushError::Unknown(name.clone()))?;
        let partitions = pipe.partitions.len() as u32;
        let own = pipe.partitions.get(partition as usize);
        let own = own.ok_or(PushError::UnknownPartition { partition, partitions })?;
        Ok(own.tail().producers.get(id).map_or(0, |known| known.position))
    }

    /// What is known of a producer when the partition ends before `upto`.
    pub(crate) fn producer_change(&self, tail: &Tail, partition: &Partition, id: u64, upto: u64) -> Change {
        let producer = tail.producers.get(id).cloned().unwrap_or_default();
        Change::Producer { partition: partition.id.0, upto, id, producer }
    }
}
