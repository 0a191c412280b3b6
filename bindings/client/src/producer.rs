//! Pushing: records become batches, batches are sent ahead of their answers, and each record gets a receipt.
//!
//! ```text
//!   push ──room──▶ queue ──▶ Worker: a Lane for each partition ──▶ connection
//!     ▲ Promise ◀──────────────────── receipts ◀─────────────────────┘
//! ```
//!
//! Without a linger a batch goes as soon as nothing of its partition is on its way, or it is full: a lone record is not
//! delayed, and under load batches grow by themselves.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use sidestream_event::{
    native::{Answer, Conditions, DnpipeName, DnpipeView, Request, partition_of},
    record::{BATCH_BYTES_MAX, RECORD_BYTES_MAX, RecordError},
};
use sidestream_host::Random;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Sleep, sleep},
};

use crate::{
    Client, ClientError, DataKey, Record,
    client::{Patience, unexpected},
    connection::{Answered, lock},
    lane::{Lane, Next, Owed, Stored},
};

/// How a producer behaves.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// How large a batch becomes, in bytes; 256 KiB by default, 4 MiB at most. One record always fits.
    pub batch_bytes: usize,
    /// How long a batch waits for more records; zero by default, which sends as soon as nothing is on its way.
    pub linger: Duration,
    /// How many batches of a partition are on their way at once; 4 by default.
    pub in_flight_max: usize,
    /// How many bytes of records wait or are on their way; beyond, [`Producer::push`] waits. 32 MiB by default.
    pub buffer_bytes: usize,
    /// Encrypts records before they leave the program; none by default.
    pub key: Option<DataKey>,
    /// Compresses batches, by LZ4; not by default. Those that do not get smaller go as they are.
    pub is_compressed: bool,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            batch_bytes: 256 << 10,
            linger: Duration::ZERO,
            in_flight_max: 4,
            buffer_bytes: 32 << 20,
            key: None,
            is_compressed: false,
        }
    }
}

/// Whoever pushes to one dnpipe. Clones are the same producer; what is pushed is delivered also when all are dropped, as long
/// as the runtime lives: [`Producer::flush`] waits for it.
#[derive(Clone)]
pub struct Producer {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    room_max: usize,
    batches: Arc<Mutex<u64>>,
}

/// Where a record is stored: it is as durable as the dnpipe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The partition.
    pub partition: u32,
    /// The place in it.
    pub offset: u64,
    /// The epoch: how often the dnpipe had been reset.
    pub epoch: u32,
}

/// The receipt that is to come.
#[must_use = "a push is not done before its promise says so"]
pub struct Promise(oneshot::Receiver<Result<Receipt, ClientError>>);

enum Message {
    Push { record: Record, partition: Option<u32>, owed: Owed },
    Flush(oneshot::Sender<()>),
}

impl Producer {
    pub(crate) fn open(
        client: Client,
        dnpipe: DnpipeView,
        config: ProducerConfig,
    ) -> Result<Producer, ClientError> {
        let (queue, messages) = mpsc::channel(QUEUE_RECORDS);
        let room_max = config.buffer_bytes.max(RECORD_BYTES_MAX);
        let room = Arc::new(Semaphore::new(room_max.min(Semaphore::MAX_PERMITS)));
        let worker = Worker::new(client, dnpipe, config);
        let batches = worker.batches.clone();
        tokio::spawn(worker.work(messages));
        Ok(Producer { queue, room, room_max, batches })
    }

    /// Pushes a record to the partition of its key, or to any where it has none. Waits while there is no room; the promise
    /// then says where it is stored.
    ///
    /// # Errors
    /// A record that is too large, or a producer whose runtime has ended.
    pub async fn push(&self, record: Record) -> Result<Promise, ClientError> {
        self.push_into(record, None).await
    }

    /// Pushes a record to a partition.
    ///
    /// # Errors
    /// As [`Producer::push`].
    pub async fn push_to(&self, partition: u32, record: Record) -> Result<Promise, ClientError> {
        self.push_into(record, Some(partition)).await
    }

    async fn push_into(&self, record: Record, partition: Option<u32>) -> Result<Promise, ClientError> {
        let weight = record.weight();
        if weight > RECORD_BYTES_MAX {
            return Err(RecordError::RecordTooLarge { bytes: weight }.into());
        }
        let room = self.room.clone().acquire_many_owned(weight.min(self.room_max) as u32).await;
        let room = room.map_err(|_| ClientError::Closed)?;
        let (receipt, promise) = oneshot::channel();
        let message = Message::Push { record, partition, owed: Owed { receipt, _room: room } };
        self.queue.send(message).await.map_err(|_| ClientError::Closed)?;
        Ok(Promise(promise))
    }

