//! The body of a request: it has to come whole, in time, and takes room among the large frames of all connections.

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use sidestream_event::{native::Refusal, record::RECORD_BYTES_MAX};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::problem::Problem;
use crate::Shared;

/// Reads a body whole. It keeps its room for as long as the permit lives.
pub(super) async fn read(
    shared: &Shared,
    body: Body,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let too_large = |bytes| Problem::from(Refusal::TooLarge { bytes, max: MAX });
    let announced = body.size_hint();
    if announced.lower() > MAX {
        return Err(too_large(announced.lower()));
    }
    // One that does not say how long it is may be as long as any.
    let most = announced.upper().map_or(MAX, |bytes| bytes.min(MAX));
    let whole = async {
        let room = shared.room.clone().acquire_many_owned(most.div_ceil(1024) as u32).await;
        let bytes = to_bytes(body, RECORD_BYTES_MAX).await;
        (bytes, room.ok())
    };
    match timeout(shared.limits.frame, whole).await {
        Ok((Ok(bytes), room)) => Ok((bytes, room)),
        Ok((Err(error), _)) if is_of_length(&error) => Err(too_large(MAX + 1)),
        Ok((Err(error), _)) => {
            Err(Problem::bad(format!("the body did not come whole: {error}; send it again")))
        }
        Err(_) => Err(Problem::too_slow()),
    }
}

const MAX: u64 = RECORD_BYTES_MAX as u64;

/// Whether it is that there was more than is read.
fn is_of_length(error: &axum::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
