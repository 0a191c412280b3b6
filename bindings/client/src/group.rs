//! Pulling as one of a group: the members share the partitions, and the server keeps the cursors.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use sidestream_event::native::{Answer, Claimed, DnpipeName, HANDED_OUT_WITHIN, Member, Refusal, Request};
use sidestream_host::{Moment, Random};
use tokio::sync::Mutex;

use crate::{
    Client, ClientError, DataKey, Pulled,
    client::{done, unexpected},
    connection::{Answered, Connection},
    reader::{LONG_POLL, batches, epoch_of},
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
    /// Whether what is handed out stays with this member until it says so, or is gone: for who works long on records, and
    /// acknowledges in about the order they came in. `false` by default: after half a minute it goes to others. Not with
    /// `auto_ack`.
    pub holds: bool,
    /// How much comes with one answer, in bytes; 256 KiB by default.
    pub max_bytes: u32,
    /// How many records come with one answer; 500 by default.
    pub max_records: u32,
    /// The key that records were encrypted with; none by default.
    pub key: Option<DataKey>,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            member: None,
            auto_ack: false,
            holds: false,
            max_bytes: 256 << 10,
            max_records: 500,
            key: None,
        }
    }
}

/// A member of a group.
pub struct GroupReader {
    seat: Seat,
    config: GroupConfig,
    partitions: Vec<u32>,
    ready: VecDeque<Delivery>,
    /// What came with them and cannot be read.
    unread: VecDeque<ClientError>,
    /// Of how many times it joined `ready` is: what was handed out before is delivered again, to whomever.
    joined: u64,
    /// When it asked what last said that `ready` was not reset.
    asked: Option<Moment>,
}

/// Acknowledges for a member of a group, also while that one waits for records. Clones are the same.
#[derive(Clone)]
pub struct Acknowledger {
    seat: Seat,
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
        let is_made_up = config.member.is_none();
        let made_up = || format!("member-{:016x}", Random::from_entropy().next_u64());
        let name = config.member.clone().unwrap_or_else(made_up);
        let member = Member { dnpipe, group: group.to_owned(), name };
        let (auto_ack, holds, place) = (config.auto_ack, config.holds, Arc::default());
        let seat = Seat { client, member, is_made_up, auto_ack, holds, place };
        let mut reader = GroupReader {
            seat,
            config,
            partitions: Vec::new(),
            ready: VecDeque::new(),
            unread: VecDeque::new(),
            joined: 0,
            asked: None,
        };
        reader.ask(Request::Ping).await?;
        reader.partitions = reader.seat.place.lock().await.partitions.clone();
        Ok(reader)
    }

    /// Whoever acknowledges for it.
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger { seat: self.seat.clone() }
    }

    /// Its name in the group.
    pub fn member(&self) -> &str {
        &self.seat.member.name
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

    /// The next record; waits until there is one. Where the future is dropped, what was handed out to it comes again after half a
    /// minute; to who [`holds`](GroupConfig::holds) what it gets when it leaves, and with
    /// [`auto_ack`](GroupConfig::auto_ack) never: there let it come to its end.
    ///
    /// # Errors
    /// [`Refusal::NotMember`](crate::Refusal::NotMember) where another took its place, and those of the connection when
    /// patience has ended. [`ClientError::Unreadable`] for records that cannot be decrypted or taken apart here: they are out
    /// with this member, to be acknowledged or given back, and the next call goes on with others.
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
        if !self.ready.is_empty() && !self.is_fresh() {
            self.look().await?;
        }
        if self.ready.is_empty() && self.unread.is_empty() {
            let asked = self.seat.client.clock().now();
            let request = Request::Next {
                member: self.seat.member.clone(),
                max_bytes: self.config.max_bytes,
                max_records: self.config.max_records,
                wait_millis,
            };
            let (answer, tail) = self.ask(request).await?;
            match answer {
                Answer::Claimed(claimed) => self.take(claimed, tail)?,
                other => return Err(unexpected(&other)),
            }
            self.asked = Some(asked);
            // It waited for long.
            if !self.ready.is_empty() && !self.is_fresh() {
                self.look().await?;
            }
        }
        match self.ready.pop_front() {
            Some(delivery) => Ok(Some(delivery)),
            None => self.unread.pop_front().map_or(Ok(None), Err),
        }
    }

    /// A record that has come with those before it, if one has; none where it came so long ago that the server is to be asked
    /// first whether it was reset.
    pub fn ready(&mut self) -> Option<Delivery> {
        if self.is_fresh() { self.ready.pop_front() } else { None }
    }

    /// How many records have come and are not handed out.
    pub fn ahead(&self) -> usize {
        self.ready.len()
    }

    /// Whether what has come may be handed out: see `reader`.
    fn is_fresh(&self) -> bool {
        let now = self.seat.client.clock().now();
        self.asked.is_some_and(|asked| now.since(asked) < HANDED_OUT_WITHIN)
    }

    /// Asks which epoch it is, and throws away what is older.
    async fn look(&mut self) -> Result<(), ClientError> {
        let (asked, dnpipe) = (self.seat.client.clock().now(), self.seat.member.dnpipe.clone());
        let partition = self.ready.front().map_or(0, |first| first.record.partition);
        let epoch = epoch_of(&self.seat.client, dnpipe, partition).await?;
        self.ready.retain(|delivery| delivery.record.epoch >= epoch);
        self.asked = Some(asked);
        Ok(())
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
        done(self.ask(Request::Ack { member: self.seat.member.clone(), partition, ranges }).await?.0)
    }

    /// Says that a record could not be handled: it is delivered again, later, to whoever asks.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn give_back(&mut self, delivery: &Delivery) -> Result<(), ClientError> {
        let (partition, offset) = (delivery.record.partition, delivery.record.offset);
        let request = Request::Return {
            member: self.seat.member.clone(),
            partition,
            ranges: vec![(offset, offset + 1)],
        };
        done(self.ask(request).await?.0)
    }

    /// Leaves the group: what is not acknowledged goes to others at once.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn leave(mut self) -> Result<(), ClientError> {
        done(self.ask(Request::Leave { member: self.seat.member.clone() }).await?.0)
    }

    async fn ask(&mut self, request: Request) -> Result<Answered, ClientError> {
        let (joined, answered) = self.seat.ask(request).await?;
        if std::mem::replace(&mut self.joined, joined) != joined {
            self.ready.clear();
            self.unread.clear();
        }
        Ok(answered)
    }

    fn take(&mut self, claimed: Claimed, mut tail: sidestream_event::Bytes) -> Result<(), ClientError> {
        self.partitions = claimed.partitions;
        for share in claimed.shares {
            if share.bytes as usize > tail.len() {
                return Err(ClientError::Protocol("a share is longer than what came".into()));
            }
            let mut records: Vec<Pulled> = Vec::new();
            for batch in batches(tail.split_to(share.bytes as usize)) {
                let (header, batch) = batch.map_err(|error| ClientError::Protocol(error.to_string()))?;
                let is_wanted =
                    |offset| share.ranges.iter().any(|(from, to, _)| (*from..*to).contains(&offset));
                match record::of_batch(&batch, self.config.key.as_ref(), share.partition, is_wanted) {
                    Ok(read) => records.extend(read),
                    Err(reason) => {
                        let (partition, reason) = (share.partition, Box::new(reason));
                        let offsets = header.base_offset..header.next_offset();
                        self.unread.push_back(ClientError::Unreadable { partition, offsets, reason });
                    }
                }
            }
            for (from, to, attempt) in share.ranges {
                let meant = records.iter().filter(|record| (from..to).contains(&record.offset));
                self.ready.extend(meant.map(|record| Delivery { record: record.clone(), attempt }));
            }
        }
        Ok(())
    }
}

