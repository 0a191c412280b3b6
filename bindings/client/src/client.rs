//! The way to a server, or to the servers of a pool: connections, opened when they are needed and opened again when they break.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use sidestream_event::native::{
    Answer, Conditions, DnpipeName, DnpipeView, From, GroupView, Incarnation, MoveAnswer, MoveRequest,
    Request, Verified,
};
use sidestream_host::{Clock, Random};
use tokio::time::sleep;

use crate::{
    Address, ClientError, GroupConfig, GroupReader, Producer, ProducerConfig, Reader, ReaderConfig, Receipt,
    connection::{Answered, Connection},
    owners::{Owners, Routed},
};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How long it goes on trying to reach a server, and to have a push taken that may succeed later; 30 s by default.
    pub patience: Duration,
    /// What time it is, for records that do not say.
    pub clock: Clock,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig { patience: Duration::from_secs(30), clock: Clock::machine() }
    }
}

/// A client of one server, or of the servers of a pool. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    config: ClientConfig,
    owners: Arc<Owners>,
}

impl Client {
    /// A client of the server at `address`. Nothing is opened yet.
    pub fn new(address: Address, config: ClientConfig) -> Client {
        Client { shared: Arc::new(Shared { address, config, owners: Arc::default() }) }
    }

    /// A client of the server that listens at the socket `path` of this machine.
    pub fn local(path: impl Into<PathBuf>) -> Client {
        Client::new(Address::Local(path.into()), ClientConfig::default())
    }

    /// Where its server is.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// What time it is, in nanoseconds since 1970-01-01T00:00:00Z, as this client's records have it.
    pub fn now(&self) -> i64 {
        self.clock().wall_nanos()
    }

