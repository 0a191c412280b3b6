//! Where the dnpipes of a pool are: here, or with another of its servers. Each is whole in one place.
//!
//! ```text
//!   with another ──▶ coming ──▶ ready ──▶ here ──▶ with another
//!        term 3       copied     all of it   term 4      term 5
//!                                is durable
//! ```
//!
//! Who has a dnpipe says so by what it has written down, and nobody else's word counts: the one before writes that it is another's
//! now, and only after that is it served there. So it never has two servers, whoever crashes when. Its term grows with each
//! move: of two servers that name another, the one with the higher term knows better.
//!
//! A server that is the only one never moves anything, and nothing of this is in its journal.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use serde::{Deserialize, Serialize};
use sidestream_event::native::DnpipeName;
use sidestream_host::Moment;

use crate::{
    Broker,
    arrivals::Arrival,
    pipe::lock,
    spec::DnpipeSpec,
    state::{Change, StateLog},
};

/// Where a dnpipe is, as far as this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// This server has it.
    Here {
        /// How often it was moved.
        term: u32,
    },
    /// Another server has it, or had it when it was last heard of.
    Away {
        /// The number of that server.
        server: u32,
        /// How often it had been moved.
        term: u32,
    },
    /// All of it is here, and the server that had it has not said yet that it is this one's.
    Ready {
        /// The number of the server that had it.
        from: u32,
        /// What that one froze it with.
        token: u64,
    },
}

/// A dnpipe of the pool that is not here.
#[derive(Clone, Debug, PartialEq)]
pub struct Elsewhere {
    /// Its name.
    pub name: DnpipeName,
    /// Where its server is, `host:port`; none where that is not known.
    pub owner: Option<Arc<str>>,
    /// What it is to be, where that was told.
    pub spec: Option<Arc<DnpipeSpec>>,
}

/// What is written down of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stance {
    Here,
    /// What is written behind this is not whole.
    Coming {
        from: u32,
    },
    Ready {
        from: u32,
        token: u64,
    },
    /// `token` is what it was frozen with when it went.
    Away {
        to: u32,
        token: u64,
    },
}

/// What is known of the places of dnpipes.
#[derive(Debug, Default)]
pub(crate) struct Homes {
    /// `host:port` of each server of the pool, by number.
    servers: Vec<Arc<str>>,
    is_shared: bool,
    /// What the others have is not known yet.
    is_unheard: bool,
    pub(crate) of: BTreeMap<DnpipeName, Known>,
}

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) term: u32,
    pub(crate) stance: Stance,
    /// Whether it is in the journal; else somebody said so.
    pub(crate) is_written: bool,
    pub(crate) spec: Option<Arc<DnpipeSpec>>,
    /// What has come of it.
    pub(crate) arrival: Option<Arrival>,
    /// When this server began to serve it, where it came from another.
    pub(crate) came: Option<Moment>,
}

impl Known {
    pub(crate) fn new(term: u32, stance: Stance) -> Known {
        Known { term, stance, is_written: true, spec: None, arrival: None, came: None }
    }
}

impl Broker {
    /// Says where the servers of the pool are, `host:port` by number: who asks for what is elsewhere is sent there.
    pub fn name_servers(&self, servers: impl IntoIterator<Item = String>) {
        let mut homes = self.homes();
        homes.servers = servers.into_iter().map(Arc::from).collect();
        (homes.is_shared, homes.is_unheard) = (true, false);
    }

    /// Says that this is a server of a pool: another one may have what is asked for, or get it. Until it [heard](Broker::hear)
    /// of them, whatever is not here may be with one of them.
    pub fn share(&self) {
        let mut homes = self.homes();
        (homes.is_shared, homes.is_unheard) = (true, true);
    }

    /// Says that all that is to be known of the other servers was told.
    pub fn hear(&self) {
        self.homes().is_unheard = false;
    }

    /// Whether this is a server of a pool.
    pub fn is_shared(&self) -> bool {
        self.homes().is_shared
    }

    /// Says that a dnpipe is with another server, where nothing newer is known here: it is not made by
    /// [`apply`](Broker::apply) then. One that is here and went to another server later than it came is not served any more:
    /// what is here is a copy of the past, such as from a back-up of the volume. It stays on the disk.
    pub fn place_elsewhere(&self, name: &DnpipeName, server: u32, term: u32) {
        let away = Stance::Away { to: server, token: 0 };
        let here = self.pipe(name);
        let mut homes = self.homes();
        let is_known = homes.of.contains_key(name);
        let known = homes.of.entry(name.clone()).or_insert(Known::new(0, Stance::Here));
        match (known.stance, &here) {
            (Stance::Away { .. }, None) if term > known.term => (known.term, known.stance) = (term, away),
            (_, Some(_)) if term > known.term => {
                tracing::error!(dnpipe = %name, server, "this server's copy of a dnpipe is old, and not served any more");
                // Not written down: the next start has it until it hears the same.
                *known = Known { is_written: false, spec: known.spec.take(), ..Known::new(term, away) };
            }
            (_, None) if !is_known => *known = Known { is_written: false, ..Known::new(term, away) },
            _ => {
                if !is_known {
                    homes.of.remove(name);
                }
                return;
            }
        }
        drop(homes);
        if let Some(pipe) = here {
            self.pipes_mut().remove(name);
            pipe.fence.send_modify(|fence| fence.is_removed = true);
            pipe.all_groups().iter().for_each(|group| group.end());
            self.inner.moved.send_modify(|moved| *moved += 1);
        }
    }

