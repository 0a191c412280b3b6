//! The body of a request of gRPC on its way in: how long a message is, is looked at as soon as its length is there; one that is
//! longer than it may be is refused, and a large one waits for room before anything is made for it, where there is room for what
//! comes of it meanwhile. A call of one message has to
//! come to its end in time, and has no second one: nothing is done of it before, and its room is nobody else's meanwhile.
//!
//! ```text
//!   message := compressed u8, length u32 big endian, bytes        (gRPC over HTTP/2, "Length-Prefixed-Message")
//! ```

use std::{
    collections::VecDeque,
    future::ready,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::{
    Request,
    body::{Frame, Incoming},
};
use sidestream_event::native::Refusal;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::Status;

use super::Unread;
use crate::{
    Shared, grpc,
    limits::{MESSAGE_BYTES_MAX, PUSHED_BYTES_MAX, SMALL_MESSAGE_BYTES},
};

/// The room that the large messages of a request have, by the number of the message. It is among the request's extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<Mutex<VecDeque<(u64, OwnedSemaphorePermit)>>>);

impl Room {
    /// Of a message and those before it: free when it is dropped.
    pub(crate) fn take(&self, message: u64) -> Option<OwnedSemaphorePermit> {
        let (mut held, mut taken) = (self.lock(), None);
        while held.front().is_some_and(|(number, _)| *number <= message) {
            taken = held.pop_front().map(|(_, permit)| permit);
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, OwnedSemaphorePermit)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after the body of a request, where it is of gRPC.
pub(super) fn guarded(request: Request<Incoming>, shared: &Shared) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    if !grpc::is_for(head.uri.path()) {
        // The body of any other is read within the bounds of its own.
        return Request::from_parts(head, Body::new(body));
    }
    let room = Room::default();
    head.extensions.insert(room.clone());
    // What is no push is small, and read into something of its size.
    let (max, all) = match grpc::is_push(head.uri.path()) {
        true => (PUSHED_BYTES_MAX, Some(shared.room.clone())),
        false => (MESSAGE_BYTES_MAX, None),
    };
    let (unread, all_unread) = (Unread::default(), shared.unread.clone());
    let within = shared.limits.frame;
    let bounded = Bounded {
        body,
        max,
        all,
        room,
        is_stream: grpc::is_stream(head.uri.path()),
        messages: 0,
        at: At::Prefix(Vec::new()),
        held: Bytes::new(),
        prefix: Bytes::new(),
        waiting: None,
        unread,
        all_unread,
        within,
        // A stream of pushes may be there for those that are to come.
        deadline: (!grpc::is_stream_of_pushes(head.uri.path())).then(|| Box::pin(sleep(within))),
    };
    Request::from_parts(head, Body::new(bounded))
}

type Waiting = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

struct Bounded {
    body: Incoming,
    /// The longest message.
    max: usize,
    /// Of all connections; none where nothing is to be waited for.
    all: Option<Arc<Semaphore>>,
    room: Room,
    /// Whether any number of messages may come.
    is_stream: bool,
    /// Messages of which the length is known.
    messages: u64,
    at: At,
    /// What came and was not looked at.
    held: Bytes,
    /// The prefix of a message, to be given on when that has its room.
    prefix: Bytes,
    waiting: Option<Waiting>,
    /// What comes while it waits.
    unread: Unread,
    /// Of all connections.
    all_unread: Arc<Semaphore>,
    within: Duration,
    /// When the message that has begun, or that a call begins with, is to be there; of a call of one message, its end too.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Where the bytes that come next belong.
enum At {
    /// The prefix of a message, as far as it has come.
    Prefix(Vec<u8>),
    /// So many bytes of a message are still to come.
    Message(usize),
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                // Nothing more is read meanwhile, so the caller's window closes.
                let permit = std::task::ready!(waiting.as_mut().poll(context));
                this.room.lock().extend(permit.map(|permit| (this.messages - 1, permit)));
                (this.waiting, this.unread) = (None, Unread::default());
                this.deadline = Some(Box::pin(sleep(this.within)));
            }
            if !this.prefix.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.prefix)))));
            }
            if !this.held.is_empty() {
                match this.look() {
                    Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Ok(None) => continue,
                    Err(refusal) => return Poll::Ready(Some(Err(grpc::refused(refusal)))),
                }
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => this.held = bytes,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Some(Err(Status::from_error(Box::new(error)))));
                }
                Poll::Ready(None) => {
                    let refused = |reason: &str| grpc::refused(Refusal::Bad { reason: reason.into() });
                    let wrong = match &this.at {
                        At::Prefix(prefix) if prefix.is_empty() => {
                            let is_missing = this.messages == 0 && !this.is_stream;
                            is_missing.then_some("a call of this method has one message; send it")
                        }
                        _ => Some("the message is cut off; say its length before it, and send all of it"),
                    };
                    return Poll::Ready(wrong.map(|reason| Err(refused(reason))));
                }
                Poll::Pending => {
                    let Some(deadline) = &mut this.deadline else { return Poll::Pending };
                    std::task::ready!(deadline.as_mut().poll(context));
                    return Poll::Ready(Some(Err(grpc::too_slow())));
                }
            }
        }
    }
}

impl Bounded {
    /// What of the held bytes are of a message; none where they are of a prefix.
    fn look(&mut self) -> Result<Option<Bytes>, Refusal> {
        match &mut self.at {
            At::Message(left) => {
                let count = self.held.len().min(*left);
                *left -= count;
                if *left == 0 {
                    self.at = At::Prefix(Vec::new());
                    self.is_whole();
                }
                Ok(Some(self.held.split_to(count)))
            }
            At::Prefix(_) if self.messages > 0 && !self.is_stream => Err(Refusal::Bad {
                reason: "a call of this method has one message; make another call".into(),
            }),
            At::Prefix(prefix) => {
                if self.deadline.is_none() {
                    self.deadline = Some(Box::pin(sleep(self.within)));
                }
                let count = self.held.len().min(PREFIX_BYTES - prefix.len());
                prefix.extend_from_slice(&self.held.split_to(count));
                let Some(&[_, a, b, c, d]) = prefix.first_chunk() else { return Ok(None) };
                let (prefix, bytes) = (std::mem::take(prefix), u32::from_be_bytes([a, b, c, d]) as usize);
                if bytes > self.max {
                    return Err(Refusal::TooLarge { bytes: bytes as u64, max: self.max as u64 });
                }
                self.messages += 1;
                self.at = match bytes {
                    0 => At::Prefix(Vec::new()),
                    bytes => At::Message(bytes),
                };
                if bytes == 0 {
                    self.is_whole();
                }
                self.prefix = prefix.into();
                let Some(all) = self.all.clone().filter(|_| bytes > SMALL_MESSAGE_BYTES) else {
                    return Ok(None);
                };
                let kib = bytes.div_ceil(1024) as u32;
                // Nobody goes past those who wait already: then there is none.
                let waiting: Waiting = match all.clone().try_acquire_many_owned(kib) {
                    Ok(room) => Box::pin(ready(Some(room))),
                    Err(_) => {
                        self.unread.note(true, &self.all_unread)?;
                        Box::pin(async move { all.acquire_many_owned(kib).await.ok() })
                    }
                };
                self.waiting = Some(waiting);
                Ok(None)
            }
        }
    }

    /// A message is there. Of a stream, the next one may take its time.
    fn is_whole(&mut self) {
        if self.is_stream {
            self.deadline = None;
        }
    }
}

const PREFIX_BYTES: usize = 5;
