//! What is asked on a connection, whichever language it speaks, and one that speaks the native one: requests are read and begun
//! in their order, and answered as they are done.
//!
//! ```text
//!   frames ──▶ begin, in order ──▶ open work ──▶ answers (few) ──▶ writer
//!     ▲                               │
//!     └── not while too much is open ◀┘
//! ```
//!
//! Pushes take their place in a partition when they are begun, so pipelined pushes keep their order. Whoever does not read its
//! answers stops this loop, and after a while its connection.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use sidestream_broker::Membership;
use sidestream_event::native::{Answer, Frame, Frames, Member, Refusal, Request, write_frame};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Caller, Phase, Shared,
    limits::{
        ANSWERS_WAITING, CLAIMS_IN_FLIGHT_MAX, COMES_BACK_WITHIN, IN_FLIGHT_MAX, PULLED_WAITING,
        SMALL_FRAME_BYTES,
    },
    refusals::of_no_frame,
};

/// Who asks on a connection, or a stream of one, and what came of it so far.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caller: Caller,
    members: Mutex<Members>,
    /// A permit for each pull whose records are in memory.
    pub(crate) turns: Arc<Semaphore>,
    /// A permit for each request for records of a group.
    pub(crate) claims: Arc<Semaphore>,
    /// A permit for each request that is done to its end. It is that of the connection, also for streams of it.
    pub(crate) running: Arc<Semaphore>,
}

type Members = HashMap<MemberKey, Membership>;

/// Dnpipe, group and name of a member.
pub(crate) type MemberKey = (String, String, String);

/// A request that is being done.
pub(crate) type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What came of a request.
pub(crate) struct Done {
    pub(crate) answer: Answer,
    pub(crate) tail: Vec<Bytes>,
    /// Who became a member by it.
    pub(crate) joined: Option<(Member, Membership)>,
    /// What others may have when this is written.
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

struct Outgoing {
    request: u32,
    done: Done,
    /// The room that the request took is free when it is answered.
    _room: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Nothing was asked yet.
    pub(crate) fn new(shared: &Arc<Shared>, caller: &Caller) -> Session {
        Session {
            shared: shared.clone(),
            caller: caller.clone(),
            members: Mutex::default(),
            turns: Arc::new(Semaphore::new(PULLED_WAITING)),
            claims: Arc::new(Semaphore::new(CLAIMS_IN_FLIGHT_MAX)),
            running: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
        }
    }

    /// For a stream of the connection: what it does takes no turns of others, and its members leave with it.
    pub(crate) fn of_stream(&self) -> Session {
        let mut own = Session::new(&self.shared, &self.caller);
        own.running = self.running.clone();
        own
    }

    pub(crate) fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a request to its end.
    pub(crate) async fn answer(&self, request: Request, batch: Bytes) -> Result<Done, Refusal> {
        match self.ask(request, batch).await.await {
            Done { answer: Answer::Refused(refusal), .. } => Err(refusal),
            done => Ok(done),
        }
    }

    /// Does something to its end even where the connection that asked for it ends before, or its call does.
    pub(crate) fn to_its_end(
        &self,
        work: impl Future<Output = Result<Answer, Refusal>> + Send + 'static,
    ) -> Work {
        let running = self.running.clone();
        Box::pin(async move {
            let refused = |error: tokio::task::JoinError| Refusal::Failed { reason: error.to_string() };
            let answer = going_on(running, work).await.map_err(refused).flatten();
            answer.map_or_else(Done::refused, Done::of)
        })
    }
}

/// Does something to its end, whoever waits for it, when it has its permit. Who does not wait for that has begun nothing: else
/// calls that are cancelled would leave behind as many as their caller likes.
pub(crate) async fn going_on<T: Send + 'static>(
    running: Arc<Semaphore>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    let permit = running.acquire_owned().await.ok();
    let own = tokio::spawn(async move {
        let outcome = work.await;
        drop(permit);
        outcome
    });
    own.await
}

