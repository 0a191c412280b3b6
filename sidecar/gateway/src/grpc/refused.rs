//! A refusal as gRPC says it: a code, the words of every refusal, and in the details its name and what a program decides by
//! (google/rpc/error_details.proto).

use std::collections::BTreeMap;

use prost::Message;
use sidestream_event::native::Refusal;
use tonic::{Code, Status};

use super::proto::Refused;

/// The status of a call that is refused.
pub(crate) fn refused(refusal: Refusal) -> Status {
    let is_worth_retrying = refusal.is_worth_retrying() && !is_elsewhere(&refusal);
    status(code(&refusal), in_words(refusal), is_worth_retrying)
}

/// To whoever begins a message and does not send all of it.
pub(crate) fn too_slow() -> Status {
    overdue("TOO_SLOW", "the message did not come whole in time; send it again, or a smaller one")
}

/// To whoever pushes nothing on a stream for long.
pub(super) fn idle() -> Status {
    overdue("IDLE", "nothing was pushed for long; begin another stream when there is something")
}

fn overdue(reason: &str, message: &str) -> Status {
    let (code, facts) = (Code::DeadlineExceeded, [].into());
    let refused = Refused { code: code.into(), reason: reason.into(), message: message.into(), facts };
    status(code, refused, false)
}

/// The same where a stream goes on.
pub(super) fn in_words(refusal: Refusal) -> Refused {
    Refused {
        code: code(&refusal).into(),
        reason: refusal.code().replace('-', "_").to_uppercase(),
        message: refusal.to_string(),
        facts: facts(refusal).into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::UnknownDnpipe(_) | Refusal::UnknownPartition { .. } | Refusal::UnknownGroup { .. } => {
            Code::NotFound
        }
        Refusal::NotAllowed { .. } => Code::PermissionDenied,
        Refusal::BadBatch { .. } | Refusal::TooLarge { .. } | Refusal::Bad { .. } => Code::InvalidArgument,
        Refusal::WrongEpoch { .. } | Refusal::WrongOffset { .. } | Refusal::OutOfSequence { .. } => {
            Code::Aborted
        }
        // To ask again changes nothing: another has its place, or the dnpipe is elsewhere.
        Refusal::Fenced | Refusal::NotMember { .. } | Refusal::NotOwner { owner: Some(_) } => {
            Code::FailedPrecondition
        }
        Refusal::OutOfRange { .. } => Code::OutOfRange,
        Refusal::Full { .. } => Code::ResourceExhausted,
        Refusal::Damaged { .. } => Code::DataLoss,
        Refusal::Failed { .. } => Code::Internal,
        Refusal::Busy | Refusal::Stopping | Refusal::Locked { .. } | Refusal::NotOwner { owner: None } => {
            Code::Unavailable
        }
    }
}

fn is_elsewhere(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NotOwner { owner: Some(_) })
}

fn facts(refusal: Refusal) -> Vec<(&'static str, String)> {
    match refusal {
        Refusal::UnknownDnpipe(name) => vec![("dnpipe", name.to_string())],
        Refusal::UnknownPartition { partition, partitions } => {
            vec![("partition", partition.to_string()), ("partitions", partitions.to_string())]
        }
        Refusal::UnknownGroup { group } | Refusal::NotMember { group } => vec![("group", group)],
        Refusal::NotAllowed { who, what } => vec![("who", who), ("what", what)],
        Refusal::TooLarge { bytes, max } => vec![("bytes", bytes.to_string()), ("max", max.to_string())],
        Refusal::WrongEpoch { current } => vec![("current", current.to_string())],
        Refusal::WrongOffset { next } => vec![("next", next.to_string())],
        Refusal::OutOfRange { first, end } => vec![("first", first.to_string()), ("end", end.to_string())],
        Refusal::Full { what, limit } => vec![("what", what), ("limit", limit.to_string())],
        Refusal::OutOfSequence { expected } => vec![("expected", expected.to_string())],
        Refusal::Damaged { from, to } => vec![("from", from.to_string()), ("to", to.to_string())],
        Refusal::NotOwner { owner } => owner.map(|owner| ("owner", owner)).into_iter().collect(),
        Refusal::Locked { secret, key, .. } => vec![("secret", secret), ("key", key)],
        Refusal::BadBatch { .. }
        | Refusal::Fenced
        | Refusal::Busy
        | Refusal::Stopping
        | Refusal::Failed { .. }
        | Refusal::Bad { .. } => Vec::new(),
    }
}

