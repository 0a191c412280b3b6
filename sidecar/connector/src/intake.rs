//! The door a source brings its batches through: it numbers and marks them, and makes the source wait while the stages
//! are full.

use std::{
    sync::Arc,
    task::{Wake, Waker},
    thread::{self, Thread},
};

use sidestream_event::{Batch, Event, Outcome, Pool, Settled};
use sidestream_host::Clock;
use sidestream_ring::channel::{Refused, Sender};
use tokio::sync::{Notify, oneshot, watch};

use crate::Origin;

/// A source's side of the ring to the first stages. One owner; see [`intake`].
pub struct Intake {
    sender: Sender<Batch>,
    origin: Origin,
    pool: Arc<Pool>,
    clock: Clock,
    stop: Stop,
    room: Arc<Notify>,
    waits_on: WaitsOn,
}

/// How the ends of an intake are joined: the source gets the intake, the sidecar keeps the rest.
pub fn intake(sender: Sender<Batch>, origin: Origin, pool: Arc<Pool>, clock: Clock, stop: Stop) -> Intake {
    Intake { sender, origin, pool, clock, stop, room: Arc::default(), waits_on: WaitsOn::Nothing }
}

/// What a sent batch will tell: how its events ended.
pub type Receipt = oneshot::Receiver<Settled>;

/// The pipeline does not take the batch, because it is stopping; its events were not accepted.
#[derive(Debug)]
pub struct Stopped(
    /// The batch, given back.
    pub Batch,
);

/// The batch was not taken, and is given back.
#[derive(Debug)]
pub enum Refusal {
    /// The stages are full.
    Full(Batch),
    /// The pipeline is stopping.
    Stopped(Batch),
}

impl Intake {
    /// Events that come through here keep the name of the source they came from, where they have one.
    pub fn keep_names(&mut self) {
        self.origin = self.origin.keeping_names();
    }

    /// The same, and what is lost of them is for that source to bring again.
    pub fn relay(&mut self) {
        self.origin = self.origin.relaying();
    }

    /// An empty batch to fill: storage that has come back, where there is some.
    pub fn batch(&self) -> Batch {
        self.pool.take()
    }

    /// Sends a batch when there is room, waiting for it on the socket runtime.
    pub async fn send(&mut self, batch: Batch) -> Result<(), Stopped> {
        self.room_async(batch).await.map(|batch| self.pass(batch, None))
    }

    /// Sends a batch when there is room; the receipt tells how its events ended.
    pub async fn send_for_receipt(&mut self, batch: Batch) -> Result<Receipt, Stopped> {
        let batch = self.room_async(batch).await?;
        let (answer, receipt) = oneshot::channel();
        self.pass(batch, Some(answer));
        Ok(receipt)
    }

    /// Sends a batch if there is room now; the receipt tells how its events ended.
    pub fn try_send_for_receipt(&mut self, batch: Batch) -> Result<Receipt, Refusal> {
        if self.is_stopped() {
            return Err(Refusal::Stopped(batch));
        }
        if !self.sender.has_room() {
            return Err(Refusal::Full(batch));
        }
        let (answer, receipt) = oneshot::channel();
        self.pass(batch, Some(answer));
        Ok(receipt)
    }

    /// Sends a batch when there is room, blocking this thread for it.
    pub fn send_blocking(&mut self, batch: Batch) -> Result<(), Stopped> {
        if self.waits_on != WaitsOn::Thread {
            self.sender.set_waker(Waker::from(Arc::new(Unpark(thread::current()))));
            self.waits_on = WaitsOn::Thread;
        }
        let begun = self.clock.now();
        while !self.is_stopped() {
            if self.sender.has_room() || self.sender.wait_for_room() {
                self.count_blocked(begun);
                self.pass(batch, None);
                return Ok(());
            }
            // A request to stop has no way to unpark this thread: look for it now and then while blocked.
            thread::park_timeout(LOOK_FOR_STOP);
        }
        Err(Stopped(batch))
    }

    /// Counts an event that came and will never be readable: as accepted, and as dropped.
    pub fn drop_unreadable(&mut self) {
        let mut batch = self.pool.take();
        batch.push(Event::default());
        let span = self.origin.accept(&mut batch);
        batch.mark().end(span.first, Outcome::Dropped);
        self.pool.give(batch);
    }

    /// Whether the source is asked to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_stopped() || self.sender.is_closed()
    }

    /// Waits until the source is asked to end.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.clone().stopped()
    }

    /// The request to end, for what a source shares with other tasks.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// How many events from the first need no replay any more; see [`Origin::committed`].
    pub fn committed(&self) -> u64 {
        self.origin.committed()
    }

    /// The news of [`Intake::committed`]; see [`Origin::positions`].
    pub fn positions(&self) -> watch::Receiver<u64> {
        self.origin.positions()
    }

    /// The number the next event will get.
    pub fn next_sequence(&self) -> u64 {
        self.origin.ledger().accepted
    }

    /// What time it is.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    async fn room_async(&mut self, batch: Batch) -> Result<Batch, Stopped> {
        if self.waits_on != WaitsOn::Task {
            self.sender.set_waker(Waker::from(Arc::new(NotifyTask(self.room.clone()))));
            self.waits_on = WaitsOn::Task;
        }
        let begun = self.clock.now();
        while !self.is_stopped() {
            if self.sender.has_room() || self.sender.wait_for_room() {
                self.count_blocked(begun);
                return Ok(batch);
            }
            let (room, stop) = (self.room.clone(), self.stop.clone());
            tokio::select! {
                () = room.notified() => {}
                () = stop.stopped() => {}
            }
        }
        Err(Stopped(batch))
    }

    /// Hands over a batch that there is room for.
    fn pass(&mut self, mut batch: Batch, answer: Option<oneshot::Sender<Settled>>) {
        if batch.is_empty() {
            return self.pool.give(batch);
        }
        self.origin.accept_with(&mut batch, answer);
        match self.sender.try_send(batch) {
            Ok(()) => {}
            // Only this end adds to the ring, so the room just seen is still there; a ring closed meanwhile means that
            // the pipeline is gone, and with it whoever would have counted the events as anything but dropped.
            Err(Refused::Full(batch) | Refused::Closed(batch)) => {
                for event in batch.events() {
                    batch.mark().end(event.meta.sequence, sidestream_event::Outcome::Dropped);
                }
            }
        }
    }

    fn count_blocked(&self, begun: sidestream_host::Moment) {
        let waited = self.clock.now().since(begun).as_nanos() as u64;
        if waited > NOTICED_NANOS {
            self.sender.gauge().add_blocked_nanos(waited);
        }
    }
}

/// The request to a source to end; clones hear the same request.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The request, and the means to make it: send `true`. Dropping the sender makes it too.
    pub fn new() -> (watch::Sender<bool>, Stop) {
        let (sender, receiver) = watch::channel(false);
        (sender, Stop(receiver))
    }

    /// Whether the request was made.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for the request.
    pub async fn stopped(mut self) {
        // An error means that the sender is gone, which is a request too.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}

#[derive(PartialEq)]
enum WaitsOn {
    Nothing,
    Task,
    Thread,
}

struct NotifyTask(Arc<Notify>);

impl Wake for NotifyTask {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

const LOOK_FOR_STOP: std::time::Duration = std::time::Duration::from_millis(100);

/// Waits shorter than this are the cost of looking, not back-pressure.
const NOTICED_NANOS: u64 = 1_000;
