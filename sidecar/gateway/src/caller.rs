//! Who asks, and what that one may do.

use std::fmt;

use sidestream_broker::{Broker, access::Verbs};
use sidestream_event::native::{DnpipeName, Refusal};
use sidestream_trust::SpiffeId;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever may open the local socket: the process itself.
    Local,
    /// A peer that has proved its name.
    Peer(SpiffeId),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Push,
    Pull,
    Reset,
}

impl Caller {
    /// Refuses what the access rules of the dnpipe do not allow.
    pub(crate) fn check(&self, broker: &Broker, name: &DnpipeName, verb: Verb) -> Result<(), Refusal> {
        let verbs = self.verbs(broker, name)?;
        let is_allowed = match verb {
            Verb::Push => verbs.push,
            Verb::Pull => verbs.pull,
            Verb::Reset => verbs.reset,
        };
        if is_allowed { Ok(()) } else { Err(self.refusal(verb.text())) }
    }

    /// Refuses who may do nothing at all.
    pub(crate) fn check_any(&self, broker: &Broker, name: &DnpipeName) -> Result<(), Refusal> {
        match self.verbs(broker, name)?.is_none() {
            true => Err(self.refusal("see it")),
            false => Ok(()),
        }
    }

    fn verbs(&self, broker: &Broker, name: &DnpipeName) -> Result<Verbs, Refusal> {
        match self {
            // Whether there is such a dnpipe, the broker says.
            Caller::Local => Ok(Verbs::ALL),
            Caller::Peer(id) => {
                broker.allowed(name, id.as_str()).ok_or_else(|| Refusal::UnknownDnpipe(name.clone()))
            }
        }
    }

    fn refusal(&self, what: &str) -> Refusal {
        Refusal::NotAllowed { who: self.to_string(), what: what.into() }
    }
}

impl Verb {
    fn text(self) -> &'static str {
        match self {
            Verb::Push => "push",
            Verb::Pull => "pull",
            Verb::Reset => "reset",
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Local => out.write_str("local"),
            Caller::Peer(id) => id.fmt(out),
        }
    }
}
