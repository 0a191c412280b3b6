//! Every condition of a Pipeline, worded once: from what is known to what `kubectl` shows.
//!
//! Pure. A status is compared with the one before, and a condition keeps the time of its last change, so that nothing is
//! written when there is nothing new.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use sidestream_control::Counts;
use sidestream_crds::{Diagnostic, PipelineStatus, SidecarPlan};
use sidestream_plan::{Kind, Sink};

use crate::{control::Acknowledged, observed::Pods};

/// The longest message that is written, in bytes; the API server takes 32768.
const MESSAGE_BYTES_MAX: usize = 8192;

/// What a status is made of.
#[derive(Debug)]
pub struct Known<'a> {
    /// The generation of the spec that was looked at.
    pub generation: Option<i64>,
    /// What the compiler found wrong; empty where it accepts the spec.
    pub errors: &'a [Diagnostic],
    /// What runs: of the spec, or of the last one that was accepted. None where nothing ever was.
    pub running: Option<Running<'a>>,
    /// An object that is somebody else's.
    pub conflict: Option<String>,
    /// Whether the sidecars may not have had the time to connect to this replica yet.
    pub is_early: bool,
}

/// What runs.
#[derive(Debug)]
pub struct Running<'a> {
    /// The name of its content.
    pub hash: &'a str,
    /// Whether its sources are to stop.
    pub is_suspended: bool,
    /// Its sidecars.
    pub sidecars: Vec<(&'a SidecarPlan, Option<Pods>, Acknowledged)>,
}

/// The status of a Pipeline that had `before`.
pub fn status(known: &Known<'_>, before: Option<&PipelineStatus>, now: Timestamp) -> PipelineStatus {
    let none = PipelineStatus::default();
    let before = before.unwrap_or(&none);
    let mut conditions = vec![accepted(known)];
    if let Some(running) = &known.running {
        conditions.push(resolved(running));
    }
    conditions.push(ready(known, before));
    conditions.extend(known.running.as_ref().and_then(drained));
    let sidecars = known.running.as_ref().map(|running| &running.sidecars);
    let stages = sidecars.map(|all| all.iter().flat_map(|(sidecar, ..)| &sidecar.plan.stages));
    let is_edge = |kind: &Kind| matches!(kind, Kind::Sink(Sink::Edge(_)));
    let edges = stages.clone().map(|stages| stages.filter(|stage| is_edge(&stage.kind)).count());
    let all = stages.map(Iterator::count);
    let count = |count: Option<usize>| count.and_then(|count| i32::try_from(count).ok());
    PipelineStatus {
        observed_generation: known.generation,
        // An edge has an end in each of two plans; neither is a stage that anybody wrote.
        stages: count(all.zip(edges).map(|(all, edges)| all.saturating_sub(2 * edges))),
        sidecars: count(sidecars.map(Vec::len)),
        edges: count(edges),
        plan: known.running.as_ref().map(|running| running.hash.to_owned()),
        conditions: conditions
            .into_iter()
            .map(|(kind, is, reason, message)| {
                condition(kind, is, reason, message, known.generation, before, now)
            })
            .collect(),
    }
}

/// Type, whether it is so, reason, message.
type Said = (&'static str, Is, &'static str, String);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    True,
    False,
    Unknown,
}

fn accepted(known: &Known<'_>) -> Said {
    if known.errors.is_empty() {
        return ("Accepted", Is::True, "Compiled", "the spec compiles".into());
    }
    let mut message: Vec<String> = known.errors.iter().map(ToString::to_string).collect();
    if let Some(running) = &known.running {
        message.push(format!("plan {} goes on running", running.hash));
    }
    ("Accepted", Is::False, "Invalid", message.join("\n"))
}

fn resolved(running: &Running<'_>) -> Said {
    let missing: Vec<&str> =
        running.sidecars.iter().flat_map(|(.., told)| &told.missing).map(String::as_str).collect();
    if missing.is_empty() {
        return ("ResolvedRefs", Is::True, "Resolved", "nothing that the stages name is missing".into());
    }
    ("ResolvedRefs", Is::False, "Missing", format!("not there: {}", missing.join("; ")))
}

