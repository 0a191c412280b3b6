//! A stream of records: pulled as the caller has room for them, and nothing ahead of that.

use bytes::Bytes;
use sidestream_event::native::{Answer, DnpipeName, From, Refusal};
use tonic::{Status, Streaming};

use super::{Telling, asked, claims::stored_bytes, credit::Credit, credit::is_nothing, proto, refused, told};
use crate::{
    Phase,
    caller::Verb,
    pulled::{Most, is_gone, pulled},
    session::{Done, Session, Work},
};

pub(super) struct Subscription {
    session: Session,
    requests: Streaming<proto::SubscribeRequest>,
    /// Whether more requests may come.
    is_heard: bool,
    /// How many came.
    asked: u64,
    dnpipe: DnpipeName,
    partition: u32,
    from: From,
    /// Whether it was at a place before: that may vanish in a reset.
    is_back: bool,
    epoch: u32,
    credit: Credit,
    /// What is pulled now, and how much of it may be sent.
    pulling: Option<(Work, Most)>,
}

impl Subscription {
    /// Waits for what to begin with.
    pub(super) async fn begin(
        session: Session,
        mut requests: Streaming<proto::SubscribeRequest>,
    ) -> Result<Subscription, Status> {
        let Some(proto::SubscribeRequest { request: Some(proto::subscribe_request::Request::Begin(begin)) }) =
            requests.message().await?
        else {
            return Err(refused(Refusal::Bad {
                reason: "a subscription begins with `begin`; send that first".into(),
            }));
        };
        let dnpipe = asked::name(&begin.dnpipe).map_err(refused)?;
        Ok(Subscription {
            epoch: session.shared.broker.epoch(&dnpipe).unwrap_or_default(),
            session,
            requests,
            is_heard: true,
            asked: 1,
            dnpipe,
            partition: begin.partition,
            from: asked::place(begin.from),
            is_back: false,
            credit: Credit::new(begin.credit),
            pulling: None,
        })
    }

    /// Of a pull that is over; none where there is nothing to say of it.
    fn told(&mut self, done: Done, most: Most) -> Result<Option<proto::SubscribeResponse>, Refusal> {
        let (records, next, epoch) = match done {
            Done { answer: Answer::Pulled { from, next, epoch, .. }, tail, .. } => {
                let (records, next) = pulled(&tail, from..next, most, told::record)?;
                (records, next, epoch)
            }
            Done { answer: Answer::Refused(Refusal::OutOfRange { first, .. }), .. }
                if is_gone(self.is_back, self.from, first) =>
            {
                // Nothing is said of an epoch that is not known: there is a pull to come.
                self.from = From::Offset(first);
                (Vec::new(), first, self.epoch)
            }
            Done { answer: Answer::Refused(refusal), .. } => return Err(refusal),
            done => return Err(done.unexpected()),
        };
        let was = (self.from, self.epoch);
        (self.from, self.epoch, self.is_back) = (From::Offset(next), epoch, true);
        if records.is_empty() && was == (self.from, epoch) {
            return Ok(None);
        }
        self.credit.spend(records.len() as u64, records.iter().map(stored_bytes).sum());
        Ok(Some(proto::SubscribeResponse { records, next, epoch, asked: self.asked }))
    }

    /// The epoch, to who asks for nothing else.
    fn told_epoch(&mut self) -> Result<proto::SubscribeResponse, Refusal> {
        let Session { shared, caller, .. } = &self.session;
        let checked = caller.check(&shared.broker, &self.dnpipe, Verb::Pull);
        checked.map_err(|refusal| shared.refusal_of(&self.dnpipe, refusal))?;
        self.epoch = shared.given_epoch(&self.dnpipe)?;
        let next = if let From::Offset(next) = self.from { next } else { 0 };
        Ok(proto::SubscribeResponse { records: Vec::new(), next, epoch: self.epoch, asked: self.asked })
    }
}

impl Telling for Subscription {
    type Answer = proto::SubscribeResponse;

    async fn next(&mut self) -> Result<Option<proto::SubscribeResponse>, Status> {
        let shared = self.session.shared.clone();
        loop {
            if let (None, Some(most)) = (&self.pulling, self.credit.most()) {
                let request =
                    asked::pull(self.dnpipe.clone(), self.partition, self.from, most, asked::long());
                self.pulling = Some((self.session.ask(request, Bytes::new()).await, most));
            }
            if self.pulling.is_none() && !self.is_heard {
                return Ok(None);
            }
            tokio::select! {
                came = self.requests.message(), if self.is_heard => match came? {
                    None => self.is_heard = false,
                    Some(proto::SubscribeRequest {
                        request: Some(proto::subscribe_request::Request::Credit(more)),
                    }) => {
                        self.asked += 1;
                        let is_asked = is_nothing(&more);
                        self.credit.grant(more);
                        if is_asked {
                            return self.told_epoch().map(Some).map_err(refused);
                        }
                    }
                    Some(_) => {
                        let reason = "a subscription goes on with `credit`; begin another stream for another place";
                        return Err(refused(Refusal::Bad { reason: reason.into() }));
                    }
                },
                (done, most) = over(&mut self.pulling), if self.pulling.is_some() => {
                    self.pulling = None;
                    if let Some(told) = self.told(done, most).map_err(refused)? {
                        return Ok(Some(told));
                    }
                }
                () = shared.reached(Phase::Closing) => return Err(refused(Refusal::Stopping)),
            }
        }
    }
}

/// Waits for what is under way.
pub(super) async fn over(work: &mut Option<(Work, Most)>) -> (Done, Most) {
    match work {
        Some((work, most)) => (work.await, *most),
        None => std::future::pending().await,
    }
}
