//! What is shown: rates, shares and books, made of two looks.

use std::collections::HashMap;

use serde::Serialize;
use sidestream_sidecar::observe::{
    LedgerSnapshot, PipelineSnapshot, Process, Snapshot, StageSnapshot, State,
};

/// A process as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub(super) version: String,
    pub(super) state: State,
    pub(super) uptime_seconds: f64,
    /// Share of one core.
    pub(super) cpu_share: Option<f64>,
    pub(super) process: Option<Process>,
    pub(super) pipelines: Vec<PipelineView>,
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PipelineView {
    pub(super) name: String,
    pub(super) ended: bool,
    pub(super) ledger: LedgerSnapshot,
    pub(super) stages: Vec<StageView>,
    /// The stage everything waits for, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bottleneck: Option<String>,
}

/// A stage; a rate is none at the first look.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StageView {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) in_per_second: Option<f64>,
    pub(super) out_per_second: Option<f64>,
    /// Share of one core spent working in it.
    pub(super) busy_share: Option<f64>,
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
    /// Events in the rings in front of it, and how many these take; none where it is fused to the stage before.
    pub(super) waiting: Option<(u64, u64)>,
    pub(super) events_in: u64,
    pub(super) events_out: u64,
    pub(super) errors: u64,
    pub(super) dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_error: Option<String>,
}

impl View {
    /// What happened from one look to another; without an earlier one there are no rates.
    pub(super) fn between(before: Option<&Snapshot>, now: &Snapshot) -> View {
        // A process that was started again counts from zero.
        let before = before.filter(|before| before.seconds < now.seconds);
        let span = before.map(|before| now.seconds - before.seconds);
        let cpu = |look: &Snapshot| look.process.map(|process| process.cpu_seconds);
        let cpu_share = before.and_then(|before| Some((cpu(now)? - cpu(before)?) / span?));
        let pipelines = now.pipelines.iter().map(|pipeline| {
            let earlier =
                before.and_then(|before| before.pipelines.iter().find(|own| own.name == pipeline.name));
            pipeline_view(earlier, pipeline, span)
        });
        View {
            version: now.version.clone(),
            state: now.state,
            uptime_seconds: now.seconds,
            cpu_share,
            process: now.process,
            pipelines: pipelines.collect(),
        }
    }
}

fn pipeline_view(
    before: Option<&PipelineSnapshot>,
    now: &PipelineSnapshot,
    span: Option<f64>,
) -> PipelineView {
    let earlier: HashMap<&str, &StageSnapshot> = before
        .into_iter()
        .flat_map(|before| &before.stages)
        .map(|stage| (stage.name.as_str(), stage))
        .collect();
    let stages: Vec<StageView> = now
        .stages
        .iter()
        .map(|stage| {
            let earlier = earlier.get(stage.name.as_str());
            let per_second =
                |count: fn(&StageSnapshot) -> f64| Some((count(stage) - count(earlier?)).max(0.0) / span?);
            let rings: Vec<_> = now.rings.iter().filter(|ring| ring.to == stage.name).collect();
            let (depth, limit) =
                rings.iter().fold((0, 0), |sum, ring| (sum.0 + ring.depth_events, sum.1 + ring.limit_events));
            StageView {
                name: stage.name.clone(),
                kind: format!("{}/{}", stage.role, stage.kind),
                in_per_second: per_second(|own| own.events_in as f64),
                out_per_second: per_second(|own| own.events_out as f64),
                busy_share: per_second(|own| own.busy_seconds),
                p50_seconds: stage.latency.p50,
                p99_seconds: stage.latency.p99,
                waiting: (!rings.is_empty()).then_some((depth, limit)),
                events_in: stage.events_in,
                events_out: stage.events_out,
                errors: stage.errors,
                dropped: stage.dropped.values().sum(),
                last_error: stage.last_error.clone(),
            }
        })
        .collect();
    PipelineView {
        name: now.name.clone(),
        ended: now.ended,
        ledger: now.ledger.clone(),
        bottleneck: bottleneck(&stages),
        stages,
    }
}

/// The last stage whose ring is nearly full: those before it are full because of it.
fn bottleneck(stages: &[StageView]) -> Option<String> {
    let is_full = |stage: &&StageView| stage.waiting.is_some_and(|(depth, limit)| depth * 10 >= limit * 9);
    stages.iter().rev().find(is_full).map(|stage| stage.name.clone())
}

#[cfg(test)]
pub(super) mod tests {
    use sidestream_sidecar::observe::{LatencySnapshot, RingSnapshot};

    use super::*;

    pub(in super::super) fn snapshot(seconds: f64, events: u64) -> Snapshot {
        let stage = |name: &str, role: &str, kind: &str| StageSnapshot {
            name: name.into(),
            role: role.into(),
            kind: kind.into(),
            events_in: events,
            events_out: events,
            errors: 0,
            retries: 0,
            dropped: [("full".into(), 2)].into(),
            busy_seconds: seconds / 4.0,
            latency: LatencySnapshot { p50: Some(0.000_256), p99: Some(0.5), p999: None },
            lag_events: None,
            last_error: None,
        };
        let ring = |depth_events| RingSnapshot {
            from: "tick".into(),
            to: "show".into(),
            depth_events,
            limit_events: 100,
            blocked_seconds: 0.0,
        };
        Snapshot {
            version: "0.1.0".into(),
            state: State::Ready,
            seconds,
            process: Some(Process {
                cpu_seconds: seconds / 2.0,
                resident_bytes: 9 << 20,
                ..Process::default()
            }),
            pipelines: vec![PipelineSnapshot {
                name: "default/hello".into(),
                ended: false,
                stages: vec![stage("tick", "source", "generator"), stage("show", "sink", "console")],
                rings: vec![ring(events.min(95))],
                ledger: LedgerSnapshot { balanced: true, accepted: events, ..LedgerSnapshot::default() },
            }],
        }
    }

    #[test]
    fn two_looks_make_a_rate() {
        let view = View::between(Some(&snapshot(1.0, 10)), &snapshot(3.0, 50));
        let stage = &view.pipelines[0].stages[1];
        assert_eq!(
            (stage.in_per_second, stage.busy_share, stage.waiting),
            (Some(20.0), Some(0.25), Some((50, 100)))
        );
        assert_eq!((view.cpu_share, view.pipelines[0].bottleneck.as_deref()), (Some(0.5), None));
    }

    #[test]
    fn the_first_look_and_a_process_started_again_have_no_rates() {
        assert_eq!(View::between(None, &snapshot(1.0, 10)).pipelines[0].stages[0].in_per_second, None);
        let again = View::between(Some(&snapshot(9.0, 90)), &snapshot(1.0, 10));
        assert_eq!(again.pipelines[0].stages[0].in_per_second, None);
    }

    #[test]
    fn the_stage_behind_a_full_ring_is_the_bottleneck() {
        let view = View::between(None, &snapshot(1.0, 1000));
        assert_eq!(view.pipelines[0].bottleneck.as_deref(), Some("show"));
    }
}