    /// Waits until everything that was pushed before is answered. Promises say how.
    ///
    /// # Errors
    /// A producer whose runtime has ended.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let (done, flushed) = oneshot::channel();
        self.queue.send(Message::Flush(done)).await.map_err(|_| ClientError::Closed)?;
        flushed.await.map_err(|_| ClientError::Closed)
    }

    /// How many batches were acknowledged so far. The records of all of them divided by this is how large they were.
    pub fn batches(&self) -> u64 {
        *lock(&self.batches)
    }
}

impl Future for Promise {
    type Output = Result<Receipt, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(ClientError::Closed)))
    }
}

struct Worker {
    client: Client,
    name: DnpipeName,
    config: ProducerConfig,
    lanes: Vec<Lane>,
    /// By partition, where it is not as it should be.
    patience: Vec<Option<Patience>>,
    /// Of records without a key, until its batch is sent.
    sticky: usize,
    random: Random,
    flushes: Vec<(Vec<u64>, oneshot::Sender<()>)>,
    /// A record that found its batch full, and no more batches may be on their way.
    stuck: Option<(usize, Record, i64, Owed)>,
    /// Acknowledged, ever.
    batches: Arc<Mutex<u64>>,
}

type Pending = Pin<Box<dyn Future<Output = Happened> + Send>>;

enum Happened {
    Answered { lane: usize, batch: (u64, u64), answer: Result<Stored, ClientError> },
    Rested { lane: usize, round: u64 },
}

impl Worker {
    fn new(client: Client, dnpipe: DnpipeView, config: ProducerConfig) -> Worker {
        let mut random = Random::from_entropy();
        let batch_bytes = config.batch_bytes.min(match config.key {
            // A nonce and a tag come to it.
            Some(_) => BATCH_BYTES_MAX - SEAL_BYTES,
            None => BATCH_BYTES_MAX,
        });
        let count = dnpipe.partitions.len() as u32;
        let lanes = (0..count).map(|partition| Lane::new(partition, batch_bytes, new_id(&mut random)));
        Worker {
            client,
            name: dnpipe.name,
            config,
            lanes: lanes.collect(),
            patience: (0..count).map(|_| None).collect(),
            sticky: random.below(u64::from(count)) as usize,
            random,
            flushes: Vec::new(),
            stuck: None,
            batches: Arc::default(),
        }
    }

