//! One connection: requests go out in the order they are given, answers come back in any.
//!
//! ```text
//!   send ──▶ calls (bounded) ──▶ writer ══▶ gateway
//!                │ by number                   ║
//!   Answering ◀──┴─── waiting ◀── reader ◀═════╝
//! ```
//!
//! When it ends, every call that waits hears so.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sidestream_event::native::{
    ALPN, Answer, Frames, PREAMBLE_BYTES, Preamble, Request, VERSION_MAX, VERSION_MIN, Verdict, write_frame,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{Address, ClientError};

/// An open connection. Clones are the same one; it ends when the last is dropped.
#[derive(Clone)]
pub(crate) struct Connection {
    calls: mpsc::Sender<Call>,
    ended: Arc<Mutex<Option<ClientError>>>,
}

/// The answer that is to come.
pub(crate) struct Answering {
    answer: oneshot::Receiver<Result<Answered, ClientError>>,
    ended: Arc<Mutex<Option<ClientError>>>,
}

/// An answer, and the record batches that came with it.
pub(crate) type Answered = (Answer, Bytes);

struct Call {
    request: Request,
    tail: Bytes,
    answer: oneshot::Sender<Result<Answered, ClientError>>,
}

type Waiting = Arc<Mutex<HashMap<u32, oneshot::Sender<Result<Answered, ClientError>>>>>;

impl Connection {
    pub(crate) async fn open(address: &Address) -> Result<Connection, ClientError> {
        let silent = || ClientError::Silent { address: address.to_string() };
        timeout(OPENS_WITHIN, Connection::shake_hands(address)).await.map_err(|_| silent())?
    }

    async fn shake_hands(address: &Address) -> Result<Connection, ClientError> {
        let mut stream = address.call(ALPN).await?;
        let own = Preamble { oldest: VERSION_MIN, newest: VERSION_MAX };
        stream.write_all(&own.write()).await.map_err(|error| ClientError::lost(&error))?;
        stream.flush().await.map_err(|error| ClientError::lost(&error))?;
        let mut verdict = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut verdict).await.map_err(|error| ClientError::lost(&error))?;
        match Verdict::read(&verdict).map_err(|error| ClientError::Protocol(error.to_string()))? {
            Verdict::Welcome { .. } => {}
            away => return Err(ClientError::TurnedAway(away)),
        }
        let (calls, queue) = mpsc::channel(CALLS_WAITING_MAX);
        let ended = Arc::<Mutex<Option<ClientError>>>::default();
        let why = ended.clone();
        tokio::spawn(async move {
            let (read, write) = split(stream);
            let waiting = Waiting::default();
            let error = tokio::select! {
                error = write_calls(write, queue, &waiting) => error,
                error = read_answers(read, &waiting) => error,
            };
            // Before those who wait are let go, so that they can say why.
            lock(&why).get_or_insert(error);
            drop(waiting);
        });
        Ok(Connection { calls, ended })
    }

    /// Sends a request. It is on its way, behind those before it, when this returns.
    pub(crate) async fn send(&self, request: Request, tail: Bytes) -> Result<Answering, ClientError> {
        let (answer, receiver) = oneshot::channel();
        let sent = self.calls.send(Call { request, tail, answer }).await;
        sent.map_err(|_| why(&self.ended))?;
        Ok(Answering { answer: receiver, ended: self.ended.clone() })
    }

    pub(crate) fn is_same(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.ended, &other.ended)
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }
}

impl Answering {
    pub(crate) async fn answered(self) -> Result<Answered, ClientError> {
        match self.answer.await {
            Ok(Ok((Answer::Refused(refusal), _))) => Err(refusal.into()),
            Ok(answered) => answered,
            Err(_) => Err(why(&self.ended)),
        }
    }
}

fn why(ended: &Mutex<Option<ClientError>>) -> ClientError {
    lock(ended).clone().unwrap_or_else(|| ClientError::Lost("it was closed".into()))
}

/// Writes calls as they come, several at once where several wait.
async fn write_calls(
    mut stream: impl AsyncWrite + Unpin,
    mut calls: mpsc::Receiver<Call>,
    waiting: &Waiting,
) -> ClientError {
    let (mut out, mut number) = (Vec::new(), 0u32);
    while let Some(mut call) = calls.recv().await {
        loop {
            number = number.wrapping_add(1);
            match write_frame(number, &call.request, call.tail.len(), &mut out) {
                Ok(()) => {
                    lock(waiting).insert(number, call.answer);
                    if let Err(error) = write_tail(&mut stream, &mut out, &call.tail).await {
                        return ClientError::lost(&error);
                    }
                }
                Err(error) => drop(call.answer.send(Err(error.into()))),
            }
            match calls.try_recv() {
                Ok(next) => call = next,
                Err(_) => break,
            }
        }
        let written = async {
            stream.write_all(&out).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            return ClientError::lost(&error);
        }
        out.clear();
    }
    ClientError::Lost("it is no longer needed".into())
}

/// A short tail is copied to go with its neighbours; a long one goes as it is.
async fn write_tail(
    stream: &mut (impl AsyncWrite + Unpin),
    out: &mut Vec<u8>,
    tail: &Bytes,
) -> std::io::Result<()> {
    if tail.len() <= COPIED_BYTES_MAX {
        out.extend_from_slice(tail);
        if out.len() < WRITTEN_BYTES {
            return Ok(());
        }
        stream.write_all(out).await?;
    } else {
        stream.write_all(out).await?;
        stream.write_all(tail).await?;
    }
    out.clear();
    Ok(())
}

async fn read_answers(mut stream: impl AsyncRead + Unpin, waiting: &Waiting) -> ClientError {
    let mut frames = Frames::default();
    loop {
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    let answer = frame.read::<Answer>();
                    let answer = answer.map(|answer| (answer, frame.tail)).map_err(ClientError::from);
                    if let Some(caller) = lock(waiting).remove(&frame.request) {
                        // Who does not wait any more needs no answer.
                        let _ = caller.send(answer);
                    }
                }
                Ok(None) => break,
                Err(error) => return error.into(),
            }
        }
        frames.make_room();
        match stream.read_buf(frames.buffer()).await {
            Ok(0) => return ClientError::Lost("the server closed it".into()),
            Ok(_) => {}
            Err(error) => return ClientError::lost(&error),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const OPENS_WITHIN: Duration = Duration::from_secs(5);
/// Calls that wait to be written.
const CALLS_WAITING_MAX: usize = 64;
/// A tail up to this is cheaper to copy than to write on its own.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// As much is gathered before it is written.
const WRITTEN_BYTES: usize = 256 << 10;
