//! One question, one answer.

use std::{collections::hash_map::Entry, sync::Arc};

use bytes::Bytes;
use sidestream_event::native::{Answer, Refusal, Request};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Door, PushRequest, asked,
    claims::{Ahead, Untaken, shares},
    proto, publish, told,
};
use crate::{
    groups::key,
    pulled::{Most, pulled},
    session::{Done, going_on},
};

impl Door {
    pub(super) async fn on_list(&self, asked: proto::ListRequest) -> Result<proto::ListResponse, Refusal> {
        let request = match asked.behind.as_str() {
            "" => Request::List,
            behind => Request::ListBehind { dnpipe: asked::name(behind)? },
        };
        let done = self.done(request).await?;
        let Answer::Dnpipes(found) = done.answer else { return Err(done.unexpected()) };
        Ok(proto::ListResponse { dnpipes: found.into_iter().map(told::dnpipe).collect() })
    }

    pub(super) async fn on_describe(&self, asked: proto::DescribeRequest) -> Result<proto::Dnpipe, Refusal> {
        let done = self.done(Request::Describe { dnpipe: asked::name(&asked.dnpipe)? }).await?;
        let Answer::Dnpipe(found) = done.answer else { return Err(done.unexpected()) };
        Ok(told::dnpipe(found))
    }

    pub(super) async fn on_verify(
        &self,
        asked: proto::VerifyRequest,
    ) -> Result<proto::VerifyResponse, Refusal> {
        let dnpipe = asked.dnpipe.map(|name| asked::name(&name)).transpose()?;
        let done = self.done(Request::Verify { dnpipe }).await?;
        let Answer::Verified(found) = done.answer else { return Err(done.unexpected()) };
        Ok(told::verified(found))
    }

    pub(super) async fn on_push(&self, asked: PushRequest) -> Result<proto::PushResponse, Refusal> {
        let (partition, request, batch) = asked.read(&self.session)?;
        publish::pushed(partition, self.session.answer(request, batch).await?)
    }

    /// With the turn to have the records in memory.
    pub(super) async fn on_pull(
        &self,
        asked: proto::PullRequest,
    ) -> Result<(proto::PullResponse, Option<OwnedSemaphorePermit>), Refusal> {
        let proto::PullRequest { dnpipe, partition, from, max_records, max_bytes, wait_millis } = asked;
        let most = asked::most(max_records, max_bytes);
        let request = asked::pull(asked::name(&dnpipe)?, partition, asked::place(from), most, wait_millis);
        let mut done = self.done(request).await?;
        let Answer::Pulled { from, next, epoch, first, end } = done.answer else {
            return Err(done.unexpected());
        };
        let (records, next) = pulled(&done.tail, from..next, most, told::record)?;
        Ok((proto::PullResponse { records, next, epoch, first, end }, done.turn.take()))
    }

    pub(super) async fn on_reset(&self, asked: proto::ResetRequest) -> Result<proto::ResetResponse, Refusal> {
        let done = self.done(Request::Reset { dnpipe: asked::name(&asked.dnpipe)? }).await?;
        let Answer::Reset { epoch } = done.answer else { return Err(done.unexpected()) };
        Ok(proto::ResetResponse { epoch })
    }

    pub(super) async fn on_open(&self, asked: proto::OpenRequest) -> Result<proto::OpenResponse, Refusal> {
        let proto::OpenRequest { dnpipe, partition, producer } = asked;
        let done = self.done(Request::Open { dnpipe: asked::name(&dnpipe)?, partition, producer }).await?;
        let Answer::Opened(own) = done.answer else { return Err(done.unexpected()) };
        let (epoch, next_sequence, position) = (own.epoch, own.next_sequence, own.position);
        Ok(proto::OpenResponse { epoch, next_sequence, position })
    }

    pub(super) async fn on_join(&self, asked: proto::JoinRequest) -> Result<proto::JoinResponse, Refusal> {
        let member = asked::member(asked.member)?;
        if asked.delivery == proto::Delivery::Held as i32 {
            // An answer that its caller does not wait for any more would be held for as long as the connection lasts.
            let reason = "records are held for a member of a stream; use `Consume`, or another delivery";
            return Err(Refusal::Bad { reason: reason.into() });
        }
        let (key, request) = (key(&member), asked::join(member, asked.delivery)?);
        let (session, ahead) = (self.session.clone(), self.ahead.clone());
        // To its end, also where the caller leaves: who joined is known then, and what was its that had the place before is gone.
        let running = session.running.clone();
        let joining = going_on(running, async move {
            let mut done = session.answer(request, Bytes::new()).await?;
            session.keep(done.joined.take());
            ahead.lock().await.remove(&key);
            Ok(done)
        });
        let done = joining.await.map_err(|error| Refusal::Failed { reason: error.to_string() }).flatten()?;
        let Answer::Joined { partitions } = done.answer else { return Err(done.unexpected()) };
        Ok(proto::JoinResponse { partitions })
    }

