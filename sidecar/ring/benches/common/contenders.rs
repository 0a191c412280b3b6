//! One small adapter per queue.

use disruptor::{
    BusySpin, EventPoller, Producer as _, SingleConsumerBarrier, SingleProducer, SingleProducerBarrier,
};
use ringbuf::traits::{Consumer as _, Producer as _, Split as _};
use sidestream_ring::spsc;

use super::Contender;

pub(crate) struct Sidestream;

impl Contender for Sidestream {
    const NAME: &'static str = "sidestream";
    type Tx = spsc::Producer<u64>;
    type Rx = spsc::Consumer<u64>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        spsc::ring(slots)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.push(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.pop()
    }

    #[inline]
    fn send_batch(tx: &mut Self::Tx, first: u64, n: usize) -> usize {
        let mut claim = tx.claim(n);
        let mut next = first;
        claim.fill(|| {
            next += 1;
            next - 1
        });
        claim.publish()
    }

    #[inline]
    fn recv_batch(rx: &mut Self::Rx, n: usize, sum: &mut u64) -> usize {
        let seen = rx.peek(n);
        let n = seen.len();
        *sum = seen.iter().fold(*sum, |sum, item| sum.wrapping_add(*item));
        rx.release(n)
    }
}

pub(crate) struct Rtrb;

impl Contender for Rtrb {
    const NAME: &'static str = "rtrb";
    type Tx = rtrb::Producer<u64>;
    type Rx = rtrb::Consumer<u64>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        rtrb::RingBuffer::new(slots)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.push(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.pop().ok()
    }

    #[inline]
    fn send_batch(tx: &mut Self::Tx, first: u64, n: usize) -> usize {
        match tx.write_chunk_uninit(n) {
            Ok(chunk) => chunk.fill_from_iter(first..),
            Err(rtrb::chunks::ChunkError::TooFewSlots(n)) => match tx.write_chunk_uninit(n) {
                Ok(chunk) => chunk.fill_from_iter(first..),
                Err(_) => 0,
            },
        }
    }

    #[inline]
    fn recv_batch(rx: &mut Self::Rx, n: usize, sum: &mut u64) -> usize {
        let n = match rx.read_chunk(n) {
            Ok(_) => n,
            Err(rtrb::chunks::ChunkError::TooFewSlots(n)) => n,
        };
        let Ok(chunk) = rx.read_chunk(n) else { return 0 };
        let (left, right) = chunk.as_slices();
        *sum = left.iter().chain(right).fold(*sum, |sum, item| sum.wrapping_add(*item));
        chunk.commit_all();
        n
    }
}

pub(crate) struct Ringbuf;

impl Contender for Ringbuf {
    const NAME: &'static str = "ringbuf";
    type Tx = ringbuf::HeapProd<u64>;
    type Rx = ringbuf::HeapCons<u64>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        ringbuf::HeapRb::new(slots).split()
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.try_push(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.try_pop()
    }

    #[inline]
    fn send_batch(tx: &mut Self::Tx, first: u64, n: usize) -> usize {
        tx.push_iter(first..first + n as u64)
    }

    #[inline]
    fn recv_batch(rx: &mut Self::Rx, n: usize, sum: &mut u64) -> usize {
        let before = *sum;
        let mut taken = 0;
        *sum = rx.pop_iter().take(n).inspect(|_| taken += 1).fold(before, u64::wrapping_add);
        taken
    }
}

pub(crate) struct Crossbeam;

impl Contender for Crossbeam {
    const NAME: &'static str = "crossbeam-channel";
    type Tx = crossbeam_channel::Sender<u64>;
    type Rx = crossbeam_channel::Receiver<u64>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        crossbeam_channel::bounded(slots)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.try_send(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.try_recv().ok()
    }
}

pub(crate) struct Kanal;

impl Contender for Kanal {
    const NAME: &'static str = "kanal";
    type Tx = kanal::Sender<u64>;
    type Rx = (kanal::Receiver<u64>, Vec<u64>);

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        let (tx, rx) = kanal::bounded(slots);
        (tx, (rx, Vec::with_capacity(slots)))
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.try_send(item).unwrap_or(false)
    }

    #[inline]
    fn recv((rx, _): &mut Self::Rx) -> Option<u64> {
        rx.try_recv().ok().flatten()
    }

    /// It has only "take everything", which is more than asked for and thus in its favour.
    #[inline]
    fn recv_batch((rx, taken): &mut Self::Rx, _n: usize, sum: &mut u64) -> usize {
        let n = rx.drain_into(taken).unwrap_or(0);
        *sum = taken.drain(..).fold(*sum, u64::wrapping_add);
        n
    }
}

pub(crate) struct Flume;

impl Contender for Flume {
    const NAME: &'static str = "flume";
    type Tx = flume::Sender<u64>;
    type Rx = flume::Receiver<u64>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        flume::bounded(slots)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.try_send(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.try_recv().ok()
    }

    /// It has only "take everything", which is more than asked for and thus in its favour.
    #[inline]
    fn recv_batch(rx: &mut Self::Rx, _n: usize, sum: &mut u64) -> usize {
        let items = rx.drain();
        let n = items.len();
        *sum = items.fold(*sum, u64::wrapping_add);
        n
    }
}

pub(crate) struct Thingbuf;

impl Contender for Thingbuf {
    const NAME: &'static str = "thingbuf";
    type Tx = std::sync::Arc<thingbuf::ThingBuf<u64>>;
    type Rx = std::sync::Arc<thingbuf::ThingBuf<u64>>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        let both = std::sync::Arc::new(thingbuf::ThingBuf::new(slots));
        (both.clone(), both)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.push(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.pop()
    }
}

pub(crate) struct Disruptor;

impl Contender for Disruptor {
    const NAME: &'static str = "disruptor";
    type Tx = SingleProducer<u64, SingleConsumerBarrier>;
    type Rx = EventPoller<u64, SingleProducerBarrier>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        let (poller, builder) = disruptor::build_single_producer(slots, || 0, BusySpin).new_event_poller();
        (builder.build(), poller)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.try_publish(|slot| *slot = item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        (&mut rx.take(1).ok()?).next().copied()
    }

    #[inline]
    fn send_batch(tx: &mut Self::Tx, first: u64, n: usize) -> usize {
        tx.try_batch_publish(n, |slots| slots.zip(first..).for_each(|(slot, item)| *slot = item))
            .map_or(0, |_| n)
    }

    #[inline]
    fn recv_batch(rx: &mut Self::Rx, n: usize, sum: &mut u64) -> usize {
        let Ok(mut events) = rx.take(n as u64) else { return 0 };
        let mut taken = 0;
        *sum = (&mut events).inspect(|_| taken += 1).fold(*sum, |sum, item| sum.wrapping_add(*item));
        taken
    }
}

pub(crate) struct Tokio;

impl Contender for Tokio {
    const NAME: &'static str = "tokio mpsc";
    type Tx = tokio::sync::mpsc::Sender<u64>;
    type Rx = tokio::sync::mpsc::Receiver<u64>;

    fn open(slots: usize) -> (Self::Tx, Self::Rx) {
        tokio::sync::mpsc::channel(slots)
    }

    #[inline]
    fn send(tx: &mut Self::Tx, item: u64) -> bool {
        tx.try_send(item).is_ok()
    }

    #[inline]
    fn recv(rx: &mut Self::Rx) -> Option<u64> {
        rx.try_recv().ok()
    }
}
