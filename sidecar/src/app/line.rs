//! A line: one connection to a server, for one connection of an app, under TLS 1.3 as who the pod is.
//!
//! ```text
//!   relay ──requests (few)──▶ line ═▶ server
//!     ▲                                  ║
//!     └────── heard (few) ◀── line ◀═════╝
//! ```
//!
//! What does not fit waits in the socket, and at last at the other end. It is opened when it is made; who asks meanwhile waits.

use std::sync::Arc;

use bytes::Bytes;
use sidestream_client::Stream;
use sidestream_connector::Address;
use sidestream_event::native::{
    ALPN, Frame, Frames, PREAMBLE_BYTES, Preamble, VERSION_MAX, VERSION_MIN, Verdict,
};
use sidestream_gateway::Guarded;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
};

use super::{
    Shared, Unopened,
    limits::{REQUESTS_WAITING, SILENCE, SMALL_FRAME_BYTES, kib},
};

/// The end of a line at which is asked. The line ends when it is dropped, whatever it is about to do.
pub(super) struct Line {
    /// No other line of this connection has the same.
    pub(super) number: u64,
    /// Where requests go.
    pub(super) requests: mpsc::Sender<Request>,
    running: AbortHandle,
    /// Its place among those that all connections have together; none where it is the one that each may have.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// A request as it goes to the server.
pub(super) struct Request {
    /// The frame without its tail.
    pub(super) head: Vec<u8>,
    pub(super) tail: Bytes,
    /// The room it takes is free when it is written.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// What comes from a line.
pub(super) enum Heard {
    Answer {
        line: u64,
        frame: Frame,
        /// The room it takes.
        room: Option<OwnedSemaphorePermit>,
    },
    /// It has ended.
    Ended { line: u64, ending: Ending },
}

/// How a line ended.
pub(super) enum Ending {
    /// It was never opened, so nothing of what was asked has been sent.
    Unopened(Unopened),
    /// What was asked may have been heard, with the reason.
    Broken(String),
}

impl Line {
    /// Opens a line to `address`.
    pub(super) fn open(
        number: u64,
        address: Address,
        shared: Arc<Shared>,
        heard: mpsc::Sender<Heard>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Line {
        let (requests, queue) = mpsc::channel(REQUESTS_WAITING);
        let running = tokio::spawn(async move {
            let ending = run(number, &address, &shared, queue, &heard).await;
            // Who does not listen any more need not hear it.
            let _ = heard.send(Heard::Ended { line: number, ending }).await;
        });
        Line { number, requests, running: running.abort_handle(), permit }
    }

    /// Whether no request waits for it.
    pub(super) fn has_taken_all(&self) -> bool {
        self.requests.capacity() == self.requests.max_capacity()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(
    number: u64,
    address: &Address,
    shared: &Shared,
    queue: mpsc::Receiver<Request>,
    heard: &mpsc::Sender<Heard>,
) -> Ending {
    let stream = match shared.dial(address, shake_hands(address)).await {
        Ok(stream) => stream,
        Err(unopened) => return Ending::Unopened(unopened),
    };
    let (read, write) = split(stream);
    let reason = tokio::select! {
        reason = send(Guarded::new(write, Vec::new(), SILENCE), queue) => reason,
        reason = receive(read, number, heard, &shared.outgoing) => reason,
    };
    Ending::Broken(reason)
}

async fn shake_hands(address: &Address) -> Result<Box<dyn Stream>, String> {
    let mut stream = address.call(ALPN).await.map_err(|error| error.to_string())?;
    let lost = |error: std::io::Error| format!("the connection to {address} ended: {error}");
    let own = Preamble { oldest: VERSION_MIN, newest: VERSION_MAX };
    stream.write_all(&own.write()).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut verdict = [0; PREAMBLE_BYTES];
    stream.read_exact(&mut verdict).await.map_err(lost)?;
    match Verdict::read(&verdict).map_err(|error| error.to_string())? {
        Verdict::Welcome { .. } => Ok(stream),
        away => Err(format!("{address}: {away}")),
    }
}

/// Writes requests as they come, several at once where several wait.
async fn send(mut stream: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Request>) -> String {
    while let Some(mut next) = queue.recv().await {
        let written = async {
            loop {
                let Request { head, tail, room } = next;
                stream.write_all(&head).await?;
                stream.write_all(&tail).await?;
                drop(room);
                match queue.try_recv() {
                    Ok(more) => next = more,
                    Err(_) => return stream.flush().await,
                }
            }
        };
        if let Err(error) = written.await {
            return error.to_string();
        }
    }
    "it is no longer needed".into()
}

async fn receive(
    mut stream: impl AsyncRead + Unpin,
    line: u64,
    heard: &mpsc::Sender<Heard>,
    room: &Arc<Semaphore>,
) -> String {
    let (mut frames, mut permit) = (Frames::default(), None);
    loop {
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    let answer = Heard::Answer { line, frame, room: permit.take() };
                    if heard.send(answer).await.is_err() {
                        return "it is no longer needed".into();
                    }
                }
                Ok(None) => break,
                Err(error) => return error.to_string(),
            }
        }
        let announced = frames.announced().filter(|bytes| *bytes > SMALL_FRAME_BYTES && permit.is_none());
        if let Some(bytes) = announced {
            permit = room.clone().acquire_many_owned(kib(bytes)).await.ok();
        }
        frames.make_room();
        match stream.read_buf(frames.buffer()).await {
            Ok(0) => return "the server closed it".into(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::task::yield_now;

    use super::{super::limits::DIALS_MAX, *};

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_dropped_ends_at_once_also_while_it_is_opened_or_waits_for_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("silent.sock");
        let _silent = UnixListener::bind(&at).unwrap();
        let shared = Arc::new(Shared::new("shop", &[], Arc::default()));
        let (heard, _hears) = mpsc::channel(1);
        let open =
            |number| Line::open(number, Address::Local(at.clone()), shared.clone(), heard.clone(), None);
        let lines: Vec<Line> = (0..3 * DIALS_MAX as u64).map(open).collect();
        // Time passes only while there is nothing else to do.
        while shared.dials.available_permits() > 0 {
            yield_now().await;
        }
        drop(lines);
        for _ in 0..10_000 {
            yield_now().await;
        }
        assert_eq!(Arc::strong_count(&shared), 1, "nothing of them is left");
    }
}
