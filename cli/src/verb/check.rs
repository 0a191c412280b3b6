//! `sidestream check`: everything that is wrong with files, or worth knowing, and nothing started.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use serde_json::json;
use sidestream_crds::Severity;

use super::wrong;
use crate::{
    files::{Compiled, compile_all, plural},
    output::print,
};

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Files of pipelines and dnpipes
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How to say it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Check {
    pub(crate) fn run(self) -> ExitCode {
        let compiled = compile_all(&self.files);
        let printed = match self.format {
            Format::Text => print(as_text(&compiled)),
            Format::Json => print(format_args!("{:#}\n", as_json(&compiled))),
        };
        if compiled.is_ok() { printed } else { wrong() }
    }
}

fn as_text(compiled: &Compiled) -> String {
    let mut text: String = compiled.said(Severity::Note).map(|said| said + "\n\n").collect();
    if compiled.is_ok() {
        for dnpipe in &compiled.dnpipes {
            let partitions = plural(dnpipe.partitions as usize, "partition");
            text += &format!("{}: ok, {partitions}, {:?}\n", dnpipe.full_name(), dnpipe.durability);
        }
        for plan in &compiled.plans {
            let (stages, runs) = (plural(plan.stages.len(), "stage"), plural(plan.runs.len(), "run"));
            text += &format!("{}: ok, {stages} in {runs}\n", plan.pipeline);
        }
    }
    let summary = compiled.summary();
    if !summary.is_empty() {
        text += &format!("{summary}\n");
    }
    text
}

fn as_json(compiled: &Compiled) -> serde_json::Value {
    let troubles = compiled.troubles.iter().map(|trouble| json!(trouble));
    let diagnostics = troubles.chain(compiled.diagnostics.iter().map(|diagnostic| json!(diagnostic)));
    let names: Vec<_> = compiled.plans.iter().map(|plan| &plan.pipeline).collect();
    let dnpipes: Vec<_> = compiled.dnpipes.iter().map(sidestream_plan::Dnpipe::full_name).collect();
    json!({ "ok": compiled.is_ok(), "pipelines": names, "dnpipes": dnpipes, "diagnostics": diagnostics.collect::<Vec<_>>() })
}
