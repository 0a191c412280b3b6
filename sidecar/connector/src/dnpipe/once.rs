//! The `dnpipe` sink of a pipeline that delivers exactly once.
//!
//! ```text
//!   event ──▶ place: (source partition, offset) ──▶ lane (source partition -> own partition): has it, or pushes it
//! ```
//!
//! A lane is a producer that outlives this process. Opened, it says up to which offset of the source its results are there, and
//! whoever had it before can push no more. Each batch has results of one lane and the offset behind the last of them, so that
//! both are there or neither. What makes this exact is that the events of a source's partition come in the order of their offsets
//! and that an offset has one result at most: the compiler proves it.
//!
//! A batch of events is packed anew for each try: what is there already is left out, and the rest gets the same numbers again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use sidestream_client::{Client, ClientError, DnpipeName, Incarnation, Refusal};
use sidestream_event::{Batch, Event, Text, record::BatchWriter};
use sidestream_plan::stage::DnpipeSink;
use tokio::task::JoinSet;

use super::{
    client, delivered, named,
    numbered::{add, key_of, partition_in},
    packing::{LaneId, Packing, Piece, Pushed, push_all},
    places::{ExactlyOnce, Places, Row},
};
use crate::{AsyncSink, BoxFuture, BuildError, Environment, Evaluate, Undelivered};

/// The sink.
pub(crate) struct PushesOnce {
    client: Client,
    dnpipe: DnpipeName,
    key: Option<Evaluate>,
    pipeline: String,
    once: ExactlyOnce,
    /// How many partitions the dnpipe has; 0 until that is known.
    partitions: u32,
    lanes: BTreeMap<LaneId, Incarnation>,
}

/// An event that is to be there, and where it comes from.
struct Placed {
    index: usize,
    lane: LaneId,
    offset: u64,
    key: Option<Text>,
}

/// Why a batch is not there yet.
enum Hitch {
    Client(ClientError),
    /// Whether a lane is this sink's is not known.
    Unopened,
    /// No source of this pipeline has brought the event in.
    Unplaced {
        source: Text,
        sequence: u64,
    },
    /// Results are there of more records than the source has.
    MadeAnew {
        dnpipe: DnpipeName,
        partition: u32,
        position: u64,
        end: u64,
    },
}

impl PushesOnce {
    /// The sink that `stage` describes.
    pub(crate) fn new(stage: &DnpipeSink, once: &ExactlyOnce, env: &Environment) -> Result<Self, BuildError> {
        let key = stage.key.as_ref().map(|key| (env.compile)(key)).transpose();
        let dnpipe = named(&stage.name, stage.namespace.as_deref(), env)?;
        Ok(Self {
            client: client(&dnpipe, stage.pool.as_deref(), env)?,
            dnpipe,
            key: key.map_err(|reason| BuildError { field: "key", reason })?,
            pipeline: env.pipeline.clone(),
            once: once.clone(),
            partitions: 0,
            lanes: BTreeMap::new(),
        })
    }

    async fn deliver_all(&mut self, events: &[Event]) -> Result<Vec<(usize, String)>, Hitch> {
        if self.partitions == 0 {
            self.partitions = self.client.describe(&self.dnpipe.to_string()).await?.partitions.len() as u32;
        }
        let mut refused = Vec::new();
        let mut placed = self.place(events, &mut refused)?;
        self.open(&placed).await?;
        self.check_sources(&placed, events).await?;
        self.leave_out(&mut placed, events, &mut refused);
        loop {
            let pieces = self.pack(&mut placed, events, &mut refused);
            if pieces.is_empty() {
                return Ok(refused);
            }
            self.push(pieces, &mut placed, &mut refused).await?;
        }
    }