/// Who hung up at the local socket has ended, or comes back at once: as another member, where it does. Over a network the line
/// may have broken, and the member is missed when it has been silent for long.
impl Drop for Session {
    fn drop(&mut self) {
        let members = std::mem::take(&mut *self.members());
        if members.is_empty() || self.caller != Caller::Local || !self.shared.is_open() {
            return;
        }
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sleep(COMES_BACK_WITHIN) => {}
                () = shared.reached(Phase::Closing) => return,
            }
            for membership in members.into_values() {
                // Refused where it is another's by now.
                let _ = shared.broker.leave(membership).await;
            }
        });
    }
}

impl Done {
    pub(crate) fn of(answer: Answer) -> Done {
        Done { answer, tail: Vec::new(), joined: None, turn: None }
    }

    pub(crate) fn refused(refusal: Refusal) -> Done {
        Done::of(Answer::Refused(refusal))
    }

    /// For who cannot make anything of it.
    pub(crate) fn unexpected(&self) -> Refusal {
        Refusal::Bad {
            reason: "the answer is of another kind than the request; use programs of one release".into(),
        }
    }
}

/// Does something that takes a permit of the disk, which all connections share: it goes on and gives the permit back also while
/// the answers of this connection are not read, and ends with whoever waits for it.
pub(crate) async fn never_held_up<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let mut own = JoinSet::new();
    own.spawn(work);
    match own.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and with it whoever waits here.
        _ => std::future::pending().await,
    }
}

/// Serves a connection to its end, and says why it ended.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    caller: &Caller,
) -> String {
    let (read, write) = split(stream);
    let (answers, queue) = mpsc::channel(ANSWERS_WAITING);
    let session = Session::new(shared, caller);
    let reading = read_requests(session, read, answers);
    let writing = write_answers(shared, write, queue);
    tokio::pin!(reading, writing);
    tokio::select! {
        // What was answered before the end is still written.
        reason = &mut reading => { writing.await; reason }
        reason = &mut writing => reason,
    }
}

async fn read_requests(
    session: Session,
    mut stream: impl AsyncRead + Unpin,
    answers: mpsc::Sender<Outgoing>,
) -> String {
    let shared = &session.shared;
    let limits = &shared.limits;
    let mut frames = Frames::default();
    let mut open = FuturesUnordered::new();
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut deadline = Box::pin(sleep(limits.idle));
    // Waited for all along: each wait that begins or ends takes a lock.
    let closing = shared.reached(Phase::Closing);
    tokio::pin!(closing);
    let mut is_closing = false;
    loop {
        while open.len() < IN_FLIGHT_MAX && !is_closing {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    let room = room.take();
                    let Frame { request, .. } = frame;
                    let work = session.begin(frame).await;
                    open.push(async move { Outgoing { request, done: work.await, _room: room } });
                    deadline.set(sleep(limits.frame));
                }
                Ok(None) => break,
                Err(error) => {
                    let reason = error.to_string();
                    let (request, refusal) = of_no_frame(&mut frames, error);
                    // Who is not there any more is not told.
                    let _ =
                        answers.send(Outgoing { request, done: Done::refused(refusal), _room: None }).await;
                    return reason;
                }
            }
        }
        if is_closing && open.is_empty() {
            return "the process is about to end".into();
        }
        let announced = frames.announced().filter(|bytes| *bytes > SMALL_FRAME_BYTES && room.is_none());
        let is_full = open.len() >= IN_FLIGHT_MAX || is_closing;
        let has_time = if frames.is_amid() { announced.is_none() && !is_full } else { open.is_empty() };
        frames.make_room();
        tokio::select! {
            biased;
            Some(outgoing) = open.next(), if !open.is_empty() => {
                let mut outgoing: Outgoing = outgoing;
                session.keep(outgoing.done.joined.take());
                if answers.send(outgoing).await.is_err() {
                    return "nothing can be written".into();
                }
                deadline.set(sleep(if frames.is_amid() { limits.frame } else { limits.idle }));
            }
            () = &mut closing, if !is_closing => is_closing = true,
            permit = shared.room.clone().acquire_many_owned(kib(announced)), if announced.is_some() && !is_full => {
                match permit {
                    Ok(permit) => room = Some(permit),
                    Err(_) => return "the process ends".into(),
                }
                deadline.set(sleep(limits.frame));
            }
            count = stream.read_buf(frames.buffer()), if announced.is_none() && !is_full => match count {
                // Nobody waits for an answer any more; what was pushed goes on to the disk all the same.
                Ok(0) => return "the caller closed it".into(),
                Ok(count) => {
                    if frames.buffer().len() == count {
                        deadline.set(sleep(limits.frame));
                    }
                }
                Err(error) => return error.to_string(),
            },
            () = &mut deadline, if has_time => {
                return if frames.is_amid() { "a frame did not come whole in time" } else { "nothing was asked" }.into();
            }
        }
    }
}