fn status(code: Code, refused: Refused, is_worth_retrying: bool) -> Status {
    let info = ErrorInfo {
        reason: refused.reason,
        domain: DOMAIN.into(),
        metadata: refused.facts.into_iter().collect(),
    };
    let retry = RetryInfo { retry_delay: Some(RETRY_AFTER) };
    let mut details = vec![any("ErrorInfo", &info)];
    details.extend(is_worth_retrying.then(|| any("RetryInfo", &retry)));
    let whole = RpcStatus { code: code.into(), message: refused.message.clone(), details };
    Status::with_details(code, refused.message, whole.encode_to_vec().into())
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}

/// google.rpc.Status
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// google.protobuf.Any
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// google.rpc.ErrorInfo
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// google.rpc.RetryInfo
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Span>,
}

/// google.protobuf.Duration
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Who names the reasons.
const DOMAIN: &str = "sidestream.dev";
/// When to ask again: what is in the way passes within fractions of a second, or takes a server's start.
const RETRY_AFTER: Span = Span { seconds: 0, nanos: 200_000_000 };

#[cfg(test)]
mod tests {
    use super::*;

    /// As `docs/reference/grpc-api.md` has them.
    #[test]
    fn every_refusal_has_its_code_its_reason_and_its_facts() {
        let name: sidestream_event::native::DnpipeName = "shop/orders".parse().unwrap();
        let text = || "x".to_owned();
        let all = [
            (Refusal::UnknownDnpipe(name), Code::NotFound, "UNKNOWN_DNPIPE", "dnpipe=shop/orders"),
            (
                Refusal::UnknownPartition { partition: 7, partitions: 3 },
                Code::NotFound,
                "UNKNOWN_PARTITION",
                "partition=7 partitions=3",
            ),
            (Refusal::UnknownGroup { group: text() }, Code::NotFound, "UNKNOWN_GROUP", "group=x"),
            (Refusal::NotMember { group: text() }, Code::FailedPrecondition, "NOT_MEMBER", "group=x"),
            (
                Refusal::NotAllowed { who: text(), what: "push".into() },
                Code::PermissionDenied,
                "NOT_ALLOWED",
                "what=push who=x",
            ),
            (Refusal::BadBatch { reason: text() }, Code::InvalidArgument, "BAD_BATCH", ""),
            (Refusal::TooLarge { bytes: 2, max: 1 }, Code::InvalidArgument, "TOO_LARGE", "bytes=2 max=1"),
            (Refusal::WrongEpoch { current: 1 }, Code::Aborted, "WRONG_EPOCH", "current=1"),
            (Refusal::WrongOffset { next: 1 }, Code::Aborted, "WRONG_OFFSET", "next=1"),
            (Refusal::OutOfRange { first: 1, end: 2 }, Code::OutOfRange, "OUT_OF_RANGE", "end=2 first=1"),
            (
                Refusal::Full { what: "disk".into(), limit: 1 },
                Code::ResourceExhausted,
                "FULL",
                "limit=1 what=disk",
            ),
            (Refusal::OutOfSequence { expected: 1 }, Code::Aborted, "OUT_OF_SEQUENCE", "expected=1"),
            (Refusal::Fenced, Code::FailedPrecondition, "FENCED", ""),
            (Refusal::Damaged { from: 1, to: 2 }, Code::DataLoss, "DAMAGED", "from=1 to=2"),
            (Refusal::Busy, Code::Unavailable, "BUSY", ""),
            (Refusal::Stopping, Code::Unavailable, "STOPPING", ""),
            (Refusal::Failed { reason: text() }, Code::Internal, "FAILED", ""),
            (Refusal::Bad { reason: text() }, Code::InvalidArgument, "BAD_REQUEST", ""),
            (Refusal::NotOwner { owner: None }, Code::Unavailable, "NOT_OWNER", ""),
            (Refusal::NotOwner { owner: Some(text()) }, Code::FailedPrecondition, "NOT_OWNER", "owner=x"),
            (
                Refusal::Locked { secret: text(), key: "k".into(), reason: text() },
                Code::Unavailable,
                "LOCKED",
                "key=k secret=x",
            ),
        ];
        for (refusal, code, reason, facts) in all {
            let words = refusal.to_string();
            let status = refused(refusal);
            assert_eq!((status.code(), status.message()), (code, &*words));
            let whole = RpcStatus::decode(status.details()).unwrap();
            let info = ErrorInfo::decode(&whole.details[0].value[..]).unwrap();
            assert_eq!((&*info.reason, &*info.domain), (reason, DOMAIN));
            let found: Vec<_> = info.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(found.join(" "), facts);
            // What may be asked again as it is says when, and nothing else does.
            assert_eq!(whole.details.len() > 1, code == Code::Unavailable, "{reason}");
        }
    }
}
