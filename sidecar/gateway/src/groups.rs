//! Requests of groups. A membership is the connection's, or that of a stream of it: who comes back on another one joins again.

use std::time::Duration;

use sidestream_broker::{GroupError, JoinOptions, Membership};
use sidestream_event::native::{
    Answer, Claimed, DnpipeName, GroupView, Member, MemberView, Refusal, Request, Share,
};

use crate::{
    answers::{head, limits, now, wait},
    caller::Verb,
    limits::MEMBERS_MAX,
    refusals::of_group,
    session::{Done, MemberKey, Session, Work, never_held_up},
};

impl Session {
    /// Begins a request of a group.
    pub(crate) fn begin_group(&self, request: Request) -> Result<Work, Refusal> {
        match request {
            Request::Join { member, auto_ack } => {
                self.join(member, JoinOptions { auto_ack, ..JoinOptions::default() })
            }
            Request::JoinToHold { member } => {
                self.join(member, JoinOptions { lease: Duration::MAX, ..JoinOptions::default() })
            }
            Request::Next { member, max_bytes, max_records, wait_millis } => {
                let (membership, broker) = (self.membership(&member)?, self.broker().clone());
                let (limits, wait) = (limits(max_bytes, max_records), wait(wait_millis));
                let claims = self.claims.clone();
                Ok(Box::pin(async move {
                    let turn = claims.acquire_owned().await.ok();
                    let next = async move { broker.next(&membership, limits, wait).await };
                    match never_held_up(next).await {
                        Ok(found) => Done { turn, ..claimed(found) },
                        Err(error) => Done::refused(of_group(error)),
                    }
                }))
            }
            Request::Ack { member, partition, ranges } => {
                let (membership, broker) = (self.membership(&member)?, self.broker().clone());
                let ranges: Vec<_> = ranges.into_iter().map(|(from, to)| from..to).collect();
                Ok(self.to_its_end(async move { done(broker.ack(&membership, partition, &ranges).await) }))
            }
            Request::Return { member, partition, ranges } => {
                let (membership, broker) = (self.membership(&member)?, self.broker().clone());
                let ranges: Vec<_> = ranges.into_iter().map(|(from, to)| from..to).collect();
                Ok(self
                    .to_its_end(async move { done(broker.give_back(&membership, partition, &ranges).await) }))
            }
            Request::Leave { member } => {
                let Some(membership) = self.members().remove(&key(&member)) else {
                    return Ok(now(Ok(Answer::Done)));
                };
                let broker = self.broker().clone();
                Ok(self.to_its_end(async move { done(broker.leave(membership).await) }))
            }
            Request::Groups { dnpipe } => {
                let broker = self.pulling(&dnpipe)?;
                Ok(Box::pin(async move {
                    match broker.groups(&dnpipe).await {
                        Ok(groups) => Done::of(Answer::Groups(groups.into_iter().map(view).collect())),
                        Err(error) => Done::refused(of_group(error)),
                    }
                }))
            }
            Request::Seek { dnpipe, group, partition, to } => {
                let broker = self.pulling(&dnpipe)?;
                Ok(self.to_its_end(async move { done(broker.seek(&dnpipe, &group, partition, to).await) }))
            }
            Request::Redrive { dnpipe, group } => {
                let broker = self.pulling(&dnpipe)?;
                Ok(self.to_its_end(async move {
                    let redriven = broker.redrive(&dnpipe, &group).await.map_err(of_group)?;
                    Ok(Answer::Redriven { records: redriven.records, gone: redriven.gone })
                }))
            }
            _ => Err(Refusal::Bad {
                reason: "this request is not known here; use programs of one release".into(),
            }),
        }
    }

    /// Remembers who became a member by a request.
    pub(crate) fn keep(&self, joined: Option<(Member, Membership)>) {
        if let Some((member, membership)) = joined {
            self.members().insert(key(&member), membership);
        }
    }

    /// Whether it became one by a request, as far as is known here.
    pub(crate) fn is_member(&self, member: &Member) -> bool {
        self.members().contains_key(&key(member))
    }

    fn join(&self, member: Member, options: JoinOptions) -> Result<Work, Refusal> {
        let broker = self.pulling(&member.dnpipe)?;
        if self.members().len() >= MEMBERS_MAX {
            let reason = format!(
                "there are {MEMBERS_MAX} members on this connection, and no more may be; use another"
            );
            return Err(Refusal::Bad { reason });
        }
        Ok(Box::pin(async move {
            match broker.join(&member.dnpipe, &member.group, &member.name, options).await {
                Ok(membership) => {
                    let answer = Answer::Joined { partitions: membership.partitions().to_vec() };
                    Done { joined: Some((member, membership)), ..Done::of(answer) }
                }
                Err(error) => Done::refused(of_group(error)),
            }
        }))
    }

    fn membership(&self, member: &Member) -> Result<Membership, Refusal> {
        self.pulling(&member.dnpipe)?;
        let known = self.members().get(&key(member)).cloned();
        known.ok_or_else(|| Refusal::NotMember { group: member.group.clone() })
    }

    fn pulling(&self, dnpipe: &DnpipeName) -> Result<sidestream_broker::Broker, Refusal> {
        self.caller.check(self.broker(), dnpipe, Verb::Pull)?;
        Ok(self.broker().clone())
    }
}

pub(crate) fn key(member: &Member) -> MemberKey {
    (member.dnpipe.to_string(), member.group.clone(), member.name.clone())
}

fn done(outcome: Result<(), GroupError>) -> Result<Answer, Refusal> {
    outcome.map(|()| Answer::Done).map_err(of_group)
}

fn claimed(found: sidestream_broker::Claimed) -> Done {
    let (mut shares, mut tail) = (Vec::new(), Vec::new());
    for delivery in found.deliveries {
        let bytes = delivery.batches.iter().map(|batch| batch.header.length).sum();
        let (partition, epoch, ranges) = (delivery.partition, delivery.epoch, delivery.ranges);
        shares.push(Share { partition, epoch, bytes, ranges });
        tail.extend(delivery.batches.into_iter().flat_map(|batch| [head(&batch.header), batch.body]));
    }
    Done { tail, ..Done::of(Answer::Claimed(Claimed { shares, partitions: found.partitions })) }
}

fn view(group: sidestream_broker::GroupInfo) -> GroupView {
    let member =
        |own: sidestream_broker::MemberInfo| MemberView { name: own.name, partitions: own.partitions };
    GroupView {
        name: group.spec.name,
        members: group.members.into_iter().map(member).collect(),
        cursors: group.cursors,
        lag_records: group.lag_records,
        lag_seconds: group.lag_seconds,
        dead_letter: group.spec.dead_letter,
    }
}
