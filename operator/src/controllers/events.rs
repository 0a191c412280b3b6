//! Events: what a person should notice when they `kubectl describe` a Pipeline.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Resource,
    runtime::events::{Event, EventType, Recorder},
};
use sidestream_crds::{Pipeline, PipelineStatus};
use sidestream_host::Clock;

use crate::status::said;

/// The longest note the API server takes, in bytes.
const NOTE_BYTES_MAX: usize = 1000;
/// What passes by itself is no event.
const PASSING: [&str; 8] = [
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
    pipeline: &Pipeline,
    before: Option<&PipelineStatus>,
    new: &PipelineStatus,
) {
    for kind in ["Accepted", "ResolvedRefs", "Ready", "Drained"] {
        let Some((is, reason, message)) = said(Some(new), kind) else { continue };
        let was = said(before, kind);
        let is_news = was.is_none_or(|(was, because, _)| (was, because) != (is, reason));
        // That all is as it should be is worth saying only where it was not.
        let is_plain = was.is_none() && matches!(reason, "Resolved" | "Compiled");
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
        if let Err(error) = recorder.publish(&event, &pipeline.object_ref(&())).await {
            tracing::info!(%error, reason, "an event is not told");
        }
    }
}

/// The time for a status.
pub(super) fn now(clock: &Clock) -> Timestamp {
    // Kubernetes keeps whole seconds.
    Timestamp::from_second(clock.wall_nanos().div_euclid(1_000_000_000)).unwrap_or_default()
}
