//! Participants that speak gRPC.

use std::{collections::HashMap, future::Future, ops::Range, path::PathBuf, time::Duration};

use sidestream_conformance as suite;
use sidestream_conformance::{From, Given, Push, Pushed, Refused};
use sidestream_event::record::MESSAGE_ID;
use sidestream_gateway::proto::{self, place::At, publish_response::Outcome};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Speaks, full};
use crate::dial::{self, Dnpipes, why};

/// Somebody who uses the dnpipes over a connection of his own.
#[derive(Clone)]
pub(crate) struct Participant {
    client: Dnpipes,
    /// Pushes, to be sent in this order.
    pushes: mpsc::Sender<(proto::PushRequest, Told)>,
}

type Told = oneshot::Sender<Result<Pushed, Refused>>;

impl Speaks for Participant {
    async fn at(socket: PathBuf) -> Self {
        let client = dial::local(socket).await;
        let (pushes, queue) = mpsc::channel(1024);
        tokio::spawn(publish(client.clone(), queue));
        Self { client, pushes }
    }
}

/// Sends pushes on one stream; they are answered in their order.
async fn publish(mut client: Dnpipes, mut queue: mpsc::Receiver<(proto::PushRequest, Told)>) {
    let (sent, stream) = mpsc::channel(16);
    let (waits, mut waiting) = mpsc::channel::<Told>(1024);
    tokio::spawn(async move {
        while let Some((push, told)) = queue.recv().await {
            // Who does not hear of it any more is told that nobody answers.
            let _ = waits.send(told).await;
            let _ = sent.send(push).await;
        }
    });
    let Ok(answers) = client.publish(ReceiverStream::new(stream)).await else { return };
    let mut answers = answers.into_inner();
    while let (Ok(Some(answer)), Some(told)) = (answers.message().await, waiting.recv().await) {
        let outcome = match answer.outcome {
            Some(Outcome::Pushed(pushed)) => Ok(Pushed { offset: pushed.offset, epoch: pushed.epoch }),
            Some(Outcome::Refused(refused)) => {
                Err(in_words(&refused.reason, &refused.facts, &refused.message))
            }
            None => Err(Refused::Other("no outcome".into())),
        };
        let _ = told.send(outcome);
    }
}

fn request(push: Push) -> proto::PushRequest {
    let record = |(at, value): (usize, &String)| proto::Record {
        value: value.clone().into(),
        key: None,
        time: Some(1_000 + at as i64),
        headers: match push.message_id.as_ref().filter(|_| at == 0) {
            Some(id) => vec![proto::Header { name: MESSAGE_ID.into(), value: id.clone().into() }],
            None => Vec::new(),
        },
    };
    let producer = |(id, epoch, sequence)| proto::Producer { id, epoch, sequence, position: 0 };
    proto::PushRequest {
        dnpipe: full(&push.dnpipe),
        partition: Some(push.partition),
        records: push.values.iter().enumerate().map(record).collect(),
        if_epoch: push.only_if.epoch,
        if_next: push.only_if.next_offset,
        producer: push.producer.map(producer),
    }
}

impl suite::Client for Participant {
    type Member = GroupMember;

    fn push(&self, push: Push) -> impl Future<Output = Result<Pushed, Refused>> + Send + 'static {
        let (told, answer) = oneshot::channel();
        // It has its place when this returns.
        let queued =
            self.pushes.try_send((request(push), told)).map_err(|error| Refused::Other(error.to_string()));
        async move {
            queued?;
            answer.await.unwrap_or_else(|error| Err(Refused::Other(error.to_string())))
        }
    }

    async fn pull(
        &self,
        dnpipe: &str,
        partition: u32,
        from: From,
        records_max: u64,
        wait: Duration,
    ) -> Result<suite::Pulled, Refused> {
        let request = proto::PullRequest {
            dnpipe: full(dnpipe),
            partition,
            from: Some(place(from)),
            max_records: Some(u32::try_from(records_max).unwrap_or(u32::MAX)),
            max_bytes: None,
            wait_millis: wait.as_millis() as u32,
        };
        let pulled = self.client.clone().pull(request).await.map_err(refused)?.into_inner();
        let record = |stored: proto::StoredRecord| (stored.offset, text(stored));
        let records = pulled.records.into_iter().map(record).collect();
        Ok(suite::Pulled { records, next: pulled.next, epoch: pulled.epoch })
    }

    async fn reset(&self, dnpipe: &str) -> Result<u32, Refused> {
        let request = proto::ResetRequest { dnpipe: full(dnpipe) };
        Ok(self.client.clone().reset(request).await.map_err(refused)?.into_inner().epoch)
    }

    async fn join(
        &self,
        dnpipe: &str,
        group: &str,
        member: &str,
        auto_ack: bool,
    ) -> Result<GroupMember, Refused> {
        let member = proto::Member { dnpipe: full(dnpipe), group: group.into(), name: member.into() };
        let delivery = if auto_ack { proto::Delivery::Automatic } else { proto::Delivery::Acknowledged };
        let request = proto::JoinRequest { member: Some(member.clone()), delivery: delivery.into() };
        let mut client = self.client.clone();
        client.join(request).await.map_err(refused)?;
        Ok(GroupMember { client, member })
    }

    async fn redrive(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        let request = proto::RedriveRequest { dnpipe: full(dnpipe), group: group.into() };
        let redriven = self.client.clone().redrive(request).await.map_err(refused)?.into_inner();
        assert_eq!(redriven.gone, 0);
        Ok(redriven.records)
    }

    async fn seek(&self, dnpipe: &str, group: &str, to: From) -> Result<(), Refused> {
        let (dnpipe, group) = (full(dnpipe), group.into());
        let request = proto::SeekRequest { dnpipe, group, partition: None, to: Some(place(to)) };
        self.client.clone().seek(request).await.map_err(refused)?;
        Ok(())
    }

    async fn lag(&self, dnpipe: &str, group: &str) -> Result<u64, Refused> {
        let request = proto::GroupsRequest { dnpipe: full(dnpipe) };
        let groups = self.client.clone().groups(request).await.map_err(refused)?.into_inner().groups;
        let own = groups.into_iter().find(|own| own.name == group);
        own.map(|own| own.lag_records).ok_or_else(|| Refused::Other("there is no such group".into()))
    }
}