fn ready(known: &Known<'_>, before: &PipelineStatus) -> Said {
    let not = |reason, message| ("Ready", Is::False, reason, message);
    if let Some(conflict) = &known.conflict {
        return not("NameConflict", conflict.clone());
    }
    let Some(running) = &known.running else { return not("NotAccepted", "no spec was accepted yet".into()) };
    if running.is_suspended {
        return not("Suspended", "the pipeline is suspended: its sources have been told to stop".into());
    }
    // The most telling reason of all sidecars: what is refused goes before what is only late.
    let reasons =
        running.sidecars.iter().filter_map(|(sidecar, pods, told)| lacks(&sidecar.name, *pods, told));
    let Some((is, reason, message)) = reasons.min_by_key(|(_, reason, _)| rank(reason)) else {
        return ("Ready", Is::True, "Running", "every stage runs".into());
    };
    // A replica that has just become the leader does not know yet what the sidecars will say.
    let was = before.conditions.iter().find(|condition| condition.type_ == "Ready");
    if let Some(was) = was.filter(|_| reason == "NotConnected" && known.is_early)
        && before.plan.as_deref() == Some(running.hash)
        && was.status == "True"
    {
        return ("Ready", Is::True, "Running", was.message.clone());
    }
    ("Ready", is, reason, message)
}

const REASONS: [&str; 7] = [
    "PlanRefused",
    "ScaledToZero",
    "Creating",
    "PodsNotReady",
    "NotConnected",
    "PlanPending",
    "StagesNotReady",
];

fn rank(reason: &str) -> usize {
    REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len())
}

/// What keeps a sidecar from being ready.
fn lacks(sidecar: &str, pods: Option<Pods>, told: &Acknowledged) -> Option<(Is, &'static str, String)> {
    let no = |reason, message| Some((Is::False, reason, message));
    if let Some((pod, error)) = &told.refused {
        return no("PlanRefused", format!("pod `{pod}` of `{sidecar}` refuses the plan: {error}"));
    }
    let Some(pods) = pods.filter(|pods| pods.is_current) else {
        return no("Creating", format!("the pods of `{sidecar}` are being made"));
    };
    let Pods { wanted, ready, updated, .. } = pods;
    if wanted == 0 {
        return no("ScaledToZero", format!("`{sidecar}` has no pods: it is scaled to zero"));
    }
    if ready.min(updated) < wanted {
        return no(
            "PodsNotReady",
            format!("{} of {wanted} pods of `{sidecar}` are ready", ready.min(updated)),
        );
    }
    let wanted = usize::try_from(wanted).unwrap_or_default();
    let Acknowledged { connected, applied, ready, .. } = told;
    if *connected < wanted {
        let message = format!("{connected} of {wanted} pods of `{sidecar}` are connected to the operator");
        return Some((Is::Unknown, "NotConnected", message));
    }
    if *applied < wanted {
        return no("PlanPending", format!("{applied} of {wanted} pods of `{sidecar}` run the plan"));
    }
    if *ready < wanted {
        let why = told.unready.as_ref().map_or(String::new(), |(pod, why)| format!("; pod `{pod}`: {why}"));
        return no(
            "StagesNotReady",
            format!("the stages work in {ready} of {wanted} pods of `{sidecar}`{why}"),
        );
    }
    None
}

/// Only of what is suspended. Never true before every pod has said that nothing is in flight.
fn drained(running: &Running<'_>) -> Option<Said> {
    if !running.is_suspended {
        return None;
    }
    let mut sum = Counts::default();
    for (sidecar, pods, told) in &running.sidecars {
        let wanted = pods.filter(|pods| pods.is_current).map_or(1, |pods| pods.all.max(pods.wanted));
        let wanted = usize::try_from(wanted).unwrap_or_default();
        if told.drained < wanted || told.connected > told.drained {
            let message = format!("{} of {wanted} pods of `{}` have drained", told.drained, sidecar.name);
            return Some(("Drained", Is::False, "Draining", message));
        }
        sum.accepted += told.counts.accepted;
        sum.completed += told.counts.completed;
        sum.dead_lettered += told.counts.dead_lettered;
        sum.expired += told.counts.expired;
        sum.dropped += told.counts.dropped;
    }
    let Counts { accepted, completed, dead_lettered, expired, dropped, .. } = sum;
    let message = format!(
        "nothing is in flight: accepted {accepted} = completed {completed} + dead-lettered {dead_lettered} + expired \
         {expired} + dropped {dropped}"
    );
    Some(("Drained", Is::True, "Drained", message))
}

fn condition(
    kind: &str,
    is: Is,
    reason: &str,
    mut message: String,
    generation: Option<i64>,
    before: &PipelineStatus,
    now: Timestamp,
) -> Condition {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 4));
        message.push_str(" ...");
    }
    let status = match is {
        Is::True => "True",
        Is::False => "False",
        Is::Unknown => "Unknown",
    };
    let same = before.conditions.iter().find(|before| before.type_ == kind && before.status == status);
    Condition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: same.map_or(Time(now), |same| same.last_transition_time.clone()),
    }
}