impl Acknowledger {
    /// Says that records of a partition were handled. It is durable when this returns.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn ack(&self, partition: u32, offsets: Range<u64>) -> Result<(), ClientError> {
        let ranges = vec![(offsets.start, offsets.end)];
        self.ask(Request::Ack { member: self.seat.member.clone(), partition, ranges }).await.and_then(done)
    }

    /// Says that records of a partition could not be handled: they are delivered again, later.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn give_back(&self, partition: u32, offsets: Range<u64>) -> Result<(), ClientError> {
        let ranges = vec![(offsets.start, offsets.end)];
        self.ask(Request::Return { member: self.seat.member.clone(), partition, ranges }).await.and_then(done)
    }

    /// Shows that the member is there: one that is silent for half a minute is taken for gone.
    ///
    /// # Errors
    /// As [`GroupReader::next`].
    pub async fn stay(&self) -> Result<(), ClientError> {
        let member = self.seat.member.clone();
        self.ask(Request::Next { member, max_bytes: 0, max_records: 0, wait_millis: 0 }).await.map(drop)
    }

    /// Ends the membership: what is not acknowledged goes to others at once.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn leave(self) -> Result<(), ClientError> {
        self.ask(Request::Leave { member: self.seat.member.clone() }).await.and_then(done)
    }

    async fn ask(&self, request: Request) -> Result<Answer, ClientError> {
        Ok(self.seat.ask(request).await?.1.0)
    }
}

/// A member's place at the server, which those who ask for it share.
#[derive(Clone)]
struct Seat {
    client: Client,
    member: Member,
    /// Whether nobody else can have its name.
    is_made_up: bool,
    auto_ack: bool,
    holds: bool,
    place: Arc<Mutex<Place>>,
}

#[derive(Default)]
struct Place {
    /// Where it is a member: on another connection it joins again.
    connection: Option<Connection>,
    /// How many times it joined.
    joined: u64,
    /// What it was given when it did.
    partitions: Vec<u32>,
}

impl Seat {
    /// Asks as a member: on a new connection it joins first. Says how many times it has.
    async fn ask(&self, request: Request) -> Result<(u64, Answered), ClientError> {
        let mut patience = self.client.patience();
        loop {
            match self.try_ask(request.clone()).await {
                Err(error) if error.is_worth_retrying() => patience.wait(error).await?,
                Err(error @ ClientError::Refused(Refusal::NotMember { .. })) if self.is_made_up => {
                    // Taken for gone while it was silent: it comes back.
                    self.place.lock().await.connection = None;
                    patience.wait(error).await?;
                }
                answered => return answered,
            }
        }
    }

    async fn try_ask(&self, request: Request) -> Result<(u64, Answered), ClientError> {
        let connection = self.client.connection(Some(&self.member.dnpipe)).await?;
        let joined = {
            let mut place = self.place.lock().await;
            if !place.connection.as_ref().is_some_and(|own| own.is_same(&connection)) {
                let answer =
                    self.client.send_on(&connection, self.join(), sidestream_event::Bytes::new()).await?;
                match answer.answered().await?.0 {
                    Answer::Joined { partitions } => place.partitions = partitions,
                    other => return Err(unexpected(&other)),
                }
                place.connection = Some(connection.clone());
                place.joined += 1;
            }
            place.joined
        };
        let answer = self.client.send_on(&connection, request, sidestream_event::Bytes::new()).await?;
        Ok((joined, answer.answered().await?))
    }

    fn join(&self) -> Request {
        match self.holds {
            true => Request::JoinToHold { member: self.member.clone() },
            false => Request::Join { member: self.member.clone(), auto_ack: self.auto_ack },
        }
    }
}
