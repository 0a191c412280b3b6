//! Every condition of a Pipeline, and of a [`dnpipe`], worded once: from what is known to what `kubectl` shows.
//!
//! Pure. A status is compared with the one before, and a condition keeps the time of its last change, so that nothing is
//! written when there is nothing new.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use sidestream_control::Counts;
use sidestream_crds::{Diagnostic, PipelineStatus, SidecarPlan};
use sidestream_desired::{edges_out, receives};
use sidestream_plan::{Kind, Sink, Source};

use crate::{control::Acknowledged, observed::Pods, user_pods::UserPod};

pub mod dnpipe;

/// The longest message that is written, in bytes; the API server takes 32768.
const MESSAGE_BYTES_MAX: usize = 8192;
/// Names that are listed in one; the rest are counted.
const NAMES_MAX: usize = 10;

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
    /// Sidecars that it has no more, and that still run their part.
    pub parting: Vec<String>,
    /// Its sidecars.
    pub sidecars: Vec<Part<'a>>,
}

/// One sidecar.
#[derive(Debug)]
pub struct Part<'a> {
    /// What it is to run.
    pub sidecar: &'a SidecarPlan,
    /// Where.
    pub crew: Crew<'a>,
    /// What it says.
    pub said: Acknowledged,
}

/// The pods a sidecar runs in.
#[derive(Clone, Copy, Debug)]
pub enum Crew<'a> {
    /// Made by the operator; none where they are not known yet.
    Made(Option<Pods>),
    /// The user's that host it.
    Users(&'a [UserPod]),
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
    conditions.extend(known.running.as_ref().and_then(|running| drained(running, before, known.generation)));
    let sidecars = known.running.as_ref().map(|running| &running.sidecars);
    let stages = sidecars.map(|all| all.iter().flat_map(|part| &part.sidecar.plan.stages));
    let is_edge = |kind: &Kind| matches!(kind, Kind::Sink(Sink::Edge(_)));
    let edges = stages.clone().map(|stages| stages.filter(|stage| is_edge(&stage.kind)).count());
    // Nor are the ends of a queue that goes to disk, which are both in one.
    let is_written =
        |kind: &Kind| !matches!(kind, Kind::Sink(Sink::Spill(_)) | Kind::Source(Source::Spill(_)));
    let all = stages.map(|stages| stages.filter(|stage| is_written(&stage.kind)).count());
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
                condition((kind, is, reason, message), known.generation, &before.conditions, now)
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
    let unmounted: Vec<String> = running.sidecars.iter().flat_map(unmounted).collect();
    if !unmounted.is_empty() {
        let message =
            format!("named since these pods were made, so restart them: {}", listed(&unmounted, "; "));
        return ("ResolvedRefs", Is::False, "NeedsRestart", message);
    }
    let missing: Vec<&str> =
        running.sidecars.iter().flat_map(|part| &part.said.missing).map(String::as_str).collect();
    if missing.is_empty() {
        return ("ResolvedRefs", Is::True, "Resolved", "nothing that the stages name is missing".into());
    }
    ("ResolvedRefs", Is::False, "Missing", format!("not there: {}", missing.join("; ")))
}

/// What the stages name of Secrets that a pod of the user's got a sidecar without.
fn unmounted(part: &Part<'_>) -> Vec<String> {
    let Crew::Users(pods) = part.crew else { return Vec::new() };
    let wanted = part.sidecar.plan.secrets();
    let lacking = |pod: &UserPod| -> Vec<&str> {
        let has = |name: &String| pod.secrets.get(name).cloned().unwrap_or_default();
        let lacks = wanted.iter().filter(|(name, keys)| !keys.is_subset(&has(name)));
        lacks.map(|(name, _)| name.as_str()).collect()
    };
    let staying = pods.iter().filter(|pod| pod.runs(&part.sidecar.plan) && !pod.is_leaving);
    staying
        .filter_map(|pod| {
            let lacking = lacking(pod);
            (!lacking.is_empty()).then(|| format!("Secret {} in pod `{}`", lacking.join(", "), pod.name))
        })
        .collect()
}

