//! What can go wrong at the edge of the process, and whose fault it is.

use std::{fmt, time::Duration};

/// A connector cannot be made from what its stage says.
#[derive(Debug)]
pub struct BuildError {
    /// The field of the stage that is wrong, such as `url`.
    pub field: &'static str,
    /// What is wrong with it, and the cure.
    pub reason: String,
}

impl fmt::Display for BuildError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}`: {}", self.field, self.reason)
    }
}

impl std::error::Error for BuildError {}

/// A source cannot go on. The sidecar logs it with the stage's name and starts the source again, with backoff.
#[derive(Debug)]
pub struct Failure(
    /// What failed and the likely cure, as a clause.
    pub String,
);

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// A sink could not deliver a batch, or a part of it.
#[derive(Debug)]
pub enum Undelivered {
    /// The peer may take the whole batch later: unreachable, slow, busy, out of space.
    Retry {
        /// What happened, as a clause.
        reason: String,
        /// How long the peer asked to be left alone.
        after: Option<Duration>,
    },
    /// The peer will never take these events; the others of the batch were delivered.
    Refused {
        /// Indices in the batch and why; in order.
        events: Vec<(usize, String)>,
    },
    /// Nobody takes events here any more: not these, nor any to come.
    Closed {
        /// What happened, as a clause.
        reason: String,
    },
}

impl Undelivered {
    /// To be tried again, because of `reason`.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Undelivered::Retry { reason: reason.to_string(), after: None }
    }

    /// Every one of `count` events refused for one reason.
    pub fn refuse_all(count: usize, reason: impl fmt::Display) -> Self {
        Undelivered::Refused { events: (0..count).map(|index| (index, reason.to_string())).collect() }
    }
}

impl fmt::Display for Undelivered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Undelivered::Retry { reason, .. } | Undelivered::Closed { reason } => out.write_str(reason),
            Undelivered::Refused { events } => match events.first() {
                Some((_, reason)) => write!(out, "{} events refused: {reason}", events.len()),
                None => out.write_str("no event refused"),
            },
        }
    }
}
