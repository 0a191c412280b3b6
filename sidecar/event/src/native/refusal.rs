//! Why something is not done, with the facts a program decides by and the cure a person reads.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DnpipeName;

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// There is no such dnpipe, or the caller may not know of it.
    UnknownDnpipe(DnpipeName),
    /// The dnpipe has no such partition.
    UnknownPartition {
        /// What was asked for.
        partition: u32,
        /// How many it has.
        partitions: u32,
    },
    /// There is no such group.
    UnknownGroup {
        /// What was asked for.
        group: String,
    },
    /// The caller is no member of the group, or no longer.
    NotMember {
        /// The group.
        group: String,
    },
    /// The access rules do not let the caller.
    NotAllowed {
        /// Who asks.
        who: String,
        /// What for: `push`, `pull` or `reset`.
        what: String,
    },
    /// The record batch is not one.
    BadBatch {
        /// What is wrong with it.
        reason: String,
    },
    /// A batch or a record is longer than may be.
    TooLarge {
        /// Its bytes.
        bytes: u64,
        /// The most there may be.
        max: u64,
    },
    /// The dnpipe was reset since the caller looked.
    WrongEpoch {
        /// The epoch it is in.
        current: u32,
    },
    /// Somebody pushed since the caller looked.
    WrongOffset {
        /// The offset that the next record gets.
        next: u64,
    },
    /// There is nothing at this offset: it is gone, or not there yet.
    OutOfRange {
        /// The oldest offset there is.
        first: u64,
        /// The offset behind the newest record.
        end: u64,
    },
    /// The dnpipe or its disk has no room. Nothing is dropped to make some.
    Full {
        /// What is full: `quota` or `disk`.
        what: String,
        /// The most bytes there may be.
        limit: u64,
    },
    /// A producer left out a sequence: what it sent before has not come.
    OutOfSequence {
        /// The sequence that is next.
        expected: u64,
    },
    /// Another producer has taken the place of this one.
    Fenced,
    /// What is stored there is not as it was written.
    Damaged {
        /// The first offset that is lost.
        from: u64,
        /// The first offset behind it that is sound.
        to: u64,
    },
    /// The dnpipe is encrypted, and its key is missing or another one: it was not done, and nothing is lost.
    Locked {
        /// The Secret that the key belongs into.
        secret: String,
        /// Which key of it.
        key: String,
        /// What is wrong with what is there, as the end of a sentence about it.
        reason: String,
    },
    /// There is too much to do at this moment.
    Busy,
    /// The server stops.
    Stopping,
    /// The disk failed: what was not acknowledged may be lost.
    Failed {
        /// What the machine said.
        reason: String,
    },
    /// The request makes no sense, whoever asks.
    Bad {
        /// What is wrong with it.
        reason: String,
    },
    /// Another server of the pool has the dnpipe.
    NotOwner {
        /// Where that is, `host:port`; none while it goes from one to the other.
        owner: Option<String>,
    },
}

impl Refusal {
    /// Its name, for programs that read text: it never changes.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::UnknownDnpipe(_) => "unknown-dnpipe",
            Refusal::UnknownPartition { .. } => "unknown-partition",
            Refusal::UnknownGroup { .. } => "unknown-group",
            Refusal::NotMember { .. } => "not-member",
            Refusal::NotAllowed { .. } => "not-allowed",
            Refusal::BadBatch { .. } => "bad-batch",
            Refusal::TooLarge { .. } => "too-large",
            Refusal::WrongEpoch { .. } => "wrong-epoch",
            Refusal::WrongOffset { .. } => "wrong-offset",
            Refusal::OutOfRange { .. } => "out-of-range",
            Refusal::Full { .. } => "full",
            Refusal::OutOfSequence { .. } => "out-of-sequence",
            Refusal::Fenced => "fenced",
            Refusal::Damaged { .. } => "damaged",
            Refusal::Busy => "busy",
            Refusal::Stopping => "stopping",
            Refusal::Failed { .. } => "failed",
            Refusal::Bad { .. } => "bad-request",
            Refusal::NotOwner { .. } => "not-owner",
            Refusal::Locked { .. } => "locked",
        }
    }

    /// Whether the same request may be taken later, with nothing changed by the caller.
    pub fn is_worth_retrying(&self) -> bool {
        match self {
            // Whoever has it: a client knows then whom to ask.
            Refusal::NotOwner { .. } => true,
            // Its server looks for the key again and again.
            Refusal::Locked { .. } => true,
            refusal => matches!(refusal, Refusal::Busy | Refusal::Stopping),
        }
    }
}

