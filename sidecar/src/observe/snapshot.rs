//! All figures of one moment as data: what `/stages` and `/ledger` answer, and `sidestream top` reads.
//!
//! Totals, not rates: whoever looks twice divides by the difference of `seconds`.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use sidestream_connector::Ledger;

use super::{Observed, Process, State};
use crate::{Pipeline, StageView};

/// A process and its pipelines at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The version that runs.
    pub version: String,
    /// Where the process is in its life.
    pub state: State,
    /// Monotonic time of this look, since the process began.
    pub seconds: f64,
    /// What the process takes from its machine; absent where the operating system does not say.
    pub process: Option<Process>,
    /// The pipelines, by name.
    pub pipelines: Vec<PipelineSnapshot>,
}

/// One pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipelineSnapshot {
    /// `namespace/name`.
    pub name: String,
    /// Whether every source has come to its end and everything is delivered.
    pub ended: bool,
    /// The stages, in the order of the plan.
    pub stages: Vec<StageSnapshot>,
    /// The rings between them.
    pub rings: Vec<RingSnapshot>,
    /// The books.
    pub ledger: LedgerSnapshot,
}

/// One stage; all numbers since it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageSnapshot {
    /// Its name.
    pub name: String,
    /// `source`, `process` or `sink`.
    pub role: String,
    /// The key of its kind.
    pub kind: String,
    /// Events that came in.
    pub events_in: u64,
    /// Events that went out.
    pub events_out: u64,
    /// Events it could not handle.
    pub errors: u64,
    /// Tries made again.
    pub retries: u64,
    /// Events dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Time spent working.
    pub busy_seconds: f64,
    /// Time from the source to the end of this stage.
    pub latency: LatencySnapshot,
    /// Of a source, events taken in beyond the committed position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_events: Option<u64>,
    /// Why the last event was in error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Quantiles in seconds: upper bounds of buckets that double. 0 where nothing was measured; none beyond the last bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencySnapshot {
    /// Half of the events took no longer.
    pub p50: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99: Option<f64>,
    /// 999 of 1000 took no longer.
    pub p999: Option<f64>,
}

/// One ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingSnapshot {
    /// The stage it leads from.
    pub from: String,
    /// The stage it leads to.
    pub to: String,
    /// Events waiting.
    pub depth_events: u64,
    /// Events from which on it takes no more.
    pub limit_events: u64,
    /// Time the stage in front of it waited for room.
    pub blocked_seconds: f64,
}

/// The books of a pipeline: `accepted = completed + deadLettered + expired + dropped + inFlight`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerSnapshot {
    /// Whether the books of every source balance.
    pub balanced: bool,
    /// Events taken in.
    pub accepted: u64,
    /// Delivered, filtered away, or taken into a state.
    pub completed: u64,
    /// Given to a dead-letter stage.
    pub dead_lettered: u64,
    /// Ended by their time limit.
    pub expired: u64,
    /// Dropped by a policy.
    pub dropped: u64,
    /// None of these yet.
    pub in_flight: u64,
    /// The same for each source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceLedger>,
}

/// The books of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceLedger {
    /// The source stage.
    pub stage: String,
    /// How many events from the first need no replay any more.
    pub committed: u64,
    /// Its books.
    #[serde(flatten)]
    pub ledger: LedgerSnapshot,
}

impl Snapshot {
    /// How things are now. Waits where a pipeline is being reloaded.
    pub fn of(observed: &Observed) -> Snapshot {
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: observed.state(),
            seconds: observed.seconds(),
            process: Process::read(),
            pipelines: observed
                .pipelines()
                .iter()
                .map(|(name, pipeline)| pipeline_now(name, pipeline))
                .collect(),
        }
    }
}

fn pipeline_now(name: &str, pipeline: &Arc<Pipeline>) -> PipelineSnapshot {
    let stages = pipeline.stages();
    let rings = pipeline.rings().into_iter().map(|ring| RingSnapshot {
        from: ring.from,
        to: ring.to,
        depth_events: ring.gauge.depth() as u64,
        limit_events: ring.gauge.limit() as u64,
        blocked_seconds: ring.gauge.blocked_nanos() as f64 / 1e9,
    });
    PipelineSnapshot {
        name: name.to_owned(),
        ended: pipeline.has_ended(),
        stages: stages.iter().map(stage_now).collect(),
        rings: rings.collect(),
        ledger: ledger_of(&stages),
    }
}

fn stage_now(stage: &StageView) -> StageSnapshot {
    let stats = &stage.stats;
    // JSON has no infinity, which is what lies beyond the last bound.
    let quantile = |share| Some(stats.latency.quantile_seconds(share)).filter(|seconds| seconds.is_finite());
    StageSnapshot {
        name: stage.name.clone(),
        role: stage.role.to_owned(),
        kind: stage.kind.to_owned(),
        events_in: stats.events_in.get(),
        events_out: stats.events_out.get(),
        errors: stats.errors.get(),
        retries: stats.retries.get(),
        dropped: stats.dropped().into_iter().map(|(reason, events)| (reason.to_owned(), events)).collect(),
        busy_seconds: stats.busy_nanos.get() as f64 / 1e9,
        latency: LatencySnapshot { p50: quantile(0.5), p99: quantile(0.99), p999: quantile(0.999) },
        lag_events: stage.ledger.map(|ledger| ledger.accepted.saturating_sub(ledger.committed)),
        last_error: stats.last_error(),
    }
}

pub(super) fn ledger_of(stages: &[StageView]) -> LedgerSnapshot {
    let books: Vec<(&str, Ledger)> =
        stages.iter().filter_map(|stage| Some((stage.name.as_str(), stage.ledger?))).collect();
    // What a queue hands out was counted when it came in.
    let is_within = |name: &str| stages.iter().any(|stage| stage.name == name && stage.kind == "spill");
    let come_in = books.iter().filter(|(name, _)| !is_within(name));
    let all = come_in.fold(Ledger::default(), |sum, (_, own)| sum.plus(*own));
    let sources = books.iter().map(|(stage, own)| SourceLedger {
        stage: (*stage).to_owned(),
        committed: own.committed,
        ledger: books_of(*own),
    });
    LedgerSnapshot {
        balanced: books.iter().all(|(_, own)| own.is_balanced()),
        sources: sources.collect(),
        ..books_of(all)
    }
}

fn books_of(ledger: Ledger) -> LedgerSnapshot {
    LedgerSnapshot {
        balanced: ledger.is_balanced(),
        accepted: ledger.accepted,
        completed: ledger.completed,
        dead_lettered: ledger.dead_lettered,
        expired: ledger.expired,
        dropped: ledger.dropped,
        in_flight: ledger.in_flight,
        sources: Vec::new(),
    }
}