/// Some names, and how many more there are.
fn listed(names: &[String], separator: &str) -> String {
    let shown = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(separator);
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
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
    let reasons = running.sidecars.iter().filter_map(lacks);
    let Some((is, reason, message)) = reasons.min_by_key(|(_, reason, _)| rank(reason)) else {
        return ("Ready", Is::True, "Running", "every stage runs".into());
    };
    // A replica that has just become the leader does not know yet what the sidecars will say.
    let was = was_ready(Some(before), running.hash).filter(|_| reason == "NotConnected" && known.is_early);
    if let Some(message) = was {
        return ("Ready", Is::True, "Running", message.to_owned());
    }
    ("Ready", is, reason, message)
}

const REASONS: [&str; 12] = [
    "PlanRefused",
    "PortClash",
    "NotInjected",
    "SeveralAccounts",
    "NoPods",
    "ScaledToZero",
    "Creating",
    "PodsNotReady",
    "NotConnected",
    "PlanPending",
    "StagesNotReady",
    "EdgesLeaving",
];

fn rank(reason: &str) -> usize {
    REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len())
}

type Lack = (Is, &'static str, String);

/// How many pods of ours should be connected, or what keeps them from it.
fn made(sidecar: &str, pods: Option<Pods>) -> Result<usize, (&'static str, String)> {
    let Some(pods) = pods.filter(|pods| pods.is_current) else {
        return Err(("Creating", format!("the pods of `{sidecar}` are being made")));
    };
    let Pods { wanted, ready, updated, .. } = pods;
    if wanted == 0 {
        return Err(("ScaledToZero", format!("`{sidecar}` has no pods: it is scaled to zero")));
    }
    let ready = ready.min(updated);
    if ready < wanted {
        return Err(("PodsNotReady", format!("{ready} of {wanted} pods of `{sidecar}` are ready")));
    }
    Ok(usize::try_from(wanted).unwrap_or_default())
}

/// How many pods of the user's should be connected, or what keeps them from it.
fn injected(sidecar: &SidecarPlan, pods: &[UserPod]) -> Result<usize, (&'static str, String)> {
    let name = &sidecar.name;
    let staying = || pods.iter().filter(|pod| !pod.is_leaving);
    let without: Vec<String> = staying().filter(|pod| !pod.has_sidecar).map(|pod| pod.name.clone()).collect();
    if !without.is_empty() {
        let message = format!(
            "pods of `{name}` got no sidecar when they were made; restart them: {}",
            listed(&without, ", ")
        );
        return Err(("NotInjected", message));
    }
    let clash = |pod: &UserPod| Some((pod.name.clone(), pod.clash(&sidecar.plan)?));
    let clashes: Vec<(String, i32)> = staying().filter_map(clash).collect();
    if let Some((_, port)) = clashes.first() {
        let names: Vec<String> = clashes.iter().map(|(pod, _)| pod.clone()).collect();
        let message = format!(
            "a stage of `{name}` listens on port {port}, which a container of the pod has, so these pods do not run the \
             plan; choose another: {}",
            listed(&names, ", ")
        );
        return Err(("PortClash", message));
    }
    let mut accounts: Vec<String> = staying().map(|pod| pod.account.clone()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    if receives(&sidecar.plan) && accounts.len() > 1 {
        let message = format!(
            "the pods of `{name}` run as several service accounts, and an edge into it leads to those of `{}` alone: {}",
            accounts[0],
            listed(&accounts, ", ")
        );
        return Err(("SeveralAccounts", message));
    }
    match staying().count() {
        0 => {
            let message =
                format!("`{name}` selects no pod that has the label `sidestream.dev/inject: enabled`");
            Err(("NoPods", message))
        }
        wanted => Ok(wanted),
    }
}

/// What keeps a sidecar from being ready.
fn lacks(part: &Part<'_>) -> Option<Lack> {
    let (sidecar, told) = (&part.sidecar.name, &part.said);
    let no = |reason, message| Some((Is::False, reason, message));
    if let Some((pod, error)) = &told.refused {
        return no("PlanRefused", format!("pod `{pod}` of `{sidecar}` refuses the plan: {error}"));
    }
    let wanted = match part.crew {
        Crew::Made(pods) => made(sidecar, pods),
        Crew::Users(pods) => injected(part.sidecar, pods),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err((reason, message)) => return no(reason, message),
    };
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
    if !told.leaving.is_empty() {
        let edges: Vec<String> = told.leaving.iter().cloned().collect();
        let message = format!(
            "`{sidecar}` still delivers what it had for edges that the plan no longer has, or that lead elsewhere now: {}",
            listed(&edges, ", ")
        );
        return no("EdgesLeaving", message);
    }
    None
}

/// Whether every pod of a sidecar has said that nothing is in flight.
pub fn has_drained(part: &Part<'_>) -> bool {
    part.said.drained >= to_drain(part) && part.said.connected <= part.said.drained
}

/// Whether nothing more comes out of a sidecar by `edge`: every pod of it has said so, or has drained.
pub fn has_closed(part: &Part<'_>, edge: &str) -> bool {
    // A pod that still has an edge of an older plan has not come to this one yet.
    let is_ours = |open: &String| edges_out(&part.sidecar.plan).any(|own| own == open);
    let is_closed = |open: &&Vec<String>| open.iter().all(|open| open != edge && is_ours(open));
    let closed = part.said.drained + part.said.open.iter().filter(is_closed).count();
    closed >= to_drain(part) && part.said.connected <= closed
}

/// How many pods must say so.
fn to_drain(part: &Part<'_>) -> usize {
    match part.crew {
        Crew::Made(pods) => {
            let current = pods.filter(|pods| pods.is_current);
            let wanted = current.map_or(1, |pods| pods.all.max(pods.wanted));
            usize::try_from(wanted).unwrap_or_default()
        }
        Crew::Users(pods) => {
            pods.iter().filter(|pod| pod.runs(&part.sidecar.plan) && !pod.is_leaving).count()
        }
    }
}

/// Whether every pod of a sidecar is connected and has said what it does.
pub fn is_heard(part: &Part<'_>) -> bool {
    part.said.heard >= to_drain(part).max(part.said.connected)
}

/// Whether the status `before` says of this generation and plan that all has drained.
pub fn was_drained(before: Option<&PipelineStatus>, generation: Option<i64>, hash: &str) -> bool {
    let Some(before) = before.filter(|before| before.plan.as_deref() == Some(hash)) else { return false };
    let said = before.conditions.iter().find(|condition| condition.type_ == "Drained");
    said.is_some_and(|said| said.status == "True" && said.observed_generation == generation)
}

/// The message of the status `before` where it says that this plan ran whole.
pub fn was_ready<'a>(before: Option<&'a PipelineStatus>, hash: &str) -> Option<&'a str> {
    let before = before.filter(|before| before.plan.as_deref() == Some(hash));
    said(before, "Ready").filter(|(is, ..)| *is == "True").map(|(_, _, message)| message)
}

