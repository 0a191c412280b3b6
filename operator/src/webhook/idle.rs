//! Connections to the webhooks, of which there are never many and none is kept for nothing.
//!
//! The API server keeps a few open and asks over them again. Anybody else in the cluster may connect too, and ask nothing: a
//! connection over which nothing has gone for a while ends, and where there are too many, the one that has been silent
//! for longest makes room for the next.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use sidestream_host::{Clock, Moment};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// All connections of a server. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Roll {
    table: Arc<Mutex<Table>>,
    /// How many there may be.
    max: usize,
    /// How long one may be silent.
    silence_max: Duration,
    clock: Clock,
}

#[derive(Default)]
struct Table {
    last: u64,
    open: BTreeMap<u64, Open>,
}

struct Open {
    heard: Moment,
    /// Has to make room.
    is_ended: bool,
    /// Who waits for it.
    waker: Option<Waker>,
}

impl Roll {
    /// None yet; at most `max`, each silent for at most `silence_max`.
    pub(super) fn new(max: usize, silence_max: Duration, clock: Clock) -> Self {
        Self { table: Arc::default(), max, silence_max, clock }
    }

    /// One more. Where there are too many, the one that has been silent for longest ends.
    pub(super) fn add<S>(&self, stream: S) -> Watched<S> {
        let mut table = self.lock();
        let living = table.open.iter().filter(|(_, own)| !own.is_ended);
        if living.clone().count() >= self.max
            && let Some((oldest, _)) = living.min_by_key(|(_, own)| own.heard)
        {
            let oldest = *oldest;
            table.end(oldest);
        }
        table.last += 1;
        let number = table.last;
        let heard = self.clock.now();
        table.open.insert(number, Open { heard, is_ended: false, waker: None });
        let silence = Box::pin(sleep(self.silence_max));
        drop(table);
        Watched { stream, number, silence, of: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn end(&mut self, number: u64) {
        if let Some(own) = self.open.get_mut(&number) {
            own.is_ended = true;
            own.waker.take().inspect(Waker::wake_by_ref);
        }
    }
}

/// A connection that ends when it has been silent for too long.
pub(super) struct Watched<S> {
    stream: S,
    number: u64,
    silence: Pin<Box<Sleep>>,
    of: Roll,
}

impl<S> Watched<S> {
    /// Something has gone over it.
    fn hear(&mut self) {
        let now = self.of.clock.now();
        if let Some(own) = self.of.lock().open.get_mut(&self.number) {
            own.heard = now;
        }
        self.silence.as_mut().set(sleep(self.of.silence_max));
    }

    /// Whether it has been silent for too long, or has to make room. If not, `context` is woken when it has.
    fn has_ended(&mut self, context: &mut Context<'_>) -> bool {
        let is_ended = {
            let mut table = self.of.lock();
            let own = table.open.get_mut(&self.number);
            own.is_none_or(|own| {
                own.waker = Some(context.waker().clone());
                own.is_ended
            })
        };
        is_ended || self.silence.as_mut().poll(context).is_ready()
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.of.lock().open.remove(&self.number);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = &mut *self;
        match Pin::new(&mut own.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                own.hear();
                Poll::Ready(read)
            }
            Poll::Pending if own.has_ended(context) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let own = &mut *self;
        match Pin::new(&mut own.stream).poll_write(context, bytes) {
            Poll::Ready(written) => {
                own.hear();
                Poll::Ready(written)
            }
            Poll::Pending if own.has_ended(context) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_silent_ends_and_one_that_speaks_does_not() {
        // Wide bounds: between two bytes a busy machine may be slow.
        let silence_max = Duration::from_secs(4);
        let roll = Roll::new(8, silence_max, Clock::machine());
        let (mut near, far) = duplex(64);
        let mut watched = roll.add(far);
        let mut byte = [0];
        for _ in 0..10 {
            tokio::time::sleep(silence_max / 8).await;
            near.write_all(b"x").await.unwrap();
            watched.read_exact(&mut byte).await.unwrap();
        }
        let begun = roll.clock.now();
        let ended = watched.read_exact(&mut byte).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(roll.clock.now().since(begun) >= silence_max);
    }

    #[tokio::test]
    async fn of_too_many_the_one_that_has_been_silent_for_longest_makes_room() {
        let roll = Roll::new(2, Duration::from_secs(1000), Clock::machine());
        let (mut near, far) = duplex(64);
        let mut first = roll.add(far);
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (_second_near, far) = duplex(64);
        let mut second = roll.add(far);
        tokio::time::sleep(Duration::from_millis(5)).await;
        near.write_all(b"x").await.unwrap();
        let mut byte = [0];
        first.read_exact(&mut byte).await.unwrap();
        let waits = tokio::spawn(async move { second.read_exact(&mut [0]).await });
        tokio::task::yield_now().await;
        let (_third_near, far) = duplex(64);
        let third = roll.add(far);
        assert_eq!(waits.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        near.write_all(b"y").await.unwrap();
        first.read_exact(&mut byte).await.unwrap();
        drop((first, third));
        assert!(roll.lock().open.is_empty());
    }
}
