//! Pulling as one of a group: the members share the partitions, and the server keeps the cursors.

use std::{collections::VecDeque, ops::Range};

use sidestream_event::native::{Answer, Claimed, DnpipeName, Member, Request};
use sidestream_host::Random;

use crate::{
    Client, ClientError, DataKey, Pulled,
    client::{done, unexpected},
    connection::{Answered, Connection},
    reader::{LONG_POLL, batches, opened},
    record,
};

/// How a member behaves.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Its name, unique in the group; made up by default. Who joins under the same name takes the place of the one before.
    pub member: Option<String>,
    /// Whether a record counts as handled when it is handed out (at most once). `false` by default: the member says so
    /// itself, and what it does not say is delivered again (at least once).
    pub auto_ack: bool,
    /// How much comes with one answer, in bytes; 256 KiB by default.
    pub max_bytes: u32,
    /// How many records come with one answer; 500 by default.
    pub max_records: u32,
    /// The key that records were encrypted with; none by default.
    pub key: Option<DataKey>,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig { member: None, auto_ack: false, max_bytes: 256 << 10, max_records: 500, key: None }
    }
}

/// A member of a group.
pub struct GroupReader {
    client: Client,
    member: Member,
    config: GroupConfig,
    partitions: Vec<u32>,
    ready: VecDeque<Delivery>,
    /// Where it is a member: on another connection it joins again.
    joined: Option<Connection>,
}

/// A record that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The record.
    pub record: Pulled,
    /// How often it was handed out, from 1.
    pub attempt: u32,
}

impl GroupReader {
    pub(crate) async fn join(
        client: Client,
        dnpipe: DnpipeName,
        group: &str,
        config: GroupConfig,
    ) -> Result<GroupReader, ClientError> {
        let made_up = || format!("member-{:016x}", Random::from_entropy().next_u64());
        let name = config.member.clone().unwrap_or_else(made_up);
        let member = Member { dnpipe, group: group.to_owned(), name };
        let (partitions, ready) = (Vec::new(), VecDeque::new());
        let mut reader = GroupReader { client, member, config, partitions, ready, joined: None };
        reader.ask(Request::Ping).await?;
        Ok(reader)
    }

    /// Its name in the group.
    pub fn member(&self) -> &str {
        &self.member.name
    }

    /// The partitions that are its own, as it heard last.
    pub fn partitions(&self) -> &[u32] {
        &self.partitions
    }

    /// From now on no more than `max_records` are handed out at once: who wants a few takes no others from the group, for each
    /// that is handed out counts as a delivery, handled or not. Those that were handed out before stay.
    pub fn claim_at_most(&mut self, max_records: u32) {
        self.config.max_records = max_records;
    }

    /// The next record; waits until there is one. Dropping the future loses nothing that is not delivered again.
    ///
    /// # Errors
    /// [`Refusal::NotMember`](crate::Refusal::NotMember) where another took its place, and those of the connection when
    /// patience has ended.
    pub async fn next(&mut self) -> Result<Delivery, ClientError> {
        loop {
            if let Some(delivery) = self.next_within(LONG_POLL.as_millis() as u32).await? {
                return Ok(delivery);
            }
        }
    }

    /// The next record; none where there is none within `wait_millis` milliseconds.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn next_within(&mut self, wait_millis: u32) -> Result<Option<Delivery>, ClientError> {
        if self.ready.is_empty() {
            let request = Request::Next {
                member: self.member.clone(),
                max_bytes: self.config.max_bytes,
                max_records: self.config.max_records,
                wait_millis,
            };
            let (answer, tail) = self.ask(request).await?;
            match answer {
                Answer::Claimed(claimed) => self.take(claimed, tail)?,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Says that a record was handled. It is durable when this returns.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn ack(&mut self, delivery: &Delivery) -> Result<(), ClientError> {
        let offset = delivery.record.offset;
        self.ack_range(delivery.record.partition, offset..offset + 1).await
    }

    /// Says that records of a partition were handled. It is durable when this returns.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn ack_range(&mut self, partition: u32, offsets: Range<u64>) -> Result<(), ClientError> {
        let ranges = vec![(offsets.start, offsets.end)];
        done(self.ask(Request::Ack { member: self.member.clone(), partition, ranges }).await?.0)
    }

    /// Says that a record could not be handled: it is delivered again, later, to whoever asks.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn give_back(&mut self, delivery: &Delivery) -> Result<(), ClientError> {
        let (partition, offset) = (delivery.record.partition, delivery.record.offset);
        let request =
            Request::Return { member: self.member.clone(), partition, ranges: vec![(offset, offset + 1)] };
        done(self.ask(request).await?.0)
    }

    /// Leaves the group: what is not acknowledged goes to others at once.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn leave(mut self) -> Result<(), ClientError> {
        done(self.ask(Request::Leave { member: self.member.clone() }).await?.0)
    }

    /// Asks as a member: on a new connection it joins first.
    async fn ask(&mut self, request: Request) -> Result<Answered, ClientError> {
        let mut patience = self.client.patience();
        loop {
            match self.try_ask(request.clone()).await {
                Err(error) if error.is_worth_retrying() => patience.wait(error).await?,
                answered => return answered,
            }
        }
    }

    async fn try_ask(&mut self, request: Request) -> Result<Answered, ClientError> {
        let connection = self.client.connection().await?;
        if !self.joined.as_ref().is_some_and(|joined| joined.is_same(&connection)) {
            // What was handed out on the connection before is delivered again, to whomever.
            self.ready.clear();
            let join = Request::Join { member: self.member.clone(), auto_ack: self.config.auto_ack };
            match connection.send(join, sidestream_event::Bytes::new()).await?.answered().await?.0 {
                Answer::Joined { partitions } => self.partitions = partitions,
                other => return Err(unexpected(&other)),
            }
            self.joined = Some(connection.clone());
        }
        connection.send(request, sidestream_event::Bytes::new()).await?.answered().await
    }

    fn take(&mut self, claimed: Claimed, mut tail: sidestream_event::Bytes) -> Result<(), ClientError> {
        self.partitions = claimed.partitions;
        for share in claimed.shares {
            if share.bytes as usize > tail.len() {
                return Err(ClientError::Protocol("a share is longer than what came".into()));
            }
            let mut records: Vec<Pulled> = Vec::new();
            for batch in batches(tail.split_to(share.bytes as usize)) {
                let (header, body) = opened(&batch?, self.config.key.as_ref())?;
                let is_wanted =
                    |offset| share.ranges.iter().any(|(from, to, _)| (*from..*to).contains(&offset));
                record::of_batch(&header, &body, share.partition, is_wanted, &mut records)?;
            }
            for (from, to, attempt) in share.ranges {
                let meant = records.iter().filter(|record| (from..to).contains(&record.offset));
                self.ready.extend(meant.map(|record| Delivery { record: record.clone(), attempt }));
            }
        }
        Ok(())
    }
}