async fn write_answers(
    shared: &Shared,
    mut stream: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Outgoing>,
) -> String {
    let mut out = Vec::new();
    let mut writer = Writer { shared, stream: &mut stream };
    while let Some(mut outgoing) = answers.recv().await {
        loop {
            if let Err(reason) = writer.frame(&outgoing, &mut out).await {
                return reason;
            }
            match answers.try_recv() {
                Ok(next) => outgoing = next,
                Err(_) => break,
            }
        }
        if let Err(reason) = writer.flush(&mut out).await {
            return reason;
        }
    }
    "everything is answered".into()
}

struct Writer<'a, S> {
    shared: &'a Shared,
    stream: &'a mut S,
}

impl<S: AsyncWrite + Unpin> Writer<'_, S> {
    async fn frame(&mut self, outgoing: &Outgoing, out: &mut Vec<u8>) -> Result<(), String> {
        let done = &outgoing.done;
        let bytes = done.tail.iter().map(Bytes::len).sum();
        if let Err(error) = write_frame(outgoing.request, &done.answer, bytes, out) {
            let refused =
                Answer::Refused(Refusal::Bad { reason: format!("the answer does not fit: {error}") });
            return write_frame(outgoing.request, &refused, 0, out).map_err(|error| error.to_string());
        }
        for piece in &done.tail {
            if piece.len() <= COPIED_BYTES_MAX {
                out.extend_from_slice(piece);
            } else {
                self.put(out).await?;
                out.clear();
                self.put(piece).await?;
            }
        }
        if out.len() > WRITTEN_BYTES {
            self.put(out).await?;
            out.clear();
        }
        Ok(())
    }

    async fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        self.put(out).await?;
        out.clear();
        match timeout(self.shared.limits.silence, self.stream.flush()).await {
            Ok(flushed) => flushed.map_err(|error| error.to_string()),
            Err(_) => Err(NOT_READ.into()),
        }
    }

    /// Writes, as long as something of it is taken in time.
    async fn put(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            match timeout(self.shared.limits.silence, self.stream.write(bytes)).await {
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).to_string()),
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(NOT_READ.into()),
            }
        }
        Ok(())
    }
}

/// The KiB of a frame, rounded up.
fn kib(bytes: Option<usize>) -> u32 {
    bytes.unwrap_or_default().div_ceil(1024) as u32
}

const NOT_READ: &str = "its answers were not read in time";
/// A piece up to this is cheaper to copy than to write on its own.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// As much is gathered before it is written.
const WRITTEN_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_does_not_wait_leaves_no_more_behind_than_may_be_open() {
        let (running, begun) = (Arc::new(Semaphore::new(3)), Arc::new(()));
        for _ in 0..10 {
            let held = begun.clone();
            let own = going_on(running.clone(), async move {
                let _held = held;
                pending::<()>().await;
            });
            // It is begun, where it may be, and given up.
            assert!(own.now_or_never().is_none());
        }
        assert_eq!(Arc::strong_count(&begun), 1 + 3);
    }

    #[tokio::test]
    async fn what_has_ended_makes_room_whether_it_was_waited_for_or_not() {
        let running = Arc::new(Semaphore::new(1));
        for round in 0..10 {
            let given_up = going_on(running.clone(), async {});
            drop(given_up.now_or_never());
            assert_eq!(going_on(running.clone(), async move { round }).await.unwrap(), round);
        }
    }
}
