//! An answer on its way to its caller: it is given in pieces, each when the one before may be written, so that it is known how
//! far the caller has come; a turn that it has is free for others when all of it is taken.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use super::calls::Call;
use crate::{grpc::Untaken, limits::PIECE_BYTES};

/// A turn to have records in memory, of an answer that has it among its extensions.
#[derive(Clone)]
pub(crate) struct Turn(
    #[allow(dead_code, reason = "it is held, and given back when it is dropped")] Arc<OwnedSemaphorePermit>,
);

impl Turn {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Turn {
        Turn(Arc::new(permit))
    }
}

/// The body of an answer.
pub(crate) struct Outgoing {
    body: Body,
    /// What of a frame is not given yet.
    rest: Bytes,
    call: Call,
    _turn: Option<Turn>,
    untaken: Option<Untaken>,
}

pub(super) fn guarded(answer: Response, call: Call) -> hyper::Response<Outgoing> {
    let (mut head, body) = answer.into_parts();
    let (turn, untaken) = (head.extensions.remove(), head.extensions.remove());
    hyper::Response::from_parts(head, Outgoing { body, rest: Bytes::new(), call, _turn: turn, untaken })
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    // What says how it went is the last of it.
                    Err(frame) => {
                        self.untaken.iter().for_each(Untaken::is_taken);
                        return Poll::Ready(Some(Ok(frame)));
                    }
                },
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => {
                    self.call.took();
                    return Poll::Pending;
                }
            }
        }
        let count = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(count);
        self.call.gave();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