/// A member of a group, for as long as its connection is there.
pub(crate) struct GroupMember {
    client: Dnpipes,
    member: proto::Member,
}

impl suite::Member for GroupMember {
    async fn next(&self, records_max: u64, wait: Duration) -> Result<Vec<Given>, Refused> {
        let request = proto::NextRequest {
            member: Some(self.member.clone()),
            max_records: Some(u32::try_from(records_max).unwrap_or(u32::MAX)),
            max_bytes: None,
            wait_millis: wait.as_millis() as u32,
        };
        let shares = self.client.clone().next(request).await.map_err(refused)?.into_inner().shares;
        let of_share = |share: proto::Share| {
            let partition = share.partition;
            share.records.into_iter().map(move |stored| Given {
                partition,
                offset: stored.offset,
                delivery: stored.delivery,
                value: text(stored),
            })
        };
        Ok(shares.into_iter().flat_map(of_share).collect())
    }

    async fn ack(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        let (member, ranges) = (Some(self.member.clone()), vec![range(offsets)]);
        self.client.clone().ack(proto::AckRequest { member, partition, ranges }).await.map_err(refused)?;
        Ok(())
    }

    async fn give_back(&self, partition: u32, offsets: Range<u64>) -> Result<(), Refused> {
        let (member, ranges) = (Some(self.member.clone()), vec![range(offsets)]);
        let request = proto::GiveBackRequest { member, partition, ranges };
        self.client.clone().give_back(request).await.map_err(refused)?;
        Ok(())
    }

    async fn leave(self) -> Result<(), Refused> {
        let request = proto::LeaveRequest { member: Some(self.member.clone()) };
        self.client.clone().leave(request).await.map_err(refused)?;
        Ok(())
    }
}

fn range(offsets: Range<u64>) -> proto::Range {
    proto::Range { from: offsets.start, to: offsets.end }
}

fn place(from: From) -> proto::Place {
    let at = match from {
        From::Offset(offset) => At::Offset(offset),
        From::Time(time) => At::Time(time),
        From::First(count) => At::First(count),
        From::Last(count) => At::Last(count),
    };
    proto::Place { at: Some(at) }
}

fn text(stored: proto::StoredRecord) -> String {
    String::from_utf8(stored.record.unwrap().value.to_vec()).unwrap()
}

fn refused(status: Status) -> Refused {
    // What no refusal of ours is, such as a connection that broke, has no details.
    if status.details().is_empty() {
        return Refused::Other(status.to_string());
    }
    let told = why(&status);
    in_words(&told.reason, &told.facts, status.message())
}

fn in_words(reason: &str, facts: &HashMap<String, String>, message: &str) -> Refused {
    let fact = |name: &str| facts[name].parse::<u64>().unwrap();
    match reason {
        "UNKNOWN_DNPIPE" => Refused::Unknown,
        "WRONG_EPOCH" => Refused::WrongEpoch(fact("current") as u32),
        "WRONG_OFFSET" => Refused::WrongOffset(fact("next")),
        "OUT_OF_RANGE" => Refused::OutOfRange(fact("first"), fact("end")),
        "OUT_OF_SEQUENCE" => Refused::OutOfSequence(fact("expected")),
        "FENCED" => Refused::Fenced,
        "NOT_MEMBER" => Refused::NotMember,
        _ => Refused::Other(message.to_owned()),
    }
}
