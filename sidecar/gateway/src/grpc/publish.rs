//! A stream of pushes: each has its place when it is begun, one behind the other, and is answered in its turn.

use std::{pin::Pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesOrdered};
use sidestream_event::native::{Answer, Refusal};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tonic::{Status, Streaming};

use super::{
    PushRequest, Telling, proto, refused,
    refused::{idle, in_words},
};
use crate::{
    Phase,
    http2::{Room, Unread},
    limits::PUBLISHED_IN_FLIGHT_MAX,
    session::{Done, Session},
};

pub(super) struct Publishing {
    session: Session,
    pushes: Streaming<PushRequest>,
    room: Room,
    /// Pushes that have come.
    count: u64,
    /// Those that are not answered.
    open: FuturesOrdered<Open>,
    /// What comes while as many are open as may be.
    unread: Unread,
    end: Option<End>,
}

type Open = Pin<Box<dyn Future<Output = Result<proto::PushResponse, Refusal>> + Send>>;

/// Why nothing more is read.
enum End {
    /// The caller has no more.
    Caller,
    Refused(Status),
}

impl Publishing {
    pub(super) fn new(session: Session, pushes: Streaming<PushRequest>, room: Room) -> Publishing {
        let (open, unread) = (FuturesOrdered::new(), Unread::default());
        Publishing { session, pushes, room, count: 0, open, unread, end: None }
    }

    /// Begins a push, which keeps its room until it is answered.
    async fn begin(session: &Session, push: PushRequest, room: Option<OwnedSemaphorePermit>) -> Open {
        let (partition, request, batch) = match push.read(session) {
            Ok(read) => read,
            Err(refusal) => return Box::pin(std::future::ready(Err(refusal))),
        };
        let work = session.ask(request, batch).await;
        Box::pin(async move {
            let outcome = match work.await {
                Done { answer: Answer::Refused(refusal), .. } => Err(refusal),
                done => pushed(partition, done),
            };
            drop(room);
            outcome
        })
    }
}

impl Telling for Publishing {
    type Answer = proto::PublishResponse;

    async fn next(&mut self) -> Result<Option<proto::PublishResponse>, Status> {
        let shared = self.session.shared.clone();
        loop {
            let is_full = self.open.len() >= PUBLISHED_IN_FLIGHT_MAX;
            if let Err(refusal) = self.unread.note(is_full && self.end.is_none(), &shared.unread) {
                self.end = Some(End::Refused(refused(refusal)));
            }
            let may_read = self.end.is_none() && !is_full;
            let may_idle = if self.open.is_empty() { shared.limits.idle } else { Duration::MAX };
            tokio::select! {
                biased;
                Some(outcome) = self.open.next(), if !self.open.is_empty() => {
                    let outcome = match outcome {
                        Ok(pushed) => proto::publish_response::Outcome::Pushed(pushed),
                        Err(refusal) => proto::publish_response::Outcome::Refused(in_words(refusal)),
                    };
                    return Ok(Some(proto::PublishResponse { outcome: Some(outcome) }));
                }
                () = shared.reached(Phase::Closing), if may_read => {
                    self.end = Some(End::Refused(refused(Refusal::Stopping)));
                }
                came = timeout(may_idle, self.pushes.message()), if may_read => match came {
                    Ok(Ok(Some(push))) => {
                        let room = self.room.take(self.count);
                        self.count += 1;
                        let open = Self::begin(&self.session, push, room).await;
                        self.open.push_back(open);
                    }
                    Ok(Ok(None)) => self.end = Some(End::Caller),
                    Ok(Err(status)) => self.end = Some(End::Refused(status)),
                    Err(_) => self.end = Some(End::Refused(idle())),
                },
                // What was begun is answered first.
                () = std::future::ready(()), if self.end.is_some() && self.open.is_empty() => {
                    return match self.end.take() {
                        Some(End::Refused(status)) => Err(status),
                        _ => Ok(None),
                    };
                }
            }
        }
    }
}

/// What came of a push to a partition.
pub(super) fn pushed(partition: u32, done: Done) -> Result<proto::PushResponse, Refusal> {
    let Answer::Pushed { base_offset, epoch } = done.answer else { return Err(done.unexpected()) };
    let runs = done.tail.first().map(|tail| runs(tail)).unwrap_or_default();
    Ok(proto::PushResponse { partition, offset: base_offset, epoch, runs })
}

/// As they are in the tail of an answer: see [`write_places`](sidestream_event::native::write_places).
fn runs(tail: &[u8]) -> Vec<proto::push_response::Run> {
    let (runs, _) = tail.as_chunks::<12>();
    let run = |run: &[u8; 12]| {
        let [a, b, c, d, e, f, g, h, count @ ..] = *run;
        let (first, count) = (u64::from_le_bytes([a, b, c, d, e, f, g, h]), u32::from_le_bytes(count));
        proto::push_response::Run { first, count }
    };
    runs.iter().map(run).collect()
}
