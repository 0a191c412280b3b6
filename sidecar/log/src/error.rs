//! What goes wrong, with its facts and the likely cure.

use std::{fmt, io, sync::Arc};

use sidestream_host::disk::Driver;

use crate::PartitionId;

/// Why a batch was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// There is no such partition.
    Unknown {
        /// The one that was asked for.
        partition: PartitionId,
    },
    /// A header that does not fit its body, or the journal's own partition.
    Malformed,
    /// More bytes than a batch may have, or than fit a segment.
    TooLarge {
        /// Its bytes, header included.
        bytes: usize,
        /// The most.
        max: usize,
    },
    /// As many partitions as a segment's head can name.
    TooMany {
        /// The most.
        max: usize,
    },
    /// As much waits to be written as may wait: await `Journal::room` and try again. Or the number was removed and that is
    /// not durable yet.
    Busy,
    /// No room, other than the reserve. Nothing was written.
    Full {
        /// Bytes in use.
        used: u64,
        /// Bytes there may be, where that is set; else the disk itself is full.
        capacity: Option<u64>,
    },
    /// The disk failed. It is not known whether the batch is on it; it is not readable, and the next one gets its offset.
    Failed {
        /// What the disk said.
        reason: Arc<str>,
    },
    /// The journal was closed.
    Closed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { partition } => {
                write!(out, "the journal has no partition {partition}: create it first")
            }
            Self::Malformed => out.write_str("the header of a batch does not fit its body"),
            Self::TooLarge { bytes, max } => {
                write!(out, "a batch of {bytes} bytes; the most is {max}: push smaller batches")
            }
            Self::TooMany { max } => {
                write!(
                    out,
                    "the journal has {max} partitions, and no more fit: remove some, or use another disk"
                )
            }
            Self::Busy => {
                out.write_str("more waits for the disk than may wait: push again when there is room")
            }
            Self::Full { used, capacity: Some(capacity) } => write!(
                out,
                "full: {used} of {capacity} bytes are in use and the rest is the reserve: trim, reset, or raise the \
                 capacity"
            ),
            Self::Full { used, capacity: None } => {
                write!(
                    out,
                    "the disk is full, and {used} bytes of it are the journal's: trim, reset, or free some"
                )
            }
            Self::Failed { reason } => {
                write!(out, "the disk failed: {reason}; look at the machine's kernel log")
            }
            Self::Closed => out.write_str("the journal is closed"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Why nothing was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is no such partition.
    Unknown {
        /// The one that was asked for.
        partition: PartitionId,
    },
    /// The offset was trimmed, or is not there yet.
    OutOfRange {
        /// The first that can be read.
        first: u64,
        /// The one after the last that can be read.
        readable: u64,
    },
    /// These offsets were here and can't be read any more; go on at `to`.
    Damaged {
        /// The first that is lost.
        from: u64,
        /// The first after it that is not.
        to: u64,
    },
    /// The disk failed.
    Failed {
        /// What it said.
        reason: Arc<str>,
    },
    /// The journal was closed.
    Closed,
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { partition } => write!(out, "the journal has no partition {partition}"),
            Self::OutOfRange { first, readable } => {
                write!(out, "that offset is not there: offsets from {first} to before {readable} are")
            }
            Self::Damaged { from, to } => write!(
                out,
                "offsets {from} to before {to} are damaged on the disk; the ones after them are not: go on at {to}"
            ),
            Self::Failed { reason } => {
                write!(out, "the disk failed: {reason}; look at the machine's kernel log")
            }
            Self::Closed => out.write_str("the journal is closed"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Failed { reason: error.to_string().into() }
    }
}

/// Why a journal is not open.
#[derive(Debug)]
pub enum OpenError {
    /// The disk failed.
    Disk {
        /// What was tried.
        doing: &'static str,
        /// The file, where it was one.
        file: String,
        /// Which disk.
        driver: Driver,
        /// What it said.
        source: io::Error,
    },
    /// A segment can't be read that was written after all that says what there is.
    Unreadable {
        /// Its file.
        file: String,
    },
    /// A newer program wrote this.
    Version {
        /// The file.
        file: String,
        /// The version it has.
        found: u16,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { doing, file, driver, source } => write!(out, "{doing} {file} by {driver}: {source}"),
            Self::Unreadable { file } => write!(
                out,
                "{file} can't be read, and no other file says what it has: start again, or restore it; where it is lost \
                 for good, rename it to {file}.lost"
            ),
            Self::Version { file, found } => write!(
                out,
                "{file} has version {found} of the journal's format, and this program knows {}: start the program that \
                 wrote it, or a newer one",
                crate::head::FORMAT
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk { source, .. } => Some(source),
            Self::Unreadable { .. } | Self::Version { .. } => None,
        }
    }
}
