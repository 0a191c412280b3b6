//! A connection whose first bytes were read already, and whose reader may not sleep for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A stream that gives first what was read of it already; after so long without a byte taken, writing to it is an error of
/// [`TimedOut`](io::ErrorKind::TimedOut).
pub struct Guarded<S> {
    stream: S,
    begun: Vec<u8>,
    silence: Duration,
    /// Since when nothing was taken.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// `begun` is what was read already; none of what is written may wait longer than `silence` to be taken.
    pub fn new(stream: S, begun: Vec<u8>, silence: Duration) -> Guarded<S> {
        Guarded { stream, begun, silence, waiting: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let count = self.begun.len().min(out.remaining());
            out.put_slice(&self.begun[..count]);
            self.begun.drain(..count);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within_time(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.within_time(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.within_time(context, shut)
    }
}

impl<S> Guarded<S> {
    fn within_time<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let silence = self.silence;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(silence)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, NOT_READ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

const NOT_READ: &str = "what was written was not read in time";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const SILENCE: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn who_reads_now_and_then_is_waited_for_and_who_stops_is_not() {
        let (near, mut far) = duplex(1);
        let mut near = Guarded::new(near, Vec::new(), SILENCE);
        let reading = async {
            for _ in 0..10 {
                sleep(SILENCE / 2).await;
                far.read_u8().await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[7; 10]), reading);
        written.unwrap();
        let error = near.write_all(&[7; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
