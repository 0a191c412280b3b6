//! A producer of the bench: as many records on their way as it may have, each timed from when it was due.

use std::{pin::Pin, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sidestream_client::{
    Batch, Bytes, Client, ClientError, DnpipeView, Numbers, Producer, ProducerConfig, Record,
};
use sidestream_host::{Moment, Random};

use super::{
    Kind,
    load::Load,
    schedule::{Schedule, Ticket},
    tally::{Done, Tally},
};

/// See the module.
pub(super) struct Pusher {
    load: Arc<Load>,
    client: Client,
    dnpipes: Vec<Dnpipe>,
    way: Way,
    noise: Bytes,
}

struct Dnpipe {
    name: String,
    /// By partition: the number of the next record.
    next: Vec<u64>,
}

/// How records become batches.
enum Way {
    /// As in any program.
    Producers(Vec<Producer>),
    /// Exactly so many at once, numbered as a producer numbers them.
    Exactly { producer: u64, batch: Batch },
}

type Pushed = (Ticket, Moment, Result<(), ClientError>);
type Acknowledged = Pin<Box<dyn Future<Output = Pushed> + Send>>;

impl Pusher {
    pub(super) async fn open(
        client: Client,
        load: &Arc<Load>,
        described: &[DnpipeView],
    ) -> Result<Pusher, ClientError> {
        let mut random = Random::from_entropy();
        let noise = (0..load.value_bytes.div_ceil(8)).flat_map(|_| random.next_u64().to_le_bytes());
        let noise: Bytes = noise.take(load.value_bytes).collect();
        let dnpipe =
            |own: &DnpipeView| Dnpipe { name: own.name.to_string(), next: vec![0; own.partitions.len()] };
        let dnpipes: Vec<Dnpipe> = described.iter().map(dnpipe).collect();
        let way = match load.batch {
            Some(batch) => Way::Exactly {
                producer: random.next_u64().max(1),
                batch: Batch {
                    records: vec![Record::new(noise.clone()); batch as usize],
                    ..Batch::default()
                },
            },
            None => {
                let config = ProducerConfig { batch_bytes: load.batch_bytes, ..ProducerConfig::default() };
                let mut producers = Vec::with_capacity(dnpipes.len());
                for dnpipe in &dnpipes {
                    producers.push(client.producer(&dnpipe.name, config.clone()).await?);
                }
                Way::Producers(producers)
            }
        };
        Ok(Pusher { load: load.clone(), client, dnpipes, way, noise })
    }

    /// Pushes until the schedule has no more. How many batches were acknowledged, and how it ended.
    pub(super) async fn push_all(
        mut self,
        schedule: Arc<Schedule>,
        tally: Arc<Tally>,
    ) -> (u64, Result<(), ClientError>) {
        let mut exactly = 0;
        let outcome = self.push_until_over(&schedule, &tally, &mut exactly).await;
        let batches = match &self.way {
            Way::Producers(producers) => producers.iter().map(Producer::batches).sum(),
            Way::Exactly { .. } => exactly,
        };
        (batches, outcome)
    }

    async fn push_until_over(
        &mut self,
        schedule: &Schedule,
        tally: &Tally,
        acknowledged: &mut u64,
    ) -> Result<(), ClientError> {
        let mut waiting = FuturesUnordered::<Acknowledged>::new();
        let (mut in_flight, mut is_over) = (0, false);
        while !(is_over && waiting.is_empty()) {
            let has_room = in_flight + self.load.batch.unwrap_or(1) as usize <= self.load.in_flight;
            tokio::select! {
                biased;
                Some((ticket, sent, outcome)) = waiting.next(), if !waiting.is_empty() => {
                    outcome?;
                    *acknowledged += 1;
                    in_flight -= ticket.records as usize;
                    tally.add(&Done {
                        at: self.load.clock.now(),
                        records: ticket.records,
                        bytes: ticket.records * self.load.value_bytes as u64,
                        due: Some(ticket.due),
                        sent: Some(sent),
                    });
                }
                ticket = schedule.next(), if !is_over && has_room => match ticket {
                    Some(ticket) => {
                        in_flight += ticket.records as usize;
                        let pushed = self.push(ticket).await?;
                        waiting.push(pushed);
                    }
                    None => is_over = true,
                },
            }
        }
        Ok(())
    }

    async fn push(&mut self, ticket: Ticket) -> Result<Acknowledged, ClientError> {
        let sent = self.load.clock.now();
        let (count, turn) = (self.dnpipes.len() as u64, ticket.number);
        let index = (turn % count) as usize;
        let value = self.value(ticket.due);
        match &mut self.way {
            Way::Producers(producers) => {
                let promise = producers[index].push(Record::new(value)).await?;
                Ok(Box::pin(async move { (ticket, sent, promise.await.map(|_| ())) }))
            }
            Way::Exactly { producer, batch } => {
                let dnpipe = &mut self.dnpipes[index];
                let partition = (turn / count % dnpipe.next.len() as u64) as usize;
                batch.records.truncate(ticket.records as usize);
                if self.load.kind == Kind::EndToEnd {
                    batch.records.iter_mut().for_each(|record| record.value = value.clone());
                }
                let first = dnpipe.next[partition];
                dnpipe.next[partition] += ticket.records;
                batch.numbers = Some(Numbers { producer: *producer, epoch: 0, first });
                let receipts = self.client.push_together(&dnpipe.name, partition as u32, batch).await?;
                Ok(Box::pin(async move { (ticket, sent, receipts.await.map(|_| ())) }))
            }
        }
    }

    /// What is pushed; with a stamp where it is to be known again.
    fn value(&self, due: Moment) -> Bytes {
        match self.load.kind {
            Kind::EndToEnd => {
                let stamp = [self.load.run.to_le_bytes(), due.as_nanos().to_le_bytes()].concat();
                let rest = &self.noise[stamp.len().min(self.noise.len())..];
                [&stamp, rest].concat().into()
            }
            _ => self.noise.clone(),
        }
    }
}
