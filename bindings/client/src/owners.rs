//! The servers of a pool: which of them has a dnpipe, as it was last heard, and the connections to them.
//!
//! ```text
//!   request ──▶ owner known? ──no──▶ any server ──▶ "another has it: that one" ──▶ noted, asked there
//!                    └──────yes────▶ that one ───▶ gone: forgotten, any server is asked
//! ```
//!
//! What is noted here is a hint. Whoever is asked decides, so an old one costs a detour and nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use sidestream_event::{
    Bytes,
    native::{DnpipeName, Refusal, Request},
};
use tokio::sync::Mutex as Turn;

use crate::{
    Address, ClientError,
    connection::{Answered, Answering, Connection, lock},
};

/// See the module.
#[derive(Default)]
pub(crate) struct Owners {
    /// `host:port`, by dnpipe.
    of: Mutex<HashMap<DnpipeName, String>>,
    /// By host; none is whoever answers at the client's own address.
    lines: Mutex<HashMap<Option<String>, Line>>,
}

/// A connection, opened by one at a time.
type Line = Arc<Turn<Option<Connection>>>;

/// What an answer about a dnpipe says of its owner is noted.
pub(crate) struct Routed {
    answering: Answering,
    owners: Arc<Owners>,
    name: Option<DnpipeName>,
}

impl Owners {
    /// The connection to whoever has a dnpipe, or to any server where that is not known, or makes no difference.
    pub(crate) async fn connection(
        &self,
        address: &Address,
        name: Option<&DnpipeName>,
    ) -> Result<Connection, ClientError> {
        let owner = name.and_then(|name| lock(&self.of).get(name).cloned());
        let at = owner.as_ref().and_then(|host| address.at(host));
        // Who has no way to the others asks whom it can.
        let line = lock(&self.lines).entry(owner.filter(|_| at.is_some())).or_default().clone();
        let mut current = line.lock().await;
        match &*current {
            Some(open) if open.is_open() => Ok(open.clone()),
            _ => {
                let opened = Connection::open(at.as_ref().unwrap_or(address)).await;
                if let (Err(_), Some(name)) = (&opened, name) {
                    self.forget(name);
                }
                Ok(current.insert(opened?).clone())
            }
        }
    }

    /// Sends a request on a connection that it is for.
    pub(crate) async fn send(
        self: &Arc<Self>,
        connection: &Connection,
        request: Request,
        tail: Bytes,
    ) -> Result<Routed, ClientError> {
        let name = request.dnpipe().cloned();
        match connection.send(request, tail).await {
            Ok(answering) => Ok(Routed { answering, owners: self.clone(), name }),
            Err(error) => {
                name.iter().for_each(|name| self.forget(name));
                Err(error)
            }
        }
    }

    pub(crate) fn note(&self, name: &DnpipeName, host: &str) {
        let mut of = lock(&self.of);
        if of.len() >= NAMES_MAX && !of.contains_key(name) {
            of.clear();
        }
        of.insert(name.clone(), host.to_owned());
    }

    fn forget(&self, name: &DnpipeName) {
        lock(&self.of).remove(name);
    }
}

impl Routed {
    pub(crate) async fn answered(self) -> Result<Answered, ClientError> {
        let answered = self.answering.answered().await;
        match (&answered, &self.name) {
            (Err(ClientError::Refused(Refusal::NotOwner { owner: Some(owner) })), Some(name)) => {
                self.owners.note(name, owner);
            }
            (Err(ClientError::Lost(_)), Some(name)) => self.owners.forget(name),
            _ => {}
        }
        answered
    }
}

/// Dnpipes whose owners are remembered, at most.
const NAMES_MAX: usize = 4096;
