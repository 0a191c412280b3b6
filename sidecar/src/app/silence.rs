//! A way to somebody who may stop reading: after [`SILENCE`] without a byte taken it is an error.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use super::limits::SILENCE;

pub(super) struct Silence<W> {
    inner: W,
    /// Since when nothing was taken.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<W> Silence<W> {
    pub(super) fn new(inner: W) -> Silence<W> {
        Silence { inner, waiting: None }
    }

    fn within_time<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(SILENCE)));
        waiting.as_mut().poll(context).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, NOT_READ)))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Silence<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.within_time(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.within_time(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.within_time(context, shut)
    }
}

const NOT_READ: &str = "what was written was not read in time";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_reads_now_and_then_is_waited_for_and_who_stops_is_not() {
        let (near, mut far) = duplex(1);
        let mut near = Silence::new(near);
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
