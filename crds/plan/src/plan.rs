//! The plan: stages in order, how they are joined, and which of them are fused.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Duration, Expression, Kind, SecretRef};

/// The newest version of this form; a sidecar refuses a plan of a later one.
pub const PLAN_VERSION: u32 = 2;
/// The version from which on a plan may have another [`Delivery`]: what an older sidecar would not see, it must refuse.
const VERSION_OF_DELIVERY: u32 = 2;

/// Everything one sidecar needs to run one pipeline. Made by the compiler, so every reference in it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The oldest version that knows all of it: [`PLAN_VERSION`] at most.
    pub version: u32,
    /// `namespace/name` of the Pipeline.
    pub pipeline: String,
    /// The stage kinds it needs, sorted: a sidecar that lacks one refuses the plan by name.
    pub kinds: Vec<String>,
    /// How the workers wait.
    pub latency: Latency,
    /// How often a result may be there.
    #[serde(default, skip_serializing_if = "Delivery::is_default")]
    pub delivery: Delivery,
    /// Stages in the order they were written: each takes input only from stages before it.
    pub stages: Vec<Stage>,
    /// Which stages are fused: every stage is in exactly one run.
    pub runs: Vec<Run>,
}

/// A linear run of stages that one worker calls one after the other, with no ring between them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Indices into [`Plan::stages`], in order of the data.
    pub stages: Vec<usize>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Its name, unique in the pipeline.
    pub name: String,
    /// Indices of the stages it takes events from; none for a source and for a pure dead-letter sink.
    pub from: Vec<usize>,
    /// Takes only events this says yes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    /// Takes only events that no sibling's `when` took.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub otherwise: bool,
    /// Which stages go first when there is not time for all.
    pub priority: Priority,
    /// The queue in front of it.
    pub input: Input,
    /// What happens to an event it cannot handle.
    pub on_error: OnError,
    /// What it does.
    pub kind: Kind,
}

/// How often the result of an event may be there, whatever crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// Nothing is missing; after a crash some of it is there twice.
    #[default]
    AtLeastOnce,
    /// Nothing is missing and nothing is there twice: from dnpipes to dnpipes, through stages that make the same of the same event.
    ExactlyOnce,
}

impl Delivery {
    /// The oldest version of a plan that may have it.
    pub fn version(self) -> u32 {
        if self.is_default() { 1 } else { VERSION_OF_DELIVERY }
    }

    fn is_default(&self) -> bool {
        *self == Delivery::AtLeastOnce
    }
}

/// How workers wait for events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Latency {
    /// Sleep when there is nothing to do: an idle sidecar burns nothing.
    #[default]
    Park,
    /// Spin: the lowest latency, for whole cores.
    Busy,
}

/// A scheduling class. A higher class goes first; every class gets a share all the same.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Priority {
    /// When nothing else waits.
    Low,
    /// The ordinary class.
    #[default]
    Normal,
    /// Before the ordinary.
    High,
    /// Before everything.
    Critical,
}

/// The queue in front of a stage, where it has one: fused stages have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// How many events may wait, with `overflow: Spill` how many in memory; absent means 8192. A stage that names a capacity
    /// gets a ring of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub capacity: Option<u32>,
    /// What happens when it is full; Block by default.
    #[serde(default, skip_serializing_if = "Overflow::is_block")]
    pub overflow: Overflow,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Overflow {
    /// The stages before it wait, back to the source, which stops reading.
    #[default]
    Block,
    /// The events that have waited longest go, counted as dropped.
    DropOldest,
    /// The events that come go, counted as dropped.
    DropNewest,
    /// All that waits goes to the disk, in order, and comes back when the stage has room. What is on the disk counts as taken:
    /// its source is answered, and a crash loses none of it. Needs a data directory; when that has no more room, the stages
    /// before it wait.
    Spill,
}

impl Overflow {
    fn is_block(&self) -> bool {
        *self == Overflow::Block
    }
}

/// What happens to an event a stage cannot handle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnError {
    /// How a sink tries again when its peer does not take a batch. Absent: it tries until the peer does, and the
    /// stages before it wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The sink stage that gets events nobody could handle, with the stage that failed and the reason in their headers;
    /// `console`, `file`, `webhook` and `dnpipe` write both. Absent: they are counted as dropped, and logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub dead_letter: Option<String>,
}

/// How often, and how long apart, a sink tries again. The wait doubles from `initial` to `max`, with jitter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Tries after the first before the batch counts as failed; absent means without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub limit: Option<u32>,
    /// The first wait; `100ms` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Duration>,
    /// The longest wait; `30s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

impl Plan {
    /// The stage called `name`, with its index.
    pub fn stage(&self, name: &str) -> Option<(usize, &Stage)> {
        self.stages.iter().enumerate().find(|(_, stage)| stage.name == name)
    }

    /// Whether two stages are called one after the other, with no ring between them.
    pub fn are_fused(&self, from: usize, to: usize) -> bool {
        self.runs.iter().any(|run| run.stages.contains(&from) && run.stages.contains(&to))
    }

    /// Every ring, as the indices of the stages it leads from and to: wherever a stage takes from one it is not fused
    /// with. In the order of the stages they lead to.
    pub fn rings(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let to = self.stages.iter().enumerate();
        let pairs = to.flat_map(|(to, stage)| stage.from.iter().map(move |from| (*from, to)));
        pairs.filter(|(from, to)| !self.are_fused(*from, *to))
    }

    /// The Secrets its stages name, each with the keys that are wanted of it.
    ///
    /// Looked for in the serialised plan, so that a stage kind that is added tomorrow is covered.
    pub fn secrets(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut found = BTreeMap::new();
        collect_secrets(&serde_json::to_value(self).unwrap_or_default(), &mut found);
        found
    }

    /// The stages that take events from stage `index`, in order.
    pub fn consumers(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.stages.len()).filter(move |consumer| self.stages[*consumer].from.contains(&index))
    }
}

fn collect_secrets(value: &Value, found: &mut BTreeMap<String, BTreeSet<String>>) {
    if let Ok(SecretRef { secret_ref }) = SecretRef::deserialize(value) {
        found.entry(secret_ref.name).or_default().insert(secret_ref.key);
        return;
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|value| collect_secrets(value, found)),
        Value::Array(items) => items.iter().for_each(|value| collect_secrets(value, found)),
        _ => {}
    }
}
