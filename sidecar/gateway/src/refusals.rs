//! What the broker says, in the words of the protocol.

use sidestream_broker::{GroupError, KeyRef, Locked, PullError, PushError, ResetError, Room};
use sidestream_event::{
    native::{FRAME_BYTES_MAX, FrameError, Frames, Refusal},
    record::{RECORD_BYTES_MAX, RecordError},
};

pub(crate) fn of_push(error: PushError) -> Refusal {
    match error {
        PushError::Unknown(name) => Refusal::UnknownDnpipe(name),
        PushError::UnknownPartition { partition, partitions } => {
            Refusal::UnknownPartition { partition, partitions }
        }
        PushError::BadBatch(error) => of_record(error),
        PushError::WrongEpoch { current } => Refusal::WrongEpoch { current },
        PushError::WrongOffset { next } => Refusal::WrongOffset { next },
        PushError::OutOfSequence { expected } => Refusal::OutOfSequence { expected },
        PushError::Fenced { .. } => Refusal::Fenced,
        PushError::Full { what, limit } => {
            let what = match what {
                Room::Quota => "quota",
                Room::Disk => "disk",
            };
            Refusal::Full { what: what.into(), limit }
        }
        PushError::TooLarge { bytes, max } => Refusal::TooLarge { bytes, max },
        PushError::Moving => Refusal::NotOwner { owner: None },
        PushError::Busy => Refusal::Busy,
        PushError::Locked(locked) => of_lock(locked),
        PushError::Failed { reason } => Refusal::Failed { reason: reason.to_string() },
        PushError::Closed => Refusal::Stopping,
        error @ (PushError::Forgotten { .. } | PushError::TooManyProducers) => {
            Refusal::Bad { reason: error.to_string() }
        }
    }
}

/// Of bytes that are no frame, and the number of the request that they were to be, or [`NO_REQUEST`] where that has not come. Behind
/// it nothing can be understood: whoever says so hangs up.
pub fn of_no_frame(frames: &mut Frames, error: FrameError) -> (u32, Refusal) {
    let number = frames.buffer().get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let max = FRAME_BYTES_MAX as u64 - 4;
    let refusal = match error {
        FrameError::Length(bytes) if u64::from(bytes) > max => Refusal::TooLarge { bytes: bytes.into(), max },
        error => Refusal::Bad { reason: error.to_string() },
    };
    (number.unwrap_or(NO_REQUEST), refusal)
}

/// The number of no request.
pub const NO_REQUEST: u32 = u32::MAX;

/// Of bytes that make no batch. How large a record is, is its pusher's choice, whatever client that has.
pub(crate) fn of_record(error: RecordError) -> Refusal {
    match error {
        RecordError::RecordTooLarge { bytes } => {
            Refusal::TooLarge { bytes: bytes as u64, max: RECORD_BYTES_MAX as u64 }
        }
        error => Refusal::BadBatch { reason: error.to_string() },
    }
}

/// Of a push that had its place. Where its dnpipe went meanwhile, with its records to another server or for good, the push may be
/// among them: who is told that there is no such dnpipe, or that another has it, would push again what may be stored.
pub(crate) fn of_begun_push(error: PushError) -> Refusal {
    match error {
        PushError::Unknown(_) => Refusal::Stopping,
        error => of_push(error),
    }
}

pub(crate) fn of_pull(error: PullError) -> Refusal {
    match error {
        PullError::Unknown(name) => Refusal::UnknownDnpipe(name),
        PullError::UnknownPartition { partition, partitions } => {
            Refusal::UnknownPartition { partition, partitions }
        }
        PullError::OutOfRange { first, end } => Refusal::OutOfRange { first, end },
        PullError::Damaged { from, to } => Refusal::Damaged { from, to },
        PullError::Locked(locked) => of_lock(locked),
        PullError::Failed { reason } => Refusal::Failed { reason: reason.to_string() },
        PullError::Closed => Refusal::Stopping,
    }
}

fn of_lock(Locked { key: KeyRef { name: secret, key }, reason }: Locked) -> Refusal {
    Refusal::Locked { secret, key, reason }
}

pub(crate) fn of_group(error: GroupError) -> Refusal {
    match error {
        GroupError::Pull(error) => of_pull(error),
        GroupError::UnknownGroup { group } => Refusal::UnknownGroup { group },
        GroupError::NotMember { group } => Refusal::NotMember { group },
        GroupError::Write(error) => of_push(error),
        error => Refusal::Bad { reason: error.to_string() },
    }
}

pub(crate) fn of_reset(error: ResetError) -> Refusal {
    match error {
        ResetError::Unknown(name) => Refusal::UnknownDnpipe(name),
        ResetError::Write(error) => of_push(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_too_large_is_no_fault_of_the_client_s_release() {
        let (bytes, max) = (RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX as u64);
        let refused = of_push(PushError::BadBatch(RecordError::RecordTooLarge { bytes }));
        assert_eq!(refused, Refusal::TooLarge { bytes: max + 1, max });
        let refused = of_push(PushError::BadBatch(RecordError::HeaderSum));
        assert_eq!(refused.code(), "bad-batch");
    }
}