/// Only of what is suspended. True when as many pods as each sidecar should have, and all that are connected, have said of
/// this plan that nothing is in flight; pods of the user's that end are waited for only while they are connected. Then it
/// stays true for this generation and plan, whoever is not connected: what has stopped is not started again.
fn drained(running: &Running<'_>, before: &PipelineStatus, generation: Option<i64>) -> Option<Said> {
    if !running.is_suspended {
        return None;
    }
    let was_drained = was_drained(Some(before), generation, running.hash);
    if let Some((_, _, message)) = said(Some(before), "Drained").filter(|_| was_drained) {
        return Some(("Drained", Is::True, "Drained", message.to_owned()));
    }
    if let Some(parting) = running.parting.first() {
        let message = format!("`{parting}`, which the pipeline has no more, has not drained");
        return Some(("Drained", Is::False, "Draining", message));
    }
    let mut sum = Counts::default();
    for part @ Part { sidecar, said: told, .. } in &running.sidecars {
        if !has_drained(part) {
            let message =
                format!("{} of {} pods of `{}` have drained", told.drained, to_drain(part), sidecar.name);
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
    (kind, is, reason, mut message): Said,
    generation: Option<i64>,
    before: &[Condition],
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
    let same = before.iter().find(|before| before.type_ == kind && before.status == status);
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
    said_in(&status?.conditions, kind)
}

/// The same of some conditions.
pub fn said_in<'a>(conditions: &'a [Condition], kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let condition = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&condition.status, &condition.reason, &condition.message))
}

#[cfg(test)]
mod tests;