/// A lower-case clause, and behind the `;` what to do about it.
impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::UnknownDnpipe(name) => {
                write!(out, "there is no dnpipe `{name}`; `sidestream dnpipe list` shows those you may use")
            }
            Refusal::UnknownPartition { partition, partitions } => {
                write!(
                    out,
                    "there is no partition {partition}: the dnpipe has {partitions}, counted from 0; name one of those"
                )
            }
            Refusal::UnknownGroup { group } => {
                write!(out, "there is no group {group:?}; `sidestream group list` shows those there are")
            }
            Refusal::NotMember { group } => {
                write!(out, "the caller is no member of the group {group:?}, or no longer; join it again")
            }
            Refusal::NotAllowed { who, what } => {
                write!(out, "`{who}` may not {what}; add a rule to `spec.access` of the dnpipe")
            }
            Refusal::BadBatch { reason } => {
                write!(out, "the record batch is refused: {reason}; use a newer client")
            }
            Refusal::TooLarge { bytes, max } => {
                write!(out, "{bytes} bytes are more than the {max} there may be; push less at a time")
            }
            Refusal::WrongEpoch { current } => {
                write!(out, "the dnpipe is in epoch {current}: it was reset; look again and decide anew")
            }
            Refusal::WrongOffset { next } => {
                write!(out, "the next record gets offset {next}: somebody pushed; look again and decide anew")
            }
            Refusal::OutOfRange { first, end } => {
                write!(
                    out,
                    "there is nothing at this offset: what is kept begins at {first} and ends before {end}; pull from {first}"
                )
            }
            Refusal::Full { what, limit } => write!(
                out,
                "the {what} of {limit} bytes is full, and nothing is dropped; enlarge it, set a retention, or reset the dnpipe"
            ),
            Refusal::OutOfSequence { expected } => write!(
                out,
                "the producer left out a sequence, and {expected} is next; send what was not acknowledged again, in order"
            ),
            Refusal::Fenced => out.write_str(
                "another producer has taken the place of this one; end this one, or start it anew",
            ),
            Refusal::Damaged { from, to } => write!(
                out,
                "the records from offset {from} to before {to} are not as they were written; read on at {to}, and check the disk"
            ),
            Refusal::Busy => out.write_str("there is too much to do at this moment; try again"),
            Refusal::Stopping => out.write_str("the server stops; try again, another may have taken over"),
            Refusal::Failed { reason } => {
                write!(
                    out,
                    "the disk failed ({reason}), and what was not acknowledged may be lost; check the disk"
                )
            }
            Refusal::Bad { reason } => write!(out, "{reason}"),
            Refusal::NotOwner { owner: Some(owner) } => {
                write!(out, "another server of the pool has the dnpipe; ask {owner}")
            }
            Refusal::NotOwner { owner: None } => {
                out.write_str("the dnpipe goes from one server of the pool to another; ask again")
            }
            Refusal::Locked { secret, key, reason } => write!(
                out,
                "the dnpipe is locked, for key `{key}` of Secret `{secret}` {reason}; put the one from before there (without a \
                 cluster, into the file {secret}/{key} of the folder of --secrets) and try again: until then nothing is stored \
                 or delivered, and nothing is lost"
            ),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_to_do() {
        let refusals = [
            Refusal::UnknownDnpipe("shop/orders".parse().unwrap()),
            Refusal::UnknownPartition { partition: 8, partitions: 8 },
            Refusal::UnknownGroup { group: "billing".into() },
            Refusal::NotMember { group: "billing".into() },
            Refusal::NotAllowed { who: "spiffe://d/ns/a/sa/b".into(), what: "push".into() },
            Refusal::BadBatch { reason: "a batch without records: push at least one".into() },
            Refusal::TooLarge { bytes: 5, max: 4 },
            Refusal::WrongEpoch { current: 1 },
            Refusal::WrongOffset { next: 300 },
            Refusal::OutOfRange { first: 1, end: 2 },
            Refusal::Full { what: "quota".into(), limit: 1024 },
            Refusal::OutOfSequence { expected: 3 },
            Refusal::Fenced,
            Refusal::Damaged { from: 1, to: 2 },
            Refusal::Busy,
            Refusal::Stopping,
            Refusal::Failed { reason: "input/output error".into() },
            // Whoever refuses so says both.
            Refusal::Bad { reason: "producer 0 is nobody; choose another number".into() },
            Refusal::NotOwner { owner: Some("dnpipes-default-1:7420".into()) },
            Refusal::NotOwner { owner: None },
            Refusal::Locked { secret: "orders-key".into(), key: "key".into(), reason: "is missing".into() },
        ];
        let codes: std::collections::BTreeSet<_> = refusals.iter().map(Refusal::code).collect();
        assert_eq!(codes.len(), kinds(), "each kind of refusal is here");
        for refusal in refusals {
            let text = refusal.to_string();
            let (reason, cure) = text.split_once("; ").expect("a cure");
            assert!(!reason.is_empty() && !cure.is_empty(), "{text}");
            assert!(!text.starts_with(char::is_uppercase) && !text.ends_with('.'), "{text}");
            // A fact is no cure: it says what to do.
            assert!(CURES.iter().any(|verb| cure.starts_with(verb)), "{text}");
        }
    }

    /// How many kinds there are: `code` names each.
    fn kinds() -> usize {
        let source = include_str!("refusal.rs");
        let code = source.split("fn code(").nth(1).unwrap().split("\n    }\n").next().unwrap();
        code.matches("=> \"").count()
    }

    const CURES: [&str; 17] = [
        "`sidestream ",
        "add ",
        "ask ",
        "check ",
        "choose ",
        "end ",
        "enlarge ",
        "join ",
        "look ",
        "name ",
        "pull ",
        "push ",
        "put ",
        "read ",
        "send ",
        "try ",
        "use ",
    ];
}