/// A condition of a status: its value, reason and message.
pub fn said<'a>(status: Option<&'a PipelineStatus>, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let condition = status?.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&condition.status, &condition.reason, &condition.message))
}

#[cfg(test)]
mod tests {
    use sidestream_crds::compile;

    use super::*;

    const HELLO: &[u8] = b"kind: Pipeline\nmetadata: {name: hello}\nspec:\n  stages:\n  - {name: tick, source: {generator: {}}}\n  - {name: show, sink: {console: {}}}\n";

    fn sidecars() -> Vec<SidecarPlan> {
        compile(HELLO, "hello").pipelines.remove(0).sidecars
    }

    fn pods(wanted: i32, ready: i32) -> Option<Pods> {
        Some(Pods { wanted, updated: wanted, ready, all: wanted, is_current: true })
    }

    fn told(connected: usize, applied: usize, ready: usize) -> Acknowledged {
        Acknowledged { connected, applied, ready, ..Acknowledged::default() }
    }

    fn of(
        pods: Option<Pods>,
        told: Acknowledged,
        is_early: bool,
        before: Option<&PipelineStatus>,
    ) -> PipelineStatus {
        let sidecars = sidecars();
        let running = Running { hash: "h", is_suspended: false, sidecars: vec![(&sidecars[0], pods, told)] };
        let known =
            Known { generation: Some(3), errors: &[], running: Some(running), conflict: None, is_early };
        status(&known, before, Timestamp::UNIX_EPOCH)
    }

    fn ready_reason(status: &PipelineStatus) -> (&str, &str) {
        let (is, reason, _) = said(Some(status), "Ready").unwrap();
        (is, reason)
    }

    #[test]
    fn ready_means_that_every_pod_runs_the_plan_and_its_stages_work() {
        for (pods, told, expected) in [
            (None, told(0, 0, 0), ("False", "Creating")),
            (pods(2, 1), told(1, 1, 1), ("False", "PodsNotReady")),
            (pods(0, 0), told(0, 0, 0), ("False", "ScaledToZero")),
            (pods(2, 2), told(1, 1, 1), ("Unknown", "NotConnected")),
            (pods(2, 2), told(2, 1, 1), ("False", "PlanPending")),
            (pods(2, 2), told(2, 2, 1), ("False", "StagesNotReady")),
            (pods(2, 2), told(2, 2, 2), ("True", "Running")),
        ] {
            assert_eq!(ready_reason(&of(pods, told.clone(), false, None)), expected, "{pods:?} {told:?}");
        }
    }

    #[test]
    fn a_new_leader_does_not_call_unready_what_it_has_not_heard_of_yet() {
        let before = of(pods(1, 1), told(1, 1, 1), false, None);
        assert_eq!(ready_reason(&of(pods(1, 1), told(0, 0, 0), true, Some(&before))), ("True", "Running"));
        assert_eq!(
            ready_reason(&of(pods(1, 1), told(0, 0, 0), false, Some(&before))),
            ("Unknown", "NotConnected")
        );
    }

    #[test]
    fn the_same_again_is_the_same_status() {
        let before = of(pods(1, 1), told(1, 1, 1), false, None);
        let sidecars = sidecars();
        let running = Running {
            hash: "h",
            is_suspended: false,
            sidecars: vec![(&sidecars[0], pods(1, 1), told(1, 1, 1))],
        };
        let known = Known {
            generation: Some(3),
            errors: &[],
            running: Some(running),
            conflict: None,
            is_early: false,
        };
        let later = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(status(&known, Some(&before), later), before);
    }

    #[test]
    fn suspended_is_drained_only_when_every_pod_has_said_so() {
        let sidecars = sidecars();
        let of = |drained| {
            let told = Acknowledged { drained, ..told(2, 2, 0) };
            let running =
                Running { hash: "h", is_suspended: true, sidecars: vec![(&sidecars[0], pods(2, 2), told)] };
            let known = Known {
                generation: None,
                errors: &[],
                running: Some(running),
                conflict: None,
                is_early: false,
            };
            let status = status(&known, None, Timestamp::UNIX_EPOCH);
            said(Some(&status), "Drained").unwrap().0.to_owned()
        };
        assert_eq!((of(1), of(2)), ("False".into(), "True".into()));
    }
}
