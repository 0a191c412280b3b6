//! `sidestream plan`: what would run. Stages in a box are fused: one task calls them one after the other; between boxes
//! stands a ring.

use std::{collections::BTreeSet, fmt::Write, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use serde_json::Value;
use sidestream_crds::{Severity, SidecarPlan};
use sidestream_plan::{
    Kind, Overflow, Plan, Priority, Run, Sink, Source, Stage,
    stage::{EdgeSink, EdgeTransport},
};

use super::wrong;
use crate::{
    files::{compile_all, plural},
    output::{complain, print},
};

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct ShowPlan {
    /// Files of pipelines
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How to show it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// A list of plans, for programs.
    Json,
    /// A diagram, for documents.
    Mermaid,
}

impl ShowPlan {
    pub(crate) fn run(self) -> ExitCode {
        let compiled = compile_all(&self.files);
        if !compiled.is_ok() {
            compiled.said(Severity::Warning).for_each(|said| complain(format_args!("{said}\n")));
            complain(compiled.summary());
            return wrong();
        }
        match self.format {
            Format::Text => {
                let all = compiled.plans.iter().zip(&compiled.sidecars);
                print(
                    all.map(|(plan, sidecars)| text(plan) + &edges(sidecars)).collect::<Vec<_>>().join("\n"),
                )
            }
            Format::Json => print(format_args!("{:#}\n", serde_json::json!(compiled.plans))),
            Format::Mermaid => print(compiled.plans.iter().map(mermaid).collect::<Vec<_>>().join("\n")),
        }
    }
}

/// The plan for people.
pub(crate) fn text(plan: &Plan) -> String {
    let width = plan.stages.iter().map(|stage| stage.name.len()).max().unwrap_or(0);
    let kind_width = plan.stages.iter().map(|stage| kind(stage).len()).max().unwrap_or(0);
    let mut text = format!(
        "{}: {} in {}, {}\n",
        plan.pipeline,
        plural(plan.stages.len(), "stage"),
        plural(plan.runs.len(), "run"),
        plural(rings(plan).count(), "ring"),
    );
    for (number, run) in plan.runs.iter().enumerate() {
        // Writing to memory does not fail.
        let _ = writeln!(text, "╭─ run {}{}", number + 1, priority(plan, run));
        for (from, to) in rings(plan).filter(|(_, to)| *to == run.stages[0]) {
            let _ = writeln!(text, "│  ◀═ {}, {}", plan.stages[from].name, ring(&plan.stages[to]));
        }
        let failing = failing_to(plan, run.stages[0]);
        if !failing.is_empty() {
            let _ = writeln!(text, "│  ◀═ errors of {}", failing.join(", "));
        }
        for index in &run.stages {
            let stage = &plan.stages[*index];
            let row = format!("│  {:width$}  {:kind_width$}  {}", stage.name, kind(stage), settings(stage));
            let _ = writeln!(text, "{}", row.trim_end());
            if let Some(when) = condition(stage).filter(|_| *index != run.stages[0]) {
                let _ = writeln!(text, "│  {:width$}  {when}", "");
            }
        }
        text += "╰─\n";
    }
    text
}

/// What joins the sidecars, for people.
fn edges(sidecars: &[SidecarPlan]) -> String {
    let name_of = |edge: &EdgeSink| {
        let receives =
            |stage: &Stage| matches!(&stage.kind, Kind::Source(Source::Edge(own)) if own.edge == edge.edge);
        let receiver = sidecars.iter().find(|other| other.plan.stages.iter().any(receives));
        receiver.map_or("", |receiver| &receiver.name)
    };
    let all: Vec<(&str, &EdgeSink)> = (sidecars.iter())
        .flat_map(|own| own.plan.stages.iter().map(|stage| (own.name.as_str(), &stage.kind)))
        .filter_map(
            |(from, kind)| if let Kind::Sink(Sink::Edge(edge)) = kind { Some((from, edge)) } else { None },
        )
        .collect();
    if all.is_empty() {
        return String::new();
    }
    let width = all.iter().map(|(_, edge)| edge.edge.len()).max().unwrap_or(0);
    let mut text = String::from("╭─ edges between sidecars\n");
    for (from, edge) in all {
        let owners = edge.slots.as_ref().map(|slots| {
            let pods: BTreeSet<u32> = slots.ordinals.iter().copied().collect();
            let by = slots.by.as_ref().map_or("nothing", |by| by.source());
            format!(", {} share the keys of {by}", plural(pods.len(), "pod"))
        });
        let quic = if edge.transport == EdgeTransport::Quic { ", Quic" } else { "" };
        let (name, to, owners) = (&edge.edge, name_of(edge), owners.unwrap_or_default());
        let _ = writeln!(text, "│  {name:width$}  {from} ═▶ {to}{owners}{quic}");
    }
    text + "╰─\n"
}

/// The plan as a Mermaid flowchart.
fn mermaid(plan: &Plan) -> String {
    let mut text = format!("%% {}\nflowchart TD\n", plan.pipeline);
    for (number, run) in plan.runs.iter().enumerate() {
        let _ = writeln!(text, "  subgraph run{0} [\"run {0}\"]", number + 1);
        for index in &run.stages {
            let stage = &plan.stages[*index];
            let _ = writeln!(text, "    s{index}[\"{}<br/>{}\"]", stage.name, kind(stage));
        }
        text += "  end\n";
        for pair in run.stages.windows(2) {
            let _ = match condition(&plan.stages[pair[1]]) {
                Some(when) => writeln!(text, "  s{} -->|\"{}\"| s{}", pair[0], quoted(&when), pair[1]),
                None => writeln!(text, "  s{} --> s{}", pair[0], pair[1]),
            };
        }
    }
    for (from, to) in rings(plan) {
        let _ = writeln!(text, "  s{from} ==>|\"{}\"| s{to}", quoted(&ring(&plan.stages[to])));
    }
    for (index, stage) in plan.stages.iter().enumerate() {
        let letters = stage.on_error.dead_letter.as_deref().and_then(|name| plan.stage(name));
        if let Some((to, _)) = letters.filter(|(to, _)| *to != index) {
            let _ = writeln!(text, "  s{index} -.->|errors| s{to}");
        }
    }
    text
}

/// The stages that a ring joins: those that one run does not hold together.
fn rings(plan: &Plan) -> impl Iterator<Item = (usize, usize)> + '_ {
    let fused = |from, to| plan.runs.iter().any(|run| run.stages.contains(&from) && run.stages.contains(&to));
    let pairs =
        plan.stages.iter().enumerate().flat_map(|(to, stage)| stage.from.iter().map(move |from| (*from, to)));
    pairs.filter(move |(from, to)| !fused(*from, *to))
}

