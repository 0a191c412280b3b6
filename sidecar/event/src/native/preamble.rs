//! The first bytes of a connection, the same in every version of the protocol:
//!
//! ```text
//!             0        8            10           12
//!   client    | magic  | oldest u16 | newest u16 |      versions it speaks
//!   gateway   | magic  | chosen u16 | verdict u16|      0: come in; else why not, and the connection ends
//! ```
//!
//! Numbers are little-endian.

use std::fmt;

/// How every connection begins, from both ends. The last two bytes show a transfer that changes line ends.
pub const MAGIC: [u8; 8] = *b"dnpipe\r\n";
/// The length of a preamble, from either end.
pub const PREAMBLE_BYTES: usize = 12;

/// What a client says first: the oldest and the newest version it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The oldest version it speaks.
    pub oldest: u16,
    /// The newest version it speaks.
    pub newest: u16,
}

/// What a gateway answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Come in; this version is spoken.
    Welcome {
        /// The version.
        version: u16,
    },
    /// None of the client's versions is spoken here; this is the newest that is.
    Version {
        /// The newest version of the gateway.
        newest: u16,
    },
    /// There are as many connections as may be; one may be free later.
    Busy,
    /// This process is about to stop; another one may take over.
    Stopping,
    /// A verdict of a newer gateway.
    Other(u16),
}

/// What came is no preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreambleError;

impl Preamble {
    /// As bytes.
    pub fn write(&self) -> [u8; PREAMBLE_BYTES] {
        with_magic(self.oldest, self.newest)
    }

    /// Of bytes.
    pub fn read(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Preamble, PreambleError> {
        let (oldest, newest) = after_magic(bytes)?;
        Ok(Preamble { oldest, newest })
    }
}

impl Verdict {
    /// As bytes.
    pub fn write(&self) -> [u8; PREAMBLE_BYTES] {
        match *self {
            Verdict::Welcome { version } => with_magic(version, WELCOME),
            Verdict::Version { newest } => with_magic(newest, VERSION),
            Verdict::Busy => with_magic(0, BUSY),
            Verdict::Stopping => with_magic(0, STOPPING),
            Verdict::Other(code) => with_magic(0, code),
        }
    }

    /// Of bytes.
    pub fn read(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Verdict, PreambleError> {
        let (version, code) = after_magic(bytes)?;
        Ok(match code {
            WELCOME => Verdict::Welcome { version },
            VERSION => Verdict::Version { newest: version },
            BUSY => Verdict::Busy,
            STOPPING => Verdict::Stopping,
            other => Verdict::Other(other),
        })
    }
}

/// The newest version that both ends speak, or what to answer where there is none.
pub fn choose(client: Preamble, oldest: u16, newest: u16) -> Verdict {
    let version = client.newest.min(newest);
    match version >= client.oldest && version >= oldest {
        true => Verdict::Welcome { version },
        false => Verdict::Version { newest },
    }
}

fn with_magic(first: u16, second: u16) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&first.to_le_bytes());
    bytes[10..].copy_from_slice(&second.to_le_bytes());
    bytes
}

fn after_magic(bytes: &[u8; PREAMBLE_BYTES]) -> Result<(u16, u16), PreambleError> {
    match bytes[..8] == MAGIC {
        true => {
            let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            Ok((number(8), number(10)))
        }
        false => Err(PreambleError),
    }
}

impl fmt::Display for PreambleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "the other end does not speak the native protocol of dnpipes; is this the right address?",
        )
    }
}

impl std::error::Error for PreambleError {}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Welcome { version } => write!(out, "welcome, in version {version}"),
            Verdict::Version { newest } => {
                write!(out, "the server speaks no version of the protocol newer than {newest}; upgrade it")
            }
            Verdict::Busy => out
                .write_str("the server has as many connections as it takes; close some, or try again later"),
            Verdict::Stopping => out.write_str("the server is about to stop; try again"),
            Verdict::Other(code) => write!(out, "the server refuses, with the unknown code {code}"),
        }
    }
}

const WELCOME: u16 = 0;
const VERSION: u16 = 1;
const BUSY: u16 = 2;
const STOPPING: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_read_what_the_other_wrote() {
        let client = Preamble { oldest: 1, newest: 3 };
        assert_eq!(Preamble::read(&client.write()), Ok(client));
        assert_eq!(client.write(), *b"dnpipe\r\n\x01\x00\x03\x00");
        let verdicts = [
            Verdict::Welcome { version: 1 },
            Verdict::Version { newest: 2 },
            Verdict::Busy,
            Verdict::Stopping,
        ];
        for verdict in verdicts {
            assert_eq!(Verdict::read(&verdict.write()), Ok(verdict));
        }
        assert_eq!(Verdict::read(b"HTTP/1.1 400"), Err(PreambleError));
    }

    #[test]
    fn the_newest_version_that_both_speak_is_chosen() {
        let client = |oldest, newest| Preamble { oldest, newest };
        assert_eq!(choose(client(1, 9), 1, 2), Verdict::Welcome { version: 2 });
        assert_eq!(choose(client(1, 1), 1, 2), Verdict::Welcome { version: 1 });
        assert_eq!(choose(client(3, 9), 1, 2), Verdict::Version { newest: 2 });
        assert_eq!(choose(client(0, 0), 1, 2), Verdict::Version { newest: 2 });
        assert_eq!(choose(client(9, 1), 1, 2), Verdict::Version { newest: 2 });
    }
}