    /// Where the events come from, and which lanes they take.
    fn place(&self, events: &[Event], refused: &mut Vec<(usize, String)>) -> Result<Vec<Placed>, Hitch> {
        let mut placed = Vec::with_capacity(events.len());
        let mut at: Option<At> = None;
        for (index, event) in events.iter().enumerate() {
            let sequence = event.meta.sequence;
            let unplaced = || Hitch::Unplaced { source: event.meta.source.clone(), sequence };
            let is_there = |at: &At| at.source == event.meta.source && at.row.offset_of(sequence).is_some();
            if !at.as_ref().is_some_and(is_there) {
                at = Some(self.find(event).ok_or_else(unplaced)?);
            }
            let Some(At { row, producer, .. }) = &at else { return Err(unplaced()) };
            let key = match key_of(event, self.key.as_ref()) {
                Ok(key) => key,
                Err(reason) => {
                    refused.push((index, reason));
                    continue;
                }
            };
            // The same each time: a result that went elsewhere the next time would be there twice.
            let keyless = row.partition % self.partitions.max(1);
            let partition = partition_in(key.as_deref(), self.partitions, keyless);
            let lane = LaneId { producer: *producer, partition };
            let offset = row.offset_of(sequence).ok_or_else(unplaced)?;
            placed.push(Placed { index, lane, offset, key });
        }
        Ok(placed)
    }

    fn find(&self, event: &Event) -> Option<At> {
        let places = self.once.of_source(event.meta.source.as_str())?;
        let row = places.find(event.meta.sequence)?;
        let producer = places.producer(&self.pipeline, self.once.stage(), row.partition);
        Some(At { source: event.meta.source.clone(), row, producer, places })
    }

