//! Which sidecar each stage lives in: the one it names, or else that of its first input.

use sidestream_plan::OnError;

use super::{Report, keyed::Owners, names};
use crate::{
    diagnostic::Code,
    path::{Path, shortened},
    pipeline::{Pipeline, PipelineSpec, SidecarSpec},
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
    wiring: &[Vec<usize>],
    on_error: &[OnError],
    report: &mut Report,
) -> Placement {
    let spec = &pipeline.spec;
    let sidecars = match spec.sidecars.as_slice() {
        [] => vec![SidecarSpec {
            name: names::ONLY_SIDECAR.into(),
            workload: Some(Default::default()),
            ..SidecarSpec::default()
        }],
        written => written.to_vec(),
    };
    check_repeats(&sidecars, report);
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
    Placement { sidecars, of_stage }
}

fn check_repeats(sidecars: &[SidecarSpec], report: &mut Report) {
    for (index, sidecar) in sidecars.iter().enumerate() {
        if let Some(first) = sidecars[..index].iter().position(|other| other.name == sidecar.name) {
            let path = Path::top().field("spec").field("sidecars").element(index).field("name");
            let reason = format!("`{}` is already the name of sidecar {}", sidecar.name, first + 1);
            report.say(Code::DuplicateSidecar, path, reason, "give every sidecar a name of its own");
        }
    }
}

impl Placement {
    /// Says where the objects of a sidecar could not be called as they would be.
    pub(super) fn check_names(&self, pipeline: &Pipeline, owners: &Owners, report: &mut Report) {
        let of_pipeline = pipeline.metadata.name.as_deref().unwrap_or_default();
        for (index, sidecar) in self.sidecars.iter().enumerate() {
            if self.sidecars[..index].iter().any(|other| other.name == sidecar.name) {
                continue;
            }
            let object = names::object(of_pipeline, &sidecar.name);
            let is_owner = owners.lead_into(|stage| self.of_stage[stage] == index);
            let (kind, most) = match is_owner {
                true => ("StatefulSet", names::SET_BYTES_MAX),
                false => ("Service", names::LABEL_BYTES_MAX),
            };
            let is_label = object.len() <= most
                && !object.contains('.')
                && object.starts_with(|first: char| first.is_ascii_lowercase());
            if !is_label {
                let reason = format!(
                    "its {kind} would be called `{}`, and a {kind}'s name begins with a letter, has no dot and at most \
                     {most} characters",
                    shortened(&object),
                );
                let path = Path::top().fields(&["metadata", "name"]);
                report.say(Code::LongName, path, reason, "give the pipeline or the sidecar another name");
            }
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
