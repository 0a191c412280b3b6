//! Dnpipes over gRPC: `proto/dnpipes.proto` says what there is. A message becomes a request of [`Session`], which every door has
//! in common, and the answer becomes a message again.
//!
//! ```text
//!   unary ──────────────▶ calls ───────────────────────────┐
//!   publish   pushes ───▶ one behind the other, few open ──┼─▶ session: rights, order, turns ─▶ broker
//!   subscribe credit ───▶ pulls as much as that ───────────┤
//!   consume   credit, ack ▶ claims, acknowledgements ──────┘
//! ```
//!
//! No stream holds more than a message of what it is to send, a member's what it claimed at once, nor reads more than it has begun
//! to do.

mod asked;
mod calls;
mod claims;
mod codec;
mod consume;
mod credit;
mod publish;
mod push;
mod refused;
mod subscribe;
mod told;

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use sidestream_event::native::Refusal;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    http2::{Room, Turn},
    limits::PUSHED_BYTES_MAX,
    session::{MemberKey, Session},
};
use claims::Ahead;
pub(crate) use claims::Untaken;
use proto::dnpipes_server::{Dnpipes, DnpipesServer};
pub(crate) use push::PushRequest;
pub(crate) use refused::{refused, too_slow};

/// The messages of the gRPC door, its service, and a client of it for whoever has a channel.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated; the fields are described in dnpipes.proto"
)]
pub mod proto {
    pub use super::push::{PushRequest, Records};

    tonic::include_proto!("sidestream.dnpipe.v1");
}

/// What there is, for programs that make clients.
pub(crate) const DESCRIBED: &str = include_str!("../proto/dnpipes.proto");

/// The paths of the service.
pub(crate) const PATHS: &str = "/sidestream.dnpipe.v1.Dnpipes/{*method}";

/// Whether something at this path is asked over gRPC.
pub(crate) fn is_for(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|path| path.starts_with(proto::dnpipes_server::SERVICE_NAME))
}

/// Whether it pushes.
pub(crate) fn is_push(path: &str) -> bool {
    path.ends_with("/Push") || is_stream_of_pushes(path)
}

/// Whether it pushes what is to come.
pub(crate) fn is_stream_of_pushes(path: &str) -> bool {
    path.ends_with("/Publish")
}

/// Whether any number of messages may be said in one call.
pub(crate) fn is_stream(path: &str) -> bool {
    ["/Publish", "/Subscribe", "/Consume"].iter().any(|own| path.ends_with(own))
}

/// The service, to who asks as `session`.
pub(crate) fn service(session: Arc<Session>) -> DnpipesServer<Door> {
    DnpipesServer::new(Door { session, ahead: Arc::default() }).max_decoding_message_size(PUSHED_BYTES_MAX)
}

/// What is asked on one connection.
pub(crate) struct Door {
    session: Arc<Session>,
    /// What members claimed and did not get yet.
    ahead: Arc<Mutex<HashMap<MemberKey, Arc<Mutex<Ahead>>>>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream of answers: what it is about to say is made when the one before was taken.
trait Telling: Send + 'static {
    /// What it says.
    type Answer: 'static;

    /// The next answer; none at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Answer>, Status>> + Send;
}

