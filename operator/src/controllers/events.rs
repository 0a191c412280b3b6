//! Events: what a person should notice when they `kubectl describe` a Pipeline or a Dnpipe.

use k8s_openapi::{
    api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp,
};
use kube::runtime::events::{Event, EventType, Recorder};
use sidestream_host::Clock;

use crate::status::said_in;

/// The longest note the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1000;
/// What passes by itself is no event.
const PASSING: [&str; 12] = [
    "Pending",
    "Moving",
    "Settled",
    "Unknown",
    "Creating",
    "PodsNotReady",
    "NotConnected",
    "NoPods",
    "PlanPending",
    "StagesNotReady",
    "EdgesLeaving",
    "NotAccepted",
];

/// Tells of the conditions whose reasons are new in `new`. Failing to tell keeps nobody from going on.
pub(super) async fn tell(
    recorder: &Recorder,
    whose: &ObjectReference,
    kinds: &[&str],
    before: &[Condition],
    new: &[Condition],
) {
    for kind in kinds {
        let Some((is, reason, message)) = said_in(new, kind) else { continue };
        let was = said_in(before, kind);
        let is_news = was.is_none_or(|(was, because, _)| (was, because) != (is, reason));
        // That all is as it should be is worth saying only where it was not.
        let is_plain =
            was.is_none() && matches!(reason, "Resolved" | "Compiled" | "Enough" | "Uring" | "File");
        if !is_news || is_plain || PASSING.contains(&reason) {
            continue;
        }
        let mut note = message.to_owned();
        note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
        let event = Event {
            type_: if is == "True" || reason == "Suspended" || reason == "Draining" {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, whose).await {
            tracing::info!(%error, reason, "an event is not told");
        }
    }
}

/// The time for a status.
pub(super) fn now(clock: &Clock) -> Timestamp {
    // Kubernetes keeps whole seconds.
    Timestamp::from_second(clock.wall_nanos().div_euclid(1_000_000_000)).unwrap_or_default()
}
