//! Brings the dnpipes here that this server of a pool is to have, one after the other, from the servers that have them.
//!
//! The operator says where each is to be; where it is, its servers decide between them (`sidestream_broker::Owner`). What does
//! not work out is tried again for as long as it is wanted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sidestream_broker::{Broker, Copied, Frozen, Home, MoveError, Owner, PushError};
use sidestream_client::{Address, Client, ClientConfig, ClientError};
use sidestream_event::{
    native::{DnpipeName, MoveAnswer, MoveRequest, Refusal},
    record::{Header, split},
};
use sidestream_host::Clock;
use sidestream_log::StoredBatch;
use sidestream_trust::Identity;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

/// What is to be brought here, and from among whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `host:port` of each server, by number.
    pub(super) servers: Vec<String>,
    /// Names and how many partitions they have, in the order they are to come.
    pub(super) dnpipes: Vec<(DnpipeName, u32)>,
}

impl Wanted {
    fn has(&self, name: &DnpipeName) -> bool {
        self.dnpipes.iter().any(|(wanted, _)| wanted == name)
    }
}

/// Whoever brings them. It ends when this is dropped.
pub(super) struct Mover {
    wanted: watch::Sender<Wanted>,
    failures: Arc<Mutex<BTreeMap<DnpipeName, String>>>,
    running: Option<AbortHandle>,
}

struct Work {
    broker: Broker,
    clock: Clock,
    number: u32,
    identity: Identity,
    wanted: watch::Receiver<Wanted>,
    failures: Arc<Mutex<BTreeMap<DnpipeName, String>>>,
}

impl Mover {
    /// Nothing is wanted yet.
    pub(super) fn new() -> Mover {
        Mover { wanted: watch::Sender::default(), failures: Arc::default(), running: None }
    }

    /// Begins to work, as server `number`, who is `identity`.
    pub(super) fn start(
        &mut self,
        (broker, clock): (Broker, Clock),
        number: u32,
        identity: Identity,
        sockets: &Handle,
    ) {
        let (wanted, failures) = (self.wanted.subscribe(), self.failures.clone());
        let work = Work { broker, clock, number, identity, wanted, failures };
        self.running = Some(sockets.spawn(work.run()).abort_handle());
    }

    /// From now on these are wanted.
    pub(super) fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|before| {
            let is_new = *before != wanted;
            *before = wanted;
            is_new
        });
    }

    /// Nothing more is begun.
    pub(super) fn stop(&self) {
        self.running.iter().for_each(AbortHandle::abort);
    }

    /// Why a dnpipe that is wanted has not come yet, where a try has failed.
    pub(super) fn failure(&self, name: &DnpipeName) -> Option<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Work {
    async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let mut is_done = true;
            for (name, partitions) in &wanted.dnpipes {
                if self.wanted.has_changed().unwrap_or(true) {
                    break;
                }
                is_done &= self.note(name, self.bring(name, *partitions, &wanted.servers).await);
            }
            // Before it has heard where the others are, it does not know what is wanted.
            let arrivals = if wanted.servers.is_empty() { Vec::new() } else { self.broker.arrivals() };
            for name in arrivals.iter().filter(|name| !wanted.has(name)) {
                is_done &= self.note(name, self.end(name, &wanted.servers).await);
            }
            let changed = async {
                match is_done {
                    true => drop(self.wanted.changed().await),
                    false => drop(tokio::time::timeout(TRY_AGAIN, self.wanted.changed()).await),
                }
            };
            changed.await;
            if self.wanted.has_changed().is_err() {
                return;
            }
        }
    }

    /// Remembers what became of a try, and says whether it went well.
    fn note(&self, name: &DnpipeName, outcome: Result<(), MoveError>) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(()) => drop(failures.remove(name)),
            Err(error) => {
                if failures.insert(name.clone(), error.to_string()).is_none() {
                    tracing::warn!(dnpipe = %name, "does not come here yet: {error}");
                }
            }
        }
        outcome.is_ok()
    }

    /// What is not wanted any more and has come in part, or wholly.
    async fn end(&self, name: &DnpipeName, servers: &[String]) -> Result<(), MoveError> {
        match self.broker.home(name) {
            Some(Home::Ready { from, .. } | Home::Away { server: from, .. }) => {
                self.broker.end_arrival(name, self.number, &self.remote(from, servers)?).await
            }
            Some(Home::Here { .. }) => self.broker.own(name).await,
            None => Ok(()),
        }
    }

    /// A server, by a connection of its own.
    fn remote(&self, from: u32, servers: &[String]) -> Result<Remote, MoveError> {
        let host = servers.get(from as usize).filter(|_| from != self.number);
        let unknown = || MoveError::Lost { reason: format!("it is with server {from}, which is not there") };
        let (host, identity) = (host.ok_or_else(unknown)?.clone(), self.identity.clone());
        let expected = identity.id();
        let config = ClientConfig { patience: Duration::ZERO, clock: self.clock.clone() };
        let client = Client::new(Address::Peer { host, identity, expected }, config);
        Ok(Remote { client, wanted: self.wanted.clone() })
    }

    async fn bring(&self, name: &DnpipeName, partitions: u32, servers: &[String]) -> Result<(), MoveError> {
        let from = match self.broker.home(name) {
            Some(Home::Away { server, .. } | Home::Ready { from: server, .. }) => server,
            // Most often there is nothing to do.
            Some(Home::Here { .. }) => return self.broker.own(name).await,
            None => return Ok(()),
        };
        let owner = self.remote(from, servers)?;
        tracing::info!(dnpipe = %name, from, "comes here");
        for _ in 0..TRIES_AT_ONCE {
            match self.broker.bring(name, partitions, self.number, from, &owner).await {
                // Something was in the way that has most often passed.
                Err(MoveError::Stale { .. } | MoveError::Busy { .. }) => sleep(REST).await,
                outcome => {
                    outcome.inspect(|()| tracing::info!(dnpipe = %name, from, "is here"))?;
                    return Ok(());
                }
            }
        }
        self.broker.bring(name, partitions, self.number, from, &owner).await
    }
}

