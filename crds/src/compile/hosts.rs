//! Which pods each sidecar runs in: does it say so once, and can they be selected and found.

use sidestream_plan::OnError;

use super::{Report, placement::Placement};
use crate::{
    diagnostic::Code,
    path::Path,
    pipeline::{PipelineSpec, SidecarSpec},
};

/// Says what is wrong with the pods that sidecars name.
pub(super) fn check(
    spec: &PipelineSpec,
    wiring: &[Vec<usize>],
    on_error: &[OnError],
    placement: &Placement,
    report: &mut Report,
) {
    for (index, sidecar) in spec.sidecars.iter().enumerate() {
        let path = Path::top().field("spec").field("sidecars").element(index);
        let receives = || receives(index, spec, wiring, on_error, placement);
        if sidecar.transport.is_some() && !receives() {
            let reason = format!("no edge leads into `{}`, so nothing is carried to it", sidecar.name);
            let cure = "write it at the sidecar that receives, or leave it out";
            report.say(Code::UnusedTransport, path.field("transport"), reason, cure);
        }
        match (&sidecar.workload, &sidecar.inject) {
            (None, None) => {
                let reason = format!("`{}` does not say which pods it runs in", sidecar.name);
                let cure =
                    "write `workload: {}` for pods that the operator makes, or `inject` for pods of your own";
                report.say(Code::NoHost, path, reason, cure);
            }
            (Some(_), Some(_)) => {
                let reason = format!("`{}` has both `workload` and `inject`", sidecar.name);
                report.say(Code::TwoHosts, path, reason, "keep one of them");
            }
            (None, Some(_)) => {
                let path = path.field("inject").field("podSelector");
                check_selector(sidecar, &spec.sidecars[..index], receives(), path, report);
            }
            (Some(_), None) => {}
        }
    }
}

/// The selector of `sidecar`, which comes after `others`.
fn check_selector(
    sidecar: &SidecarSpec,
    others: &[SidecarSpec],
    receives: bool,
    path: Path,
    report: &mut Report,
) {
    let Some(inject) = &sidecar.inject else { return };
    let selector = &inject.pod_selector;
    if let Some((reason, cure)) = selector.fault() {
        return report.say(Code::BadSelector, path, reason, cure);
    }
    if let Some(other) = others.iter().find(|other| other.inject.as_ref() == Some(inject)) {
        let reason = format!("`{}` selects the same pods, and a pod has one sidecar", other.name);
        let cure = format!("run the stages of both in `{}`", other.name);
        return report.say(Code::SamePods, path, reason, cure);
    }
    if receives && !selector.match_expressions.is_empty() {
        let reason = format!(
            "an edge leads into `{}`, and the Service that finds its pods cannot select by expressions",
            sidecar.name
        );
        let path = path.field("matchExpressions");
        report.say(Code::NoService, path, reason, "write what distinguishes the pods in `matchLabels` alone");
    }
}

/// Whether events or dead letters of other sidecars come to this one.
fn receives(
    own: usize,
    spec: &PipelineSpec,
    wiring: &[Vec<usize>],
    on_error: &[OnError],
    placement: &Placement,
) -> bool {
    let is_own = |stage: usize| placement.of_stage[stage] == own;
    (0..spec.stages.len()).any(|stage| {
        let letters = on_error[stage].dead_letter.as_ref();
        let letters = letters.and_then(|name| spec.stages.iter().position(|other| other.name == *name));
        let comes_from_abroad = |input: &usize| is_own(stage) && !is_own(*input);
        let sends_letters = !is_own(stage) || wiring[stage].iter().any(|input| !is_own(*input));
        wiring[stage].iter().any(comes_from_abroad) || letters.is_some_and(is_own) && sends_letters
    })
}