fn answers<T: Telling>(telling: T) -> Response<Answers<T::Answer>> {
    let told = stream::unfold(Some(telling), |telling| async {
        let mut telling = telling?;
        match telling.next().await {
            Ok(Some(answer)) => Some((Ok(answer), Some(telling))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    });
    Response::new(Box::pin(told))
}

#[tonic::async_trait]
impl Dnpipes for Door {
    type PublishStream = Answers<proto::PublishResponse>;
    type SubscribeStream = Answers<proto::SubscribeResponse>;
    type ConsumeStream = Answers<proto::ConsumeResponse>;

    async fn list(&self, asked: Request<proto::ListRequest>) -> Told<proto::ListResponse> {
        told(self.on_list(asked.into_inner()).await)
    }

    async fn describe(&self, asked: Request<proto::DescribeRequest>) -> Told<proto::Dnpipe> {
        told(self.on_describe(asked.into_inner()).await)
    }

    async fn verify(&self, asked: Request<proto::VerifyRequest>) -> Told<proto::VerifyResponse> {
        told(self.on_verify(asked.into_inner()).await)
    }

    async fn push(&self, asked: Request<PushRequest>) -> Told<proto::PushResponse> {
        let _room = asked.extensions().get::<Room>().and_then(|room| room.take(0));
        told(self.on_push(asked.into_inner()).await)
    }

    async fn pull(&self, asked: Request<proto::PullRequest>) -> Told<proto::PullResponse> {
        let (pulled, turn) = self.on_pull(asked.into_inner()).await.map_err(refused)?;
        let mut answer = Response::new(pulled);
        turn.map(|turn| answer.extensions_mut().insert(Turn::new(turn)));
        Ok(answer)
    }

    async fn reset(&self, asked: Request<proto::ResetRequest>) -> Told<proto::ResetResponse> {
        told(self.on_reset(asked.into_inner()).await)
    }

    async fn open(&self, asked: Request<proto::OpenRequest>) -> Told<proto::OpenResponse> {
        told(self.on_open(asked.into_inner()).await)
    }

    async fn publish(&self, asked: Request<Streaming<PushRequest>>) -> Told<Self::PublishStream> {
        let room = asked.extensions().get::<Room>().cloned().unwrap_or_default();
        Ok(answers(publish::Publishing::new(self.session.of_stream(), asked.into_inner(), room)))
    }

    async fn subscribe(
        &self,
        asked: Request<Streaming<proto::SubscribeRequest>>,
    ) -> Told<Self::SubscribeStream> {
        Ok(answers(subscribe::Subscription::begin(self.session.of_stream(), asked.into_inner()).await?))
    }

    async fn consume(&self, asked: Request<Streaming<proto::ConsumeRequest>>) -> Told<Self::ConsumeStream> {
        Ok(answers(consume::Consumption::begin(self.session.of_stream(), asked.into_inner()).await?))
    }

    async fn join(&self, asked: Request<proto::JoinRequest>) -> Told<proto::JoinResponse> {
        told(self.on_join(asked.into_inner()).await)
    }

    async fn next(&self, asked: Request<proto::NextRequest>) -> Told<proto::NextResponse> {
        let (answer, untaken) = self.on_next(asked.into_inner()).await.map_err(refused)?;
        let mut answer = Response::new(answer);
        answer.extensions_mut().insert(untaken);
        Ok(answer)
    }

    async fn ack(&self, asked: Request<proto::AckRequest>) -> Told<proto::AckResponse> {
        told(self.on_ack(asked.into_inner()).await)
    }

    async fn give_back(&self, asked: Request<proto::GiveBackRequest>) -> Told<proto::GiveBackResponse> {
        told(self.on_give_back(asked.into_inner()).await)
    }

    async fn leave(&self, asked: Request<proto::LeaveRequest>) -> Told<proto::LeaveResponse> {
        told(self.on_leave(asked.into_inner()).await)
    }

    async fn groups(&self, asked: Request<proto::GroupsRequest>) -> Told<proto::GroupsResponse> {
        told(self.on_groups(asked.into_inner()).await)
    }

    async fn seek(&self, asked: Request<proto::SeekRequest>) -> Told<proto::SeekResponse> {
        told(self.on_seek(asked.into_inner()).await)
    }

    async fn redrive(&self, asked: Request<proto::RedriveRequest>) -> Told<proto::RedriveResponse> {
        told(self.on_redrive(asked.into_inner()).await)
    }
}

type Told<T> = Result<Response<T>, Status>;

fn told<T>(outcome: Result<T, Refusal>) -> Told<T> {
    outcome.map(Response::new).map_err(refused)
}
