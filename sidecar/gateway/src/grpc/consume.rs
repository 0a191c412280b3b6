//! A member of a group for as long as its stream lasts: handed out what it has room for, and told what it acknowledged.

use std::future::pending;

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesOrdered};
use sidestream_event::native::{Answer, Member, Refusal, Request};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tonic::{Status, Streaming};

use super::{
    Telling, asked,
    claims::{Ahead, shares, size},
    credit::{Credit, is_nothing},
    proto, refused,
    subscribe::over,
};
use crate::{
    Phase,
    http2::Unread,
    limits::{ACKS_IN_FLIGHT_MAX, ALIVE_EVERY, RECORDS_MAX, STREAMED_BYTES_MAX},
    pulled::Most,
    session::{Session, Work},
};
use proto::consume_request;

pub(super) struct Consumption {
    session: Session,
    requests: Streaming<proto::ConsumeRequest>,
    /// Whether more requests may come.
    is_heard: bool,
    /// How many came.
    asked: u64,
    member: Member,
    /// Whether nothing is to be acknowledged.
    is_automatic: bool,
    credit: Credit,
    ahead: Ahead,
    /// The partitions that it was told are its own.
    partitions: Vec<u32>,
    claiming: Option<(Work, Most)>,
    /// What is acknowledged or given back and not written yet.
    settling: FuturesOrdered<Work>,
    /// What comes while as much is not written as may be.
    unread: Unread,
    settled: u64,
    /// Those of them whose partition was another member's by then.
    late: u64,
    /// When to show that the member is there, where nothing is claimed: one that is silent is taken for gone.
    alive: Interval,
}

impl Consumption {
    /// Waits for what to begin with, and joins.
    pub(super) async fn begin(
        session: Session,
        mut requests: Streaming<proto::ConsumeRequest>,
    ) -> Result<Consumption, Status> {
        let Some(proto::ConsumeRequest { request: Some(consume_request::Request::Begin(begin)) }) =
            requests.message().await?
        else {
            return Err(refused(Refusal::Bad {
                reason: "a member begins with `begin`; send that first".into(),
            }));
        };
        let member = asked::member(begin.member).map_err(refused)?;
        let joining = asked::join(member.clone(), begin.delivery).map_err(refused)?;
        let mut joined = session.answer(joining, Bytes::new()).await.map_err(refused)?;
        session.keep(joined.joined.take());
        let mut alive = interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Consumption {
            session,
            requests,
            is_heard: true,
            asked: 1,
            member,
            is_automatic: begin.delivery == proto::Delivery::Automatic as i32,
            credit: Credit::new(begin.credit),
            ahead: Ahead::default(),
            partitions: Vec::new(),
            claiming: None,
            settling: FuturesOrdered::new(),
            unread: Unread::default(),
            settled: 0,
            late: 0,
            alive,
        })
    }

    /// What was handed out, and how it stands.
    fn told(&mut self, shares: Vec<proto::Share>) -> Result<proto::ConsumeResponse, Refusal> {
        // What is handed out is of an epoch that it was good in.
        let epoch = match shares.last() {
            Some(share) => share.epoch,
            None => self.session.shared.given_epoch(&self.member.dnpipe)?,
        };
        let (settled, late, asked) = (self.settled, self.late, self.asked);
        let partitions = self.ahead.partitions().to_vec();
        self.partitions.clone_from(&partitions);
        Ok(proto::ConsumeResponse { shares, partitions, settled, epoch, asked, late })
    }

    /// Before the end: what was acknowledged as it was claimed, and comes again to nobody, whatever the credit.
    fn acknowledged(&mut self) -> Option<Vec<proto::Share>> {
        let is_left = self.is_automatic && self.ahead.is_good(&self.session, &self.member.dnpipe);
        is_left.then(|| shares(&self.ahead.take(WHOLE)))
    }

    /// Takes in what the caller says; whether that is to be answered at once.
    async fn hear(&mut self, request: Option<consume_request::Request>) -> Result<bool, Refusal> {
        let (member, ranges) = (self.member.clone(), asked::ranges);
        let settling = match request {
            Some(consume_request::Request::Credit(more)) => {
                let is_asked = is_nothing(&more);
                self.credit.grant(more);
                return Ok(is_asked);
            }
            Some(consume_request::Request::Ack(own)) => {
                Request::Ack { member, partition: own.partition, ranges: ranges(own.ranges) }
            }
            Some(consume_request::Request::GiveBack(own)) => {
                Request::Return { member, partition: own.partition, ranges: ranges(own.ranges) }
            }
            Some(consume_request::Request::Begin(_)) | None => {
                let reason =
                    "a member goes on with `credit`, `ack` or `giveBack`; begin another stream for another";
                return Err(Refusal::Bad { reason: reason.into() });
            }
        };
        self.settling.push_back(self.session.ask(settling, Bytes::new()).await);
        Ok(false)
    }
}

