//! Who gets what nobody could handle: the `onError` of every stage, with the pipeline's own filled in.

use sidestream_plan::{Kind, OnError, Retry};

use super::{Report, settings::takes_time};
use crate::{
    diagnostic::Code,
    path::{Path, shortened},
    pipeline::PipelineSpec,
    suggest::instead,
};

/// What every stage does with an event it cannot handle. `retry` is for sinks alone; the sink that takes the dead letters
/// of the whole pipeline has none of its own unless it says so, since they would come back to it.
pub(super) fn resolve(spec: &PipelineSpec, kinds: &[Kind], report: &mut Report) -> Vec<OnError> {
    let failure = Failure { spec, kinds };
    let top = Path::top().field("spec").field("onError");
    let default = spec.on_error.clone().unwrap_or_default();
    failure.check(&default, &top, report);
    let resolved: Vec<OnError> = (0..kinds.len())
        .map(|index| {
            let own = spec.stages[index].on_error.clone().unwrap_or_default();
            let path = Path::stage(index).field("onError");
            failure.check(&own, &path, report);
            let is_sink = matches!(kinds[index], Kind::Sink(_));
            if own.retry.is_some() && !is_sink {
                let reason = format!("a {} has no peer to try again", kinds[index].role());
                report.say(
                    Code::RetryOffSink,
                    path.field("retry"),
                    reason,
                    "move `retry` to a sink, or to `spec.onError`",
                );
            }
            let name = Some(&spec.stages[index].name);
            OnError {
                retry: own.retry.or_else(|| default.retry.clone()).filter(|_| is_sink),
                dead_letter: own
                    .dead_letter
                    .or_else(|| default.dead_letter.clone().filter(|sink| Some(sink) != name)),
            }
        })
        .collect();
    failure.check_loops(&resolved, report);
    resolved
}

struct Failure<'a> {
    spec: &'a PipelineSpec,
    kinds: &'a [Kind],
}

impl Failure<'_> {
    fn check(&self, on_error: &OnError, path: &Path, report: &mut Report) {
        if let Some(name) = &on_error.dead_letter {
            let path = path.field("deadLetter");
            match self.index(name) {
                None => {
                    let reason = format!("no stage is called `{}`", shortened(name));
                    report.say(
                        Code::UnknownStage,
                        path,
                        reason,
                        instead(name, self.sinks(), "add a sink for them"),
                    );
                }
                Some(index) if !matches!(self.kinds[index], Kind::Sink(_)) => {
                    let reason =
                        format!("`{name}` is a {}, and dead letters end in a sink", self.kinds[index].role());
                    report.say(
                        Code::DeadLetterOffSink,
                        path,
                        reason,
                        instead(name, self.sinks(), "add a sink for them"),
                    );
                }
                Some(_) => {}
            }
        }
        let Some(Retry { initial, max, .. }) = &on_error.retry else { return };
        let path = path.field("retry");
        takes_time(path.field("initial"), *initial, report);
        takes_time(path.field("max"), *max, report);
        if let (Some(initial), Some(max)) = (initial, max)
            && initial > max
        {
            let reason = format!("the first wait, {initial}, is longer than the longest, {max}");
            report.say(Code::BadRetry, path.field("max"), reason, format!("write at least `{initial}`"));
        }
    }

    /// Follows the dead letters of every sink; a loop is reported at its first stage alone.
    fn check_loops(&self, resolved: &[OnError], report: &mut Report) {
        for start in 0..resolved.len() {
            let mut way = vec![start];
            let mut at = start;
            while let Some(next) = resolved[at].dead_letter.as_ref().and_then(|name| self.index(name)) {
                if next == start && way.iter().all(|stage| *stage >= start) {
                    let names: Vec<&str> =
                        way.iter().map(|stage| self.spec.stages[*stage].name.as_str()).collect();
                    let reason =
                        format!("what `{}` cannot handle would come back to it", names.join("` and `"));
                    let cure =
                        "leave `deadLetter` out at one of them, and what fails there is counted and logged";
                    report.say(
                        Code::DeadLetterLoop,
                        Path::stage(start).fields(&["onError", "deadLetter"]),
                        reason,
                        cure,
                    );
                }
                if way.contains(&next) {
                    break;
                }
                way.push(next);
                at = next;
            }
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.spec.stages.iter().position(|stage| stage.name == name)
    }

    fn sinks(&self) -> impl Iterator<Item = &str> + Clone {
        let sinks = self.spec.stages.iter().zip(self.kinds).filter(|(_, kind)| matches!(kind, Kind::Sink(_)));
        sinks.map(|(stage, _)| stage.name.as_str())
    }
}