    /// For how long a dnpipe has been served here that came from another server.
    pub fn here_for(&self, name: &DnpipeName) -> Option<std::time::Duration> {
        let came = self.homes().of.get(name)?.came?;
        Some(self.inner.clock.now().since(came))
    }

    /// How many dnpipes came or went since the start, whenever that changes.
    pub fn moved(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.moved.subscribe()
    }

    /// Where a dnpipe is; none where nothing is known of it.
    pub fn home(&self, name: &DnpipeName) -> Option<Home> {
        let is_here = self.pipe(name).is_some();
        let homes = self.homes();
        let known = homes.of.get(name);
        if is_here {
            return Some(Home::Here { term: known.map_or(0, |known| known.term) });
        }
        let known = known?;
        Some(match known.stance {
            // Not for long: it is being opened.
            Stance::Here => Home::Here { term: known.term },
            Stance::Coming { from } => Home::Away { server: from, term: known.term },
            Stance::Ready { from, token } => Home::Ready { from, token },
            Stance::Away { to, .. } => Home::Away { server: to, term: known.term },
        })
    }

    /// A dnpipe of the pool that another server has.
    pub fn elsewhere(&self, name: &DnpipeName) -> Option<Elsewhere> {
        if self.pipe(name).is_some() {
            return None;
        }
        let homes = self.homes();
        match homes.of.get(name) {
            Some(known) => Some(homes.elsewhere(name, known)),
            None => homes.is_unheard.then(|| Elsewhere { name: name.clone(), owner: None, spec: None }),
        }
    }

    /// Those that something has come of, and that are not served here yet.
    pub fn arrivals(&self) -> Vec<DnpipeName> {
        let here = self.list();
        let homes = self.homes();
        let comes = |known: &Known| {
            known.arrival.is_some() || matches!(known.stance, Stance::Coming { .. } | Stance::Ready { .. })
        };
        let coming =
            homes.of.iter().filter(|(name, known)| comes(known) && here.binary_search(name).is_err());
        coming.map(|(name, _)| name.clone()).collect()
    }

    /// Those that other servers have, by name.
    pub fn all_elsewhere(&self) -> Vec<Elsewhere> {
        let here = self.list();
        let homes = self.homes();
        let away = homes.of.iter().filter(|(name, _)| here.binary_search(name).is_err());
        away.map(|(name, known)| homes.elsewhere(name, known)).collect()
    }

    pub(crate) fn homes(&self) -> MutexGuard<'_, Homes> {
        lock(&self.inner.homes)
    }

    /// Remembers what a dnpipe is to be that is not here. Whether it is such a one.
    pub(crate) fn set_spec_elsewhere(&self, spec: &DnpipeSpec) -> bool {
        let mut homes = self.homes();
        let known = homes.of.get_mut(&spec.name);
        known.map(|known| known.spec = Some(Arc::new(spec.clone()))).is_some()
    }

    /// Writes down where a dnpipe is.
    pub(crate) async fn write_home(
        &self,
        name: &DnpipeName,
        term: u32,
        stance: Stance,
    ) -> Result<(), crate::PushError> {
        let change = Change::Home { dnpipe: name.clone(), term, stance };
        let append = |state: &StateLog| state.append(&change, self.inner.clock.wall_nanos());
        self.inner.state.write(append).await
    }

    /// What of it a snapshot repeats; none while something comes, which a snapshot has no words for.
    pub(crate) fn home_changes(&self) -> Option<Vec<Change>> {
        let homes = self.homes();
        let comes = |known: &Known| matches!(known.stance, Stance::Coming { .. } | Stance::Ready { .. });
        if homes.of.values().any(comes) {
            return None;
        }
        let written = homes.of.iter().filter(|(_, known)| known.is_written);
        let change = |(name, known): (&DnpipeName, &Known)| Change::Home {
            dnpipe: name.clone(),
            term: known.term,
            stance: known.stance,
        };
        Some(written.map(change).collect())
    }
}

impl Homes {
    fn elsewhere(&self, name: &DnpipeName, known: &Known) -> Elsewhere {
        let server = match known.stance {
            Stance::Here => None,
            Stance::Coming { from } | Stance::Ready { from, .. } => Some(from),
            Stance::Away { to, .. } => Some(to),
        };
        let owner = server.and_then(|server| self.servers.get(server as usize).cloned());
        Elsewhere { name: name.clone(), owner, spec: known.spec.clone() }
    }
}