    async fn work(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut pending = FuturesUnordered::<Pending>::new();
        let mut linger: Pin<Box<Sleep>> = Box::pin(sleep(Duration::ZERO));
        let (mut is_open, mut lingers) = (true, false);
        loop {
            tokio::select! {
                biased;
                Some(happened) = pending.next(), if !pending.is_empty() => {
                    self.happened(happened, &mut pending);
                    self.unstick();
                }
                message = messages.recv(), if is_open && self.stuck.is_none() => match message {
                    Some(message) => {
                        self.take(message);
                        // What waits already belongs in the same batch.
                        while self.stuck.is_none() && let Ok(more) = messages.try_recv() {
                            self.take(more);
                        }
                    }
                    None => is_open = false,
                },
                () = &mut linger, if lingers => {
                    lingers = false;
                    self.seal_all();
                }
            }
            let is_filling = self.lanes.iter().any(Lane::is_filling);
            if self.config.linger.is_zero() || !is_open {
                self.seal_idle(!is_open);
            } else if is_filling && !lingers {
                linger.set(sleep(self.config.linger));
                lingers = true;
            }
            self.send(&mut pending).await;
            self.end_flushes();
            if !is_open
                && pending.is_empty()
                && self.lanes.iter().all(|lane| lane.is_idle() && !lane.is_filling())
            {
                return;
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Push { record, partition, owed } => {
                let lane = match (partition, &record.key) {
                    (Some(partition), _) => partition as usize,
                    (None, Some(key)) => partition_of(key, self.lanes.len() as u32) as usize,
                    (None, None) => self.sticky,
                };
                if lane >= self.lanes.len() {
                    let refusal = crate::Refusal::UnknownPartition {
                        partition: lane as u32,
                        partitions: self.lanes.len() as u32,
                    };
                    let _ = owed.receipt.send(Err(refusal.into()));
                    return;
                }
                let time = self.client.clock().wall_nanos();
                self.put(lane, record, time, owed);
            }
            Message::Flush(done) => {
                self.seal_all();
                self.flushes.push((self.lanes.iter().map(|lane| lane.taken).collect(), done));
            }
        }
    }

    fn put(&mut self, lane: usize, record: Record, time: i64, owed: Owed) {
        match self.lanes[lane].take(&record, time, owed) {
            Ok(()) => {}
            Err((RecordError::BatchFull { .. }, owed)) if self.has_room(lane) => {
                self.seal(lane);
                if let Err((error, owed)) = self.lanes[lane].take(&record, time, owed) {
                    let _ = owed.receipt.send(Err(error.into()));
                }
            }
            Err((RecordError::BatchFull { .. }, owed)) => self.stuck = Some((lane, record, time, owed)),
            Err((error, owed)) => drop(owed.receipt.send(Err(error.into()))),
        }
    }

    fn unstick(&mut self) {
        if let Some((lane, record, time, owed)) = self.stuck.take() {
            self.put(lane, record, time, owed);
        }
    }

    fn has_room(&self, lane: usize) -> bool {
        self.lanes[lane].sent_len() < self.config.in_flight_max.max(1)
    }

    fn seal(&mut self, lane: usize) {
        self.lanes[lane].seal(self.config.key.as_ref(), self.config.is_compressed);
        if lane == self.sticky {
            self.sticky = (self.sticky + 1) % self.lanes.len();
        }
    }

    fn seal_all(&mut self) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].is_filling() {
                self.seal(lane);
            }
        }
    }

    /// Seals what nothing is before; at the end, everything.
    fn seal_idle(&mut self, all: bool) {
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].is_filling() && (all || self.lanes[lane].is_idle()) {
                self.seal(lane);
            }
        }
    }

    async fn send(&mut self, pending: &mut FuturesUnordered<Pending>) {
        for index in 0..self.lanes.len() {
            if self.patience[index].as_ref().is_some_and(Patience::is_waiting) {
                continue;
            }
            while let Some((number, batch)) = self.lanes[index].next_to_send() {
                let lane = &self.lanes[index];
                let (dnpipe, partition, round) = (self.name.clone(), lane.partition(), lane.round());
                let request = Request::Push { dnpipe, partition, only_if: Conditions::default() };
                // In order: each is on its way before the next.
                let sent = self.client.send(request, batch).await;
                pending.push(Box::pin(async move {
                    let answer = match sent {
                        Ok(answering) => answering.answered().await,
                        Err(error) => Err(error),
                    };
                    let answer = answer.and_then(|answered| stored(partition, answered));
                    Happened::Answered { lane: index, batch: (round, number), answer }
                }));
            }
        }
    }

    fn happened(&mut self, happened: Happened, pending: &mut FuturesUnordered<Pending>) {
        match happened {
            Happened::Answered { lane: index, batch, answer } => {
                if answer.is_ok() {
                    *lock(&self.batches) += 1;
                    self.patience[index] = None;
                }
                let new_id = new_id(&mut self.random);
                let Next::Again(error) = self.lanes[index].answered(batch, answer, new_id) else { return };
                let patience = self.patience[index].get_or_insert_with(|| self.client.patience());
                match patience.begin_wait() {
                    Some(rest) => {
                        let round = self.lanes[index].round();
                        pending.push(Box::pin(async move {
                            sleep(rest).await;
                            Happened::Rested { lane: index, round }
                        }));
                    }
                    None => {
                        self.patience[index] = None;
                        self.lanes[index].give_up(&error, new_id);
                    }
                }
            }
            Happened::Rested { lane: index, round } => {
                if let Some(patience) =
                    self.patience[index].as_mut().filter(|_| round == self.lanes[index].round())
                {
                    patience.end_wait();
                }
            }
        }
    }

    fn end_flushes(&mut self) {
        let lanes = &self.lanes;
        let is_done =
            |targets: &[u64]| lanes.iter().zip(targets).all(|(lane, target)| lane.settled >= *target);
        for (targets, done) in std::mem::take(&mut self.flushes) {
            match is_done(&targets) {
                // Who does not wait any more need not be told.
                true => drop(done.send(())),
                false => self.flushes.push((targets, done)),
            }
        }
    }
}

/// Where a batch is stored, by the answer to its push.
pub(crate) fn stored(partition: u32, (answer, tail): Answered) -> Result<Stored, ClientError> {
    match answer {
        Answer::Pushed { base_offset, epoch } => {
            Ok(Stored { first: Receipt { partition, offset: base_offset, epoch }, places: tail })
        }
        other => Err(unexpected(&other)),
    }
}

/// 0 is nobody.
fn new_id(random: &mut Random) -> u64 {
    random.next_u64().max(1)
}

/// Records that wait for the worker; how much they are is bounded by `buffer_bytes`.
const QUEUE_RECORDS: usize = 1024;
/// What sealing adds to a batch.
const SEAL_BYTES: usize = 28;
