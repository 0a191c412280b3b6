//! Why something was not done.

use std::{fmt, io, ops::Range};

use sidestream_event::{
    native::{BadName, FrameError, Refusal, Verdict},
    record::RecordError,
};

use crate::seal::SealError;

/// Why something was not done, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// Nobody answers at the address.
    Unreachable {
        /// The address.
        address: String,
        /// What the machine said.
        reason: String,
    },
    /// Somebody answers there, and did not in time.
    Silent {
        /// The address.
        address: String,
    },
    /// The other end is not believed, or does not believe this one.
    NotTrusted(String),
    /// The server takes no connection.
    TurnedAway(Verdict),
    /// What came does not follow the protocol.
    Protocol(String),
    /// The connection ended before the answer came: whether it was done is not known.
    Lost(String),
    /// The server knows what was asked, and does not do it.
    Refused(Refusal),
    /// A text is no name of a dnpipe.
    Name(BadName),
    /// A record cannot be sent, or a batch that came cannot be read.
    Record(RecordError),
    /// A record cannot be decrypted.
    Sealed(SealError),
    /// Records are there and cannot be read here: what comes behind them can.
    Unreadable {
        /// Their partition.
        partition: u32,
        /// Their offsets.
        offsets: Range<u64>,
        /// Why.
        reason: Box<ClientError>,
    },
    /// The producer has been closed.
    Closed,
}

impl ClientError {
    /// Whether the same may succeed later, with nothing changed by the caller.
    pub fn is_worth_retrying(&self) -> bool {
        match self {
            ClientError::Unreachable { .. } | ClientError::Silent { .. } | ClientError::Lost(_) => true,
            ClientError::TurnedAway(verdict) => matches!(verdict, Verdict::Busy | Verdict::Stopping),
            ClientError::Refused(refusal) => refusal.is_worth_retrying(),
            _ => false,
        }
    }

    pub(crate) fn lost(error: &io::Error) -> ClientError {
        ClientError::Lost(error.to_string())
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Unreachable { address, reason } => {
                write!(
                    out,
                    "nobody answers at {address} ({reason}); start the server, or name another address"
                )
            }
            ClientError::Silent { address } => {
                write!(out, "no answer came from {address} in time; try again, or look at the server's log")
            }
            ClientError::NotTrusted(reason) => write!(out, "no trust: {reason}"),
            ClientError::TurnedAway(verdict) => verdict.fmt(out),
            ClientError::Protocol(reason) => {
                write!(out, "the server does not follow the protocol: {reason}; use programs of one release")
            }
            ClientError::Lost(reason) => write!(
                out,
                "the connection ended before the answer came ({reason}), so it may have been done or not; try again"
            ),
            ClientError::Refused(refusal) => refusal.fmt(out),
            ClientError::Name(bad) => bad.fmt(out),
            ClientError::Record(error) => error.fmt(out),
            ClientError::Sealed(error) => error.fmt(out),
            ClientError::Unreadable { partition, offsets, reason } => {
                let Range { start, end } = offsets;
                write!(out, "offsets {start} to before {end} of partition {partition}: {reason}")
            }
            ClientError::Closed => out.write_str("the producer has been closed; make a new one"),
        }
    }
}

impl std::error::Error for ClientError {}

impl std::convert::From<Refusal> for ClientError {
    fn from(refusal: Refusal) -> ClientError {
        ClientError::Refused(refusal)
    }
}

impl std::convert::From<BadName> for ClientError {
    fn from(bad: BadName) -> ClientError {
        ClientError::Name(bad)
    }
}

impl std::convert::From<RecordError> for ClientError {
    fn from(error: RecordError) -> ClientError {
        ClientError::Record(error)
    }
}

impl std::convert::From<SealError> for ClientError {
    fn from(error: SealError) -> ClientError {
        ClientError::Sealed(error)
    }
}

impl std::convert::From<FrameError> for ClientError {
    fn from(error: FrameError) -> ClientError {
        ClientError::Protocol(error.to_string())
    }
}