impl Telling for Consumption {
    type Answer = proto::ConsumeResponse;

    async fn next(&mut self) -> Result<Option<proto::ConsumeResponse>, Status> {
        let told = self.step().await;
        if told.is_err() {
            // Its records go to others at once. Refused where it is a member no longer.
            let _ = self.leave().await;
        }
        told
    }
}

impl Consumption {
    async fn leave(&mut self) -> Result<(), Refusal> {
        let leaving = Request::Leave { member: self.member.clone() };
        self.session.answer(leaving, Bytes::new()).await.map(drop)
    }

    /// Waits for the next thing to tell.
    async fn step(&mut self) -> Result<Option<proto::ConsumeResponse>, Status> {
        let shared = self.session.shared.clone();
        loop {
            if let Some(most) = self.credit.most() {
                if self.ahead.is_good(&self.session, &self.member.dnpipe) {
                    let shares = shares(&self.ahead.take(most));
                    let (records, bytes) = size(&shares);
                    self.credit.spend(records, bytes);
                    return self.told(shares).map(Some).map_err(refused);
                }
                self.ahead.unreadable().map_err(refused)?;
                // What is claimed as the process stops may not be told any more.
                if self.claiming.is_none() && shared.is_open() {
                    let request = Ahead::request(self.member.clone(), most, asked::long());
                    self.claiming = Some((self.session.ask(request, Bytes::new()).await, most));
                }
            }
            let goes_on = self.is_heard || (self.is_automatic && self.claiming.is_some());
            if !goes_on && let Some(shares) = self.acknowledged() {
                return self.told(shares).map(Some).map_err(refused);
            }
            if !goes_on && self.settling.is_empty() {
                self.ahead.unreadable().map_err(refused)?;
                self.leave().await.map_err(refused)?;
                return Ok(None);
            }
            let is_full = self.settling.len() >= ACKS_IN_FLIGHT_MAX;
            self.unread.note(is_full && self.is_heard, &shared.unread).map_err(refused)?;
            let may_hear = self.is_heard && !is_full;
            tokio::select! {
                came = self.requests.message(), if may_hear => match came? {
                    None => self.is_heard = false,
                    Some(proto::ConsumeRequest { request }) => {
                        self.asked += 1;
                        if self.hear(request).await.map_err(refused)? {
                            return self.told(Vec::new()).map(Some).map_err(refused);
                        }
                    }
                },
                done = settled(&mut self.settling), if !self.settling.is_empty() => {
                    match done {
                        Answer::Done => self.settled += 1,
                        // It is handled by who has the partition now; the member goes on with those that it has.
                        Answer::Refused(Refusal::Bad { .. }) => {
                            (self.settled, self.late) = (self.settled + 1, self.late + 1);
                        }
                        Answer::Refused(refusal) => return Err(refused(refusal)),
                        _ => return Err(refused(Refusal::Failed { reason: "it is not known what became of it".into() })),
                    }
                    // Told at once where no more is about to be.
                    if self.settling.is_empty() {
                        return self.told(Vec::new()).map(Some).map_err(refused);
                    }
                }
                (done, _) = over(&mut self.claiming), if self.claiming.is_some() => {
                    self.claiming = None;
                    if let Answer::Refused(refusal) = done.answer {
                        return Err(refused(refusal));
                    }
                    self.ahead.fill(done).map_err(refused)?;
                    if self.ahead.partitions() != self.partitions && self.ahead.is_empty() {
                        return self.told(Vec::new()).map(Some).map_err(refused);
                    }
                }
                _ = self.alive.tick(), if self.claiming.is_none() => {
                    let none = Most { records: 0, bytes: 0 };
                    let showing = self.session.ask(Ahead::request(self.member.clone(), none, 0), Bytes::new()).await;
                    self.claiming = Some((showing, none));
                }
                () = shared.reached(Phase::Closing) => {
                    if let Some(shares) = self.acknowledged() {
                        return self.told(shares).map(Some).map_err(refused);
                    }
                    return Err(refused(Refusal::Stopping));
                }
            }
        }
    }
}

/// As much as a message may have.
const WHOLE: Most = Most { records: RECORDS_MAX, bytes: STREAMED_BYTES_MAX };

async fn settled(settling: &mut FuturesOrdered<Work>) -> Answer {
    match settling.next().await {
        Some(done) => done.answer,
        None => pending().await,
    }
}