/// The stages whose dead letters go to stage `to`.
fn failing_to(plan: &Plan, to: usize) -> Vec<&str> {
    let letters = |stage: &&Stage| stage.on_error.dead_letter.as_deref() == Some(&plan.stages[to].name);
    let others = plan.stages.iter().enumerate().filter(|(index, _)| *index != to).map(|(_, stage)| stage);
    others.filter(letters).map(|stage| stage.name.as_str()).collect()
}

fn ring(to: &Stage) -> String {
    let capacity = to.input.capacity.map_or("8192".to_owned(), |events| events.to_string());
    let overflow = match to.input.overflow {
        Overflow::Block => "Block",
        Overflow::DropOldest => "DropOldest",
        Overflow::DropNewest => "DropNewest",
        Overflow::Spill => "Spill",
    };
    let condition = condition(to).map(|when| format!(", {when}")).unwrap_or_default();
    format!("ring of {capacity} events, {overflow}{condition}")
}

fn condition(stage: &Stage) -> Option<String> {
    let when = stage.when.as_ref().map(|when| format!("when {}", when.source()));
    when.or(stage.otherwise.then(|| "otherwise".to_owned()))
}

fn priority(plan: &Plan, run: &Run) -> String {
    let priority = run.stages.iter().map(|index| plan.stages[*index].priority).max().unwrap_or_default();
    if priority == Priority::Normal { String::new() } else { format!(", priority {priority:?}") }
}

fn kind(stage: &Stage) -> String {
    format!("{}/{}", stage.kind.role(), stage.kind.name())
}

/// What was written under the kind, on one line.
fn settings(stage: &Stage) -> String {
    let whole = serde_json::to_value(&stage.kind).unwrap_or_default();
    // `{"process": {"filter": {...}}}`: what is under the two keys.
    let inner = only(&whole).and_then(only);
    let line = inner.map(flow).unwrap_or_default();
    if line.chars().count() > SETTINGS_CHARS_MAX {
        return line.chars().take(SETTINGS_CHARS_MAX - 3).collect::<String>() + "...";
    }
    line
}

fn only(value: &Value) -> Option<&Value> {
    value.as_object()?.values().next()
}

/// As YAML would be written on one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let fields = map.iter().map(|(name, value)| format!("{name}: {}", flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    text.replace('"', "#quot;")
}

const SETTINGS_CHARS_MAX: usize = 100;