    /// With what is to come again where the answer is not taken.
    pub(super) async fn on_next(
        &self,
        asked: proto::NextRequest,
    ) -> Result<(proto::NextResponse, Untaken), Refusal> {
        let member = asked::member(asked.member)?;
        let most = asked::most(asked.max_records, asked.max_bytes);
        let own = match self.ahead.lock().await.entry(key(&member)) {
            Entry::Occupied(own) => own.get().clone(),
            // Who is no member leaves nothing here.
            Entry::Vacant(_) if !self.session.is_member(&member) => Arc::default(),
            Entry::Vacant(place) => place.insert(Arc::default()).clone(),
        };
        let mut ahead = own.lock().await;
        if ahead.is_good(&self.session, &member.dnpipe) {
            // Asked all the same: it may be a member no longer, or may not pull any more, and else this shows that it is there.
            let none = Most { records: 0, bytes: 0 };
            if let Err(refusal) = self.done(Ahead::request(member.clone(), none, 0)).await {
                self.ahead.lock().await.remove(&key(&member));
                return Err(refusal);
            }
        } else {
            ahead.unreadable()?;
            ahead.fill(self.done(Ahead::request(member, most, asked.wait_millis)).await?)?;
            ahead.unreadable()?;
        }
        let given = ahead.take(most);
        let (shares, partitions) = (shares(&given), ahead.partitions().to_vec());
        Ok((proto::NextResponse { shares, partitions }, Untaken::new(own.clone(), given)))
    }

    pub(super) async fn on_ack(&self, asked: proto::AckRequest) -> Result<proto::AckResponse, Refusal> {
        let (member, ranges) = (asked::member(asked.member)?, asked::ranges(asked.ranges));
        self.nothing(Request::Ack { member, partition: asked.partition, ranges }).await?;
        Ok(proto::AckResponse {})
    }

    pub(super) async fn on_give_back(
        &self,
        asked: proto::GiveBackRequest,
    ) -> Result<proto::GiveBackResponse, Refusal> {
        let (member, ranges) = (asked::member(asked.member)?, asked::ranges(asked.ranges));
        self.nothing(Request::Return { member, partition: asked.partition, ranges }).await?;
        Ok(proto::GiveBackResponse {})
    }

    pub(super) async fn on_leave(&self, asked: proto::LeaveRequest) -> Result<proto::LeaveResponse, Refusal> {
        let member = asked::member(asked.member)?;
        self.ahead.lock().await.remove(&key(&member));
        self.nothing(Request::Leave { member }).await?;
        Ok(proto::LeaveResponse {})
    }

    pub(super) async fn on_groups(
        &self,
        asked: proto::GroupsRequest,
    ) -> Result<proto::GroupsResponse, Refusal> {
        let done = self.done(Request::Groups { dnpipe: asked::name(&asked.dnpipe)? }).await?;
        let Answer::Groups(found) = done.answer else { return Err(done.unexpected()) };
        Ok(proto::GroupsResponse { groups: found.into_iter().map(told::group).collect() })
    }

    pub(super) async fn on_seek(&self, asked: proto::SeekRequest) -> Result<proto::SeekResponse, Refusal> {
        let proto::SeekRequest { dnpipe, group, partition, to } = asked;
        let (dnpipe, to) = (asked::name(&dnpipe)?, asked::place(to));
        self.nothing(Request::Seek { dnpipe, group, partition, to }).await?;
        Ok(proto::SeekResponse {})
    }

    pub(super) async fn on_redrive(
        &self,
        asked: proto::RedriveRequest,
    ) -> Result<proto::RedriveResponse, Refusal> {
        let (dnpipe, group) = (asked::name(&asked.dnpipe)?, asked.group);
        let done = self.done(Request::Redrive { dnpipe, group }).await?;
        let Answer::Redriven { records, gone } = done.answer else { return Err(done.unexpected()) };
        Ok(proto::RedriveResponse { records, gone })
    }

    /// What needs no batch.
    async fn done(&self, request: Request) -> Result<Done, Refusal> {
        self.session.answer(request, Bytes::new()).await
    }

    /// What has no answer but that it is done.
    async fn nothing(&self, request: Request) -> Result<(), Refusal> {
        let done = self.done(request).await?;
        if done.answer == Answer::Done { Ok(()) } else { Err(done.unexpected()) }
    }
}