/// Another server of the pool.
struct Remote {
    client: Client,
    wanted: watch::Receiver<Wanted>,
}

impl Remote {
    /// Before a dnpipe stands still, and before it is ready here: from then on the release is asked for to its end.
    fn is_wanted(&self, name: &DnpipeName) -> Result<(), MoveError> {
        match self.wanted.borrow().has(name) {
            true => Ok(()),
            false => Err(MoveError::Lost { reason: "it is not to come here any more".into() }),
        }
    }

    async fn ask(&self, request: MoveRequest) -> Result<(MoveAnswer, Bytes), MoveError> {
        // The connection ends with this move, so that the next try has another one.
        let silent = |_| MoveError::Lost { reason: format!("silent for {} s", ANSWER_WITHIN.as_secs()) };
        match timeout(ANSWER_WITHIN, self.client.move_step(request)).await.map_err(silent)? {
            Ok((MoveAnswer::Stale { what }, _)) => Err(MoveError::Stale { what: what.into() }),
            Ok((MoveAnswer::Busy { what }, _)) => Err(MoveError::Busy { what: what.into() }),
            Ok(answered) => Ok(answered),
            Err(ClientError::Refused(Refusal::UnknownDnpipe(name))) => Err(MoveError::Unknown(name)),
            Err(ClientError::Refused(Refusal::NotOwner { .. } | Refusal::Busy)) => {
                Err(MoveError::Write(PushError::Moving))
            }
            Err(error) => Err(MoveError::Lost { reason: error.to_string() }),
        }
    }
}

impl Owner for Remote {
    async fn copy_out(
        &self,
        name: &DnpipeName,
        partition: u32,
        from: Option<u64>,
        max_bytes: usize,
    ) -> Result<Copied, MoveError> {
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
        let request = MoveRequest::Copy { dnpipe: name.clone(), partition, from, max_bytes };
        match self.ask(request).await? {
            (MoveAnswer::Copied { life, first, end }, tail) => {
                Ok(Copied { life, first, end, batches: batches(tail)? })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn freeze(&self, name: &DnpipeName, to: u32) -> Result<Frozen, MoveError> {
        self.is_wanted(name)?;
        match self.ask(MoveRequest::Freeze { dnpipe: name.clone(), to }).await? {
            (MoveAnswer::Frozen { token, term, ends, lives, state_bytes }, _) => {
                Ok(Frozen { token, term, ends, lives, state_bytes })
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn frozen_state(
        &self,
        name: &DnpipeName,
        token: u64,
        from: u64,
        max_bytes: usize,
    ) -> Result<Bytes, MoveError> {
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
        self.is_wanted(name)?;
        let request = MoveRequest::State { dnpipe: name.clone(), token, from, max_bytes };
        match self.ask(request).await? {
            (MoveAnswer::State, tail) => Ok(tail),
            (other, _) => Err(unexpected(&other)),
        }
    }

    async fn release(&self, name: &DnpipeName, token: u64, to: u32) -> Result<(), MoveError> {
        done(self.ask(MoveRequest::Release { dnpipe: name.clone(), token, to }).await?.0)
    }

    async fn thaw(&self, name: &DnpipeName, token: u64) -> Result<(), MoveError> {
        done(self.ask(MoveRequest::Thaw { dnpipe: name.clone(), token }).await?.0)
    }
}

fn batches(mut tail: Bytes) -> Result<Vec<StoredBatch>, MoveError> {
    let bad = |error: sidestream_event::record::RecordError| MoveError::Bad { reason: error.to_string() };
    let mut found = Vec::new();
    while !tail.is_empty() {
        let length = Header::read(&tail).map_err(bad)?.length as usize;
        let batch = tail.split_to(length.min(tail.len()));
        let (header, body) = split(&batch).map_err(bad)?;
        found.push(StoredBatch { header, body });
    }
    Ok(found)
}

fn done(answer: MoveAnswer) -> Result<(), MoveError> {
    match answer {
        MoveAnswer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &MoveAnswer) -> MoveError {
    MoveError::Bad { reason: format!("the answer {answer:?} does not go with what was asked") }
}

/// How long the other server may take for one step: longer than a dnpipe stands still for somebody who is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long what did not work out is left alone.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// What was in the way is tried again so often before others have their turn, and this long after.
const TRIES_AT_ONCE: u32 = 20;
const REST: Duration = Duration::from_millis(50);