    /// Takes the lanes over that are not this sink's yet.
    async fn open(&mut self, placed: &[Placed]) -> Result<(), Hitch> {
        let wanted: BTreeSet<LaneId> = placed.iter().map(|own| own.lane).collect();
        let mut opening = JoinSet::new();
        for lane in wanted.into_iter().filter(|lane| !self.lanes.contains_key(lane)) {
            let (client, dnpipe) = (self.client.clone(), self.dnpipe.clone());
            opening.spawn(async move {
                (lane, client.open_producer(&dnpipe, lane.partition, lane.producer).await)
            });
        }
        let mut failed = None;
        while let Some(opened) = opening.join_next().await {
            match opened {
                Ok((lane, Ok(incarnation))) => drop(self.lanes.insert(lane, incarnation)),
                Ok((_, Err(error))) => failed = Some(Hitch::Client(error)),
                // Without its lane an event would count as delivered.
                Err(_) => failed = Some(Hitch::Unopened),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Looks at the sources of what is about to be left out, one record of each lane. That is so after a start, and when records
    /// come again: seldom.
    async fn check_sources(&self, placed: &[Placed], events: &[Event]) -> Result<(), Hitch> {
        let mut checked = BTreeSet::new();
        for own in placed {
            let position = self.lanes.get(&own.lane).map_or(0, |lane| lane.position);
            if own.offset < position && checked.insert(own.lane) {
                self.check_source(&events[own.index], position).await?;
            }
        }
        Ok(())
    }

    /// Whether the source has the records that there are results of. One that was removed and made anew begins at 0: its records
    /// are others, and would be taken for those whose results are there.
    async fn check_source(&self, event: &Event, position: u64) -> Result<(), Hitch> {
        let Some(At { row, places, .. }) = self.find(event) else { return Ok(()) };
        let found = places.client.describe(&places.dnpipe.to_string()).await?;
        match found.partitions.get(row.partition as usize) {
            Some(own) if own.end < position => Err(Hitch::MadeAnew {
                dnpipe: places.dnpipe.clone(),
                partition: row.partition,
                position,
                end: own.end,
            }),
            _ => Ok(()),
        }
    }

    /// Leaves out what is there. What can't be a record is not, and is refused each time.
    fn leave_out(&self, placed: &mut Vec<Placed>, events: &[Event], refused: &mut Vec<(usize, String)>) {
        let mut value = Vec::new();
        placed.retain(|own| {
            let is_new = self.lanes.get(&own.lane).is_none_or(|lane| own.offset >= lane.position);
            if !is_new {
                let packed = add(&mut BatchWriter::new(), &events[own.index], own.key.as_deref(), &mut value);
                refused.extend(packed.err().map(|error| (own.index, error.to_string())));
            }
            is_new
        });
    }

    /// What is not there yet, lane by lane. What can't be a record is refused, and no longer placed.
    fn pack(
        &self,
        placed: &mut Vec<Placed>,
        events: &[Event],
        refused: &mut Vec<(usize, String)>,
    ) -> BTreeMap<LaneId, VecDeque<Piece>> {
        let mut packing: BTreeMap<LaneId, Packing> = BTreeMap::new();
        let mut value = Vec::new();
        placed.retain(|own| {
            let Some(lane) = self.lanes.get(&own.lane) else { return true };
            if own.offset < lane.position {
                return false;
            }
            let packing = packing.entry(own.lane).or_insert_with(|| Packing::new(own.lane.producer, *lane));
            match packing.add((own.index, own.offset), &events[own.index], own.key.as_deref(), &mut value) {
                Ok(()) => true,
                Err(error) => {
                    refused.push((own.index, error.to_string()));
                    false
                }
            }
        });
        packing.into_iter().map(|(lane, packing)| (lane, packing.finish())).collect()
    }

    /// Pushes the pieces, those of a lane one after the other.
    async fn push(
        &mut self,
        pieces: BTreeMap<LaneId, VecDeque<Piece>>,
        placed: &mut Vec<Placed>,
        refused: &mut Vec<(usize, String)>,
    ) -> Result<(), Hitch> {
        let mut pushing = JoinSet::new();
        for (lane, pieces) in pieces {
            let Some(incarnation) = self.lanes.get(&lane).copied() else { continue };
            pushing.spawn(push_all(self.client.clone(), self.dnpipe.clone(), lane, incarnation, pieces));
        }
        let mut failed = None;
        while let Some(pushed) = pushing.join_next().await {
            let Ok(Pushed { lane, incarnation, stopped }) = pushed else { continue };
            self.lanes.insert(lane, incarnation);
            let Some((events, error)) = stopped else { continue };
            match &error {
                ClientError::Refused(Refusal::TooLarge { .. } | Refusal::BadBatch { .. }) => {
                    // They took no numbers, and will be refused each time.
                    placed.retain(|own| !events.contains(&own.index));
                    refused.extend(events.into_iter().map(|index| (index, error.to_string())));
                    continue;
                }
                // It has another owner, or its numbers are not what they were thought to be: it is taken over anew.
                ClientError::Refused(
                    Refusal::Fenced | Refusal::OutOfSequence { .. } | Refusal::Bad { .. },
                ) => {
                    self.lanes.remove(&lane);
                }
                ClientError::Refused(Refusal::UnknownPartition { .. }) => {
                    self.lanes.clear();
                    self.partitions = 0;
                    return Err(error.into());
                }
                _ => {}
            }
            failed = Some(error);
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Where the events at hand come from.
struct At {
    source: Text,
    row: Row,
    producer: u64,
    places: Arc<Places>,
}

impl AsyncSink for PushesOnce {
    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            let outcome = self.deliver_all(batch.events()).await;
            delivered(&self.dnpipe, outcome)
        })
    }

    fn give_up(&mut self) {
        // Whether these were stored is not known: the lanes say so when they are taken over.
        self.lanes.clear();
    }
}

impl From<ClientError> for Hitch {
    fn from(error: ClientError) -> Hitch {
        Hitch::Client(error)
    }
}

impl fmt::Display for Hitch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hitch::Client(error) => error.fmt(out),
            Hitch::Unopened => out.write_str("a producer was not opened; it is opened anew"),
            Hitch::Unplaced { source, sequence } => write!(
                out,
                "event {sequence} of `{source}` is no record of a source of this pipeline; start the pipeline anew"
            ),
            Hitch::MadeAnew { dnpipe, partition, position, end } => write!(
                out,
                "there are results up to offset {position} of partition {partition} of {dnpipe}, which ends at {end}: it was made \
                 anew; give the group another name"
            ),
        }
    }
}
