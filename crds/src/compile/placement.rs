//! Which sidecar each stage lives in: the one it names, or else that of its first input.

use sidestream_plan::{Kind, OnError, Process};

use super::{Report, names};
use crate::{
    diagnostic::Code,
    path::{Path, shortened},
    pipeline::{Host, Pipeline, PipelineSpec, SidecarSpec},
    suggest::instead,
};

/// Where stages live.
pub(super) struct Placement {
    /// The sidecars, one at least.
    pub(super) sidecars: Vec<SidecarSpec>,
    /// The sidecar of every stage, as an index.
    pub(super) of_stage: Vec<usize>,
}

/// Puts every stage into a sidecar. Where that cannot be said, into the first.
pub(super) fn resolve(
    pipeline: &Pipeline,
    kinds: &[Kind],
    wiring: &[Vec<usize>],
    on_error: &[OnError],
    report: &mut Report,
) -> Placement {
    let spec = &pipeline.spec;
    let sidecars = match spec.sidecars.as_slice() {
        [] => vec![SidecarSpec {
            name: names::ONLY_SIDECAR.into(),
            workload: Some(Default::default()),
            inject: None,
        }],
        written => written.to_vec(),
    };
    check_names(pipeline, &sidecars, report);
    let mut of_stage: Vec<Option<usize>> = Vec::new();
    for (index, stage) in spec.stages.iter().enumerate() {
        let place = match &stage.sidecar {
            Some(name) => named(name, index, &sidecars, report),
            None if sidecars.len() == 1 => Some(0),
            None => wiring[index].first().and_then(|input| of_stage[*input]),
        };
        of_stage.push(place);
    }
    for index in 0..of_stage.len() {
        if of_stage[index].is_none() && spec.stages[index].sidecar.is_none() {
            // A sink that takes only dead letters lives with the first stage that sends it some.
            let name = Some(&spec.stages[index].name);
            let sender = on_error.iter().position(|on_error| on_error.dead_letter.as_ref() == name);
            of_stage[index] = sender.and_then(|sender| of_stage[sender]);
            if wiring[index].is_empty() && of_stage[index].is_none() {
                say_no_sidecar(spec, index, &sidecars, report);
            }
        }
    }
    let of_stage: Vec<usize> = of_stage.into_iter().map(Option::unwrap_or_default).collect();
    for (index, sidecar) in spec.sidecars.iter().enumerate() {
        let is_first = spec.sidecars[..index].iter().all(|other| other.name != sidecar.name);
        if of_stage.contains(&index) || !is_first {
            continue;
        }
        let path = Path::top().field("spec").field("sidecars").element(index);
        let reason = format!("no stage runs in the sidecar `{}`", sidecar.name);
        let cure = format!("write `sidecar: {}` at a stage, or take the sidecar out", sidecar.name);
        report.say(Code::UnusedSidecar, path, reason, cure);
    }
    check_state(spec, kinds, wiring, &sidecars, &of_stage, report);
    Placement { sidecars, of_stage }
}

fn check_names(pipeline: &Pipeline, sidecars: &[SidecarSpec], report: &mut Report) {
    let of_pipeline = pipeline.metadata.name.as_deref().unwrap_or_default();
    for (index, sidecar) in sidecars.iter().enumerate() {
        let path = Path::top().field("spec").field("sidecars").element(index).field("name");
        if let Some(first) = sidecars[..index].iter().position(|other| other.name == sidecar.name) {
            let reason = format!("`{}` is already the name of sidecar {}", sidecar.name, first + 1);
            report.say(Code::DuplicateSidecar, path, reason, "give every sidecar a name of its own");
            continue;
        }
        let object = names::object(of_pipeline, &sidecar.name);
        let is_label = object.len() <= names::LABEL_BYTES_MAX
            && !object.contains('.')
            && object.starts_with(|first: char| first.is_ascii_lowercase());
        if !is_label {
            let reason = format!(
                "its Service would be called `{}`, and a Service's name begins with a letter, has no dot and at most {} \
                 characters",
                shortened(&object),
                names::LABEL_BYTES_MAX
            );
            let path = Path::top().fields(&["metadata", "name"]);
            report.say(Code::LongName, path, reason, "give the pipeline or the sidecar another name");
        }
    }
}

/// Events that come by an edge go to any of the receiving pods, so a stage there that brings events of a key together would
/// see a part of them in each.
fn check_state(
    spec: &PipelineSpec,
    kinds: &[Kind],
    wiring: &[Vec<usize>],
    sidecars: &[SidecarSpec],
    of_stage: &[usize],
    report: &mut Report,
) {
    let mut is_spread: Vec<bool> = Vec::new();
    for (index, inputs) in wiring.iter().enumerate() {
        let own = of_stage[index];
        is_spread.push(inputs.iter().any(|input| of_stage[*input] != own || is_spread[*input]));
        // How many pods of theirs there are is the user's to say, at any time.
        let (replicas, pods) = match sidecars[own].host().unwrap_or_default() {
            Host::Workload(workload) => {
                let replicas = workload.replicas.unwrap_or(1);
                (replicas, format!("each of the {replicas} pods of `{}`", sidecars[own].name))
            }
            Host::Inject(_) => (i32::MAX, format!("each of the pods that `{}` is in", sidecars[own].name)),
        };
        let keeps_state = matches!(
            kinds[index],
            Kind::Process(Process::Window(_) | Process::Dedupe(_) | Process::Threshold(_))
        );
        if is_spread[index] && keeps_state && replicas > 1 {
            let (name, sidecar) = (&spec.stages[index].name, &sidecars[own].name);
            let reason = format!("{pods} would see a part of the events that `{name}` brings together");
            let cure = match sidecars[own].inject {
                None => format!(
                    "write `replicas: 1` at the sidecar `{sidecar}`, or run `{name}` where its events begin"
                ),
                Some(_) => format!("run `{name}` where its events begin, or in a sidecar with `workload`"),
            };
            report.say(Code::SpreadState, Path::stage(index), reason, cure);
        }
    }
}

fn named(name: &str, stage: usize, sidecars: &[SidecarSpec], report: &mut Report) -> Option<usize> {
    let found = sidecars.iter().position(|sidecar| sidecar.name == name);
    if found.is_none() {
        let reason = format!("no sidecar is called `{}`", shortened(name));
        let known = sidecars.iter().map(|sidecar| sidecar.name.as_str());
        let cure = instead(name, known, "name it in `spec.sidecars`");
        report.say(Code::UnknownSidecar, Path::stage(stage).field("sidecar"), reason, cure);
    }
    found
}

fn say_no_sidecar(spec: &PipelineSpec, stage: usize, sidecars: &[SidecarSpec], report: &mut Report) {
    let names: Vec<String> = sidecars.iter().map(|sidecar| format!("`{}`", sidecar.name)).collect();
    let reason = format!(
        "`{}` has no input to follow, and there are {} sidecars",
        spec.stages[stage].name,
        names.len()
    );
    let cure = format!("write `sidecar:` with one of {}", names.join(", "));
    report.say(Code::NoSidecar, Path::stage(stage), reason, cure);
}