    /// The dnpipes that this client may use.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list(&self) -> Result<Vec<DnpipeView>, ClientError> {
        let (mut found, mut request, mut asked) = (Vec::new(), Request::List, None);
        loop {
            match self.ask(request).await? {
                Answer::Dnpipes(more) => found.extend(more),
                other => return Err(unexpected(&other)),
            }
            // An answer holds as many as fit: what is behind the last is asked for until there is nothing.
            let behind = found.last().map(|last: &DnpipeView| last.name.clone());
            match behind {
                Some(dnpipe) if asked.as_ref() != Some(&dnpipe) => {
                    asked = Some(dnpipe.clone());
                    request = Request::ListBehind { dnpipe };
                }
                _ => break,
            }
        }
        let mut all = Vec::with_capacity(found.len());
        for view in found {
            match self.note_owner(&view) {
                false => all.push(view),
                // Its server knows how it is.
                true => match self.describe(&view.name.to_string()).await {
                    Err(ClientError::Refused(crate::Refusal::UnknownDnpipe(_))) => {}
                    described => all.push(described?),
                },
            }
        }
        Ok(all)
    }

    /// One dnpipe as it is.
    ///
    /// # Errors
    /// [`Refusal::UnknownDnpipe`](crate::Refusal::UnknownDnpipe), and those of the connection.
    pub async fn describe(&self, dnpipe: &str) -> Result<DnpipeView, ClientError> {
        let (name, mut patience) = (dnpipe.parse::<DnpipeName>()?, self.patience());
        loop {
            match self.ask(Request::Describe { dnpipe: name.clone() }).await? {
                Answer::Dnpipe(found) if !self.note_owner(&found) => return Ok(found),
                Answer::Dnpipe(found) => {
                    let owner = found.partitions.into_iter().find_map(|own| own.owner);
                    patience.wait(crate::Refusal::NotOwner { owner }.into()).await?;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Whether another server has the dnpipe than the one that described it: that one is asked from now on.
    fn note_owner(&self, view: &DnpipeView) -> bool {
        let owner = view.partitions.iter().find_map(|own| own.owner.as_deref());
        owner.map(|owner| self.shared.owners.note(&view.name, owner)).is_some()
    }

    /// Asks for a step of a move: of the server at this client's address, by another one of its pool.
    ///
    /// # Errors
    /// Why it is refused, and those of the connection: then it may have been done or not.
    pub async fn move_step(&self, request: MoveRequest) -> Result<(MoveAnswer, Bytes), ClientError> {
        match self.try_ask(Request::Move(request)).await? {
            (Answer::Move(answer), tail) => Ok((answer, tail)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Whoever pushes to a dnpipe.
    ///
    /// # Errors
    /// As [`Client::describe`].
    pub async fn producer(&self, dnpipe: &str, config: ProducerConfig) -> Result<Producer, ClientError> {
        Producer::open(self.clone(), self.describe(dnpipe).await?, config)
    }

    /// Pushes a batch that the caller has made and numbered, once: of what comes of it, and whether to push the same again,
    /// the caller judges. It is as durable as the dnpipe says when this returns.
    ///
    /// # Errors
    /// Why it is refused, and those of the connection: then it may be there or not.
    pub async fn push_batch(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        batch: Bytes,
    ) -> Result<Receipt, ClientError> {
        let only_if = Conditions::default();
        let request = Request::Push { dnpipe: dnpipe.clone(), partition, only_if };
        match self.send(request, batch).await?.answered().await?.0 {
            Answer::Pushed { base_offset, epoch } => Ok(Receipt { partition, offset: base_offset, epoch }),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes over a producer of a partition: earlier incarnations of it push nothing more, and what they pushed is in the answer.
    /// For who works from one dnpipe into another, and says in the header of each batch how far he has come.
    ///
    /// # Errors
    /// Those of a dnpipe that is not there or may not be pushed to, and those of the connection.
    pub async fn open_producer(
        &self,
        dnpipe: &DnpipeName,
        partition: u32,
        producer: u64,
    ) -> Result<Incarnation, ClientError> {
        // Opened twice it is the second incarnation that counts, which is the one that is answered for.
        match self.ask(Request::Open { dnpipe: dnpipe.clone(), partition, producer }).await? {
            Answer::Opened(opened) => Ok(opened),
            other => Err(unexpected(&other)),
        }
    }

    /// Whoever pulls from a dnpipe, from a place on.
    ///
    /// # Errors
    /// As [`Client::describe`].
    pub async fn reader(
        &self,
        dnpipe: &str,
        from: From,
        config: ReaderConfig,
    ) -> Result<Reader, ClientError> {
        Reader::open(self.clone(), &self.describe(dnpipe).await?, from, config)
    }

    /// A member of a group.
    ///
    /// # Errors
    /// Those of a dnpipe that is not there or may not be pulled from, and those of the connection.
    pub async fn join(
        &self,
        dnpipe: &str,
        group: &str,
        config: GroupConfig,
    ) -> Result<GroupReader, ClientError> {
        GroupReader::join(self.clone(), dnpipe.parse()?, group, config).await
    }

    /// Removes all records. When this returns, no older one is delivered, and the epoch that it returns has begun.
    ///
    /// # Errors
    /// Those of the dnpipe and of the connection.
    pub async fn reset(&self, dnpipe: &str) -> Result<u32, ClientError> {
        match self.ask_once(Request::Reset { dnpipe: dnpipe.parse()? }).await? {
            Answer::Reset { epoch } => Ok(epoch),
            other => Err(unexpected(&other)),
        }
    }

    /// The groups of a dnpipe.
    ///
    /// # Errors
    /// As [`Client::describe`].
    pub async fn groups(&self, dnpipe: &str) -> Result<Vec<GroupView>, ClientError> {
        match self.ask(Request::Groups { dnpipe: dnpipe.parse()? }).await? {
            Answer::Groups(found) => Ok(found),
            other => Err(unexpected(&other)),
        }
    }

    /// Moves the cursors of a group, of one partition or of all.
    ///
    /// # Errors
    /// A group that is not there, and those of the connection.
    pub async fn seek(
        &self,
        dnpipe: &str,
        group: &str,
        partition: Option<u32>,
        to: From,
    ) -> Result<(), ClientError> {
        let (dnpipe, group) = (dnpipe.parse()?, group.to_owned());
        done(self.ask(Request::Seek { dnpipe, group, partition, to }).await?)
    }

    /// Has the records that became dead letters of a group delivered to it once more. Says how many those are, and how many
    /// are no longer in the dnpipe.
    ///
    /// # Errors
    /// A group that is not there, and those of the connection.
    pub async fn redrive(&self, dnpipe: &str, group: &str) -> Result<(u64, u64), ClientError> {
        let request = Request::Redrive { dnpipe: dnpipe.parse()?, group: group.to_owned() };
        match self.ask_once(request).await? {
            Answer::Redriven { records, gone } => Ok((records, gone)),
            other => Err(unexpected(&other)),
        }
    }

    /// Has every checksum compared, of one dnpipe or of all.
    ///
    /// # Errors
    /// As [`Client::describe`].
    pub async fn verify(&self, dnpipe: Option<&str>) -> Result<Verified, ClientError> {
        let dnpipe = dnpipe.map(str::parse::<DnpipeName>).transpose()?;
        match self.ask_once(Request::Verify { dnpipe }).await? {
            Answer::Verified(found) => Ok(found),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks what may be asked twice, until it is answered or patience ends.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, ClientError> {
        Ok(self.ask_with_tail(request).await?.0)
    }

    pub(crate) async fn ask_with_tail(&self, request: Request) -> Result<Answered, ClientError> {
        let mut patience = self.patience();
        loop {
            match self.try_ask(request.clone()).await {
                Err(error) if error.is_worth_retrying() => patience.wait(error).await?,
                answered => return answered,
            }
        }
    }

    /// Asks what may only be done once: tries again only where it was surely not done.
    pub(crate) async fn ask_once(&self, request: Request) -> Result<Answer, ClientError> {
        let mut patience = self.patience();
        loop {
            match self.try_ask(request.clone()).await {
                Err(error @ ClientError::Lost(_)) => return Err(error),
                Err(error) if error.is_worth_retrying() => patience.wait(error).await?,
                answered => return Ok(answered?.0),
            }
        }
    }

    async fn try_ask(&self, request: Request) -> Result<Answered, ClientError> {
        self.send(request, Bytes::new()).await?.answered().await
    }

    /// Sends a request to whom it is for, on the connection there is, or on a new one.
    pub(crate) async fn send(&self, request: Request, tail: Bytes) -> Result<Routed, ClientError> {
        let connection = self.connection(request.dnpipe()).await?;
        self.send_on(&connection, request, tail).await
    }

    pub(crate) async fn send_on(
        &self,
        connection: &Connection,
        request: Request,
        tail: Bytes,
    ) -> Result<Routed, ClientError> {
        self.shared.owners.send(connection, request, tail).await
    }

    /// The connection to whoever has a dnpipe, as far as that is known: the one there is, or a new one.
    pub(crate) async fn connection(&self, dnpipe: Option<&DnpipeName>) -> Result<Connection, ClientError> {
        self.shared.owners.connection(&self.shared.address, dnpipe).await
    }

    pub(crate) fn patience(&self) -> Patience {
        Patience::of(self.shared.config.patience)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.shared.config.clock
    }
}

/// How long to go on trying, and how long to wait between tries: twice as long each time, with jitter.
pub(crate) struct Patience {
    is_waiting: bool,
    left: Duration,
    next: Duration,
    random: Random,
}

impl Patience {
    fn of(left: Duration) -> Patience {
        Patience { is_waiting: false, left, next: FIRST_WAIT, random: Random::from_entropy() }
    }

    /// Waits before the next try, or gives the error back where patience has ended.
    pub(crate) async fn wait(&mut self, error: ClientError) -> Result<(), ClientError> {
        let wait = self.next_wait().ok_or(error)?;
        sleep(wait).await;
        Ok(())
    }

    /// How long to wait before the next try, which has not come until [`Patience::end_wait`].
    pub(crate) fn begin_wait(&mut self) -> Option<Duration> {
        let wait = self.next_wait();
        self.is_waiting = wait.is_some();
        wait
    }

    pub(crate) fn end_wait(&mut self) {
        self.is_waiting = false;
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// How long to wait before the next try; none where patience has ended.
    fn next_wait(&mut self) -> Option<Duration> {
        if self.left.is_zero() {
            return None;
        }
        let wait = self.next.mul_f64(0.5 + self.random.next_f64() / 2.0).min(self.left);
        self.left -= wait;
        self.next = (self.next * 2).min(LONGEST_WAIT);
        Some(wait)
    }
}

pub(crate) fn done(answer: Answer) -> Result<(), ClientError> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

pub(crate) fn unexpected(answer: &Answer) -> ClientError {
    let words = format!("{answer:?}");
    let kind = words.split([' ', '(', '{']).next().unwrap_or_default();
    ClientError::Protocol(format!("the answer `{kind}` does not go with what was asked"))
}

const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
