//! Who takes events from whom. Data flows down the page: a stage takes input only from stages above it, so a graph has
//! no cycles by construction.

mod sharing;

use std::collections::HashMap;

use sidestream_plan::{Kind, Process};

use super::Report;
use crate::{
    diagnostic::Code,
    path::{Path, shortened},
    pipeline::{PipelineSpec, StageSpec},
    suggest::{instead, nearest},
};

/// The inputs of every stage, as indices. Where a stage names a bad input, it goes without.
pub(super) fn resolve(spec: &PipelineSpec, kinds: &[Kind], report: &mut Report) -> Vec<Vec<usize>> {
    let mut wiring = Wiring { spec, kinds, names: HashMap::new(), report };
    wiring.name_stages();
    let inputs: Vec<Vec<usize>> = (0..kinds.len()).map(|index| wiring.inputs(index)).collect();
    for index in 0..kinds.len() {
        wiring.check_routing(index, &inputs);
        wiring.check_use(index, &inputs);
    }
    sharing::check(spec, kinds, report);
    inputs
}

struct Wiring<'a> {
    spec: &'a PipelineSpec,
    kinds: &'a [Kind],
    names: HashMap<&'a str, usize>,
    report: &'a mut Report,
}

impl<'a> Wiring<'a> {
    fn name_stages(&mut self) {
        for (index, stage) in self.spec.stages.iter().enumerate() {
            if let Some(first) = self.names.get(stage.name.as_str()) {
                let reason = format!("`{}` is already the name of stage {}", stage.name, first + 1);
                let cure = "give every stage a name of its own";
                self.report.say(Code::DuplicateStage, Path::stage(index).field("name"), reason, cure);
            } else {
                self.names.insert(&stage.name, index);
            }
        }
    }

    fn inputs(&mut self, index: usize) -> Vec<usize> {
        let stage = &self.spec.stages[index];
        let path = Path::stage(index);
        if let Kind::Source(_) = self.kinds[index] {
            self.check_source(stage, &path);
            return Vec::new();
        }
        match &stage.from {
            Some(from) if from.is_empty() => {
                self.check_empty(index, &path.field("from"));
                Vec::new()
            }
            Some(from) => {
                let mut inputs = Vec::new();
                for (position, name) in from.iter().enumerate() {
                    let path = path.field("from").element(position);
                    let Some(input) = self.input(index, name, &path) else { continue };
                    if inputs.contains(&input) {
                        let reason = format!("`{name}` is there twice");
                        self.report.say(Code::RepeatedInput, path, reason, "keep one of them");
                    } else {
                        inputs.push(input);
                    }
                }
                inputs
            }
            None => self.stage_above(index, &path).into_iter().collect(),
        }
    }

    fn stage_above(&mut self, index: usize, path: &Path) -> Option<usize> {
        let Some(above) = index.checked_sub(1) else {
            let reason = format!(
                "the first stage is a {}, and there is nothing above it to take events from",
                self.kinds[0].role()
            );
            self.report.say(Code::NoInput, path.clone(), reason, "begin with a stage that has a `source`");
            return None;
        };
        if let Kind::Sink(_) = self.kinds[above] {
            let sink = &self.spec.stages[above].name;
            let reason = format!("the stage above is the sink `{sink}`, which has no output");
            let cure = match self.last_with_output(index) {
                Some(name) => format!("say where the events come from: `from: [{name}]`"),
                None => "begin with a stage that has a `source`".into(),
            };
            self.report.say(Code::NoInput, path.clone(), reason, cure);
            return None;
        }
        Some(above)
    }

    fn input(&mut self, index: usize, name: &str, path: &Path) -> Option<usize> {
        let above = &self.spec.stages[..index];
        let with_output = || {
            above
                .iter()
                .zip(self.kinds)
                .filter(|(_, kind)| !matches!(kind, Kind::Sink(_)))
                .map(|(stage, _)| stage.name.as_str())
        };
        let (code, reason, cure) = match self.names.get(name).copied() {
            None => {
                let reason = format!("no stage is called `{}`", shortened(name));
                let cure = instead(name, with_output(), "begin with a stage that has a `source`");
                (Code::UnknownStage, reason, cure)
            }
            Some(input) if input == index => (
                Code::LaterStage,
                format!("`{name}` would take its own output"),
                "name a stage above it".into(),
            ),
            Some(input) if input > index => {
                let reason = format!("`{name}` stands below this stage, and data flows down the page");
                (Code::LaterStage, reason, format!("move `{name}` above `{}`", self.spec.stages[index].name))
            }
            Some(input) if matches!(self.kinds[input], Kind::Sink(_)) => {
                let reason = format!("`{name}` is a sink, which has no output");
                let cure = match self.spec.stages[input].from.as_deref() {
                    Some([from, ..]) => format!("take what it takes: `{}`", shortened(from)),
                    _ => instead(name, with_output(), "name a source or a process"),
                };
                (Code::FromSink, reason, cure)
            }
            Some(input) => return Some(input),
        };
        self.report.say(code, path.clone(), reason, cure);
        None
    }

    fn check_source(&mut self, stage: &StageSpec, path: &Path) {
        let fields = [
            ("from", stage.from.is_some()),
            ("when", stage.when.is_some()),
            ("otherwise", stage.otherwise.is_some()),
            ("input", stage.input.is_some()),
        ];
        for (field, _) in fields.into_iter().filter(|(_, present)| *present) {
            let reason = format!("a source has no input, so `{field}` means nothing here");
            let cure = match field {
                "when" | "otherwise" => format!("move `{field}` to the stage that takes its events"),
                _ => format!("leave `{field}` out"),
            };
            self.report.say(Code::InputOnSource, path.field(field), reason, cure);
        }
    }

    /// `from: []` is for a sink that dead letters reach in another way.
    fn check_empty(&mut self, index: usize, path: &Path) {
        let name = &self.spec.stages[index].name;
        let is_sink = matches!(self.kinds[index], Kind::Sink(_));
        let dead_letters = self.spec.stages.iter().map(|stage| &stage.on_error).chain([&self.spec.on_error]);
        let is_named = dead_letters.flatten().any(|on_error| on_error.dead_letter.as_ref() == Some(name));
        if is_sink && is_named {
            return;
        }
        let reason = match is_sink {
            true => format!("`from` is empty, and no `deadLetter` names the sink `{name}`"),
            false => "`from` is empty, so no event ever comes".into(),
        };
        let cure = match self.last_with_output(index) {
            Some(input) => format!("write `from: [{input}]`, or leave `from` out to take the stage above"),
            None => "begin with a stage that has a `source`".into(),
        };
        self.report.say(Code::NoInput, path.clone(), reason, cure);
    }

    fn check_routing(&mut self, index: usize, inputs: &[Vec<usize>]) {
        let stage = &self.spec.stages[index];
        let path = Path::stage(index).field("otherwise");
        if stage.otherwise != Some(true) || matches!(self.kinds[index], Kind::Source(_)) {
            return;
        }
        if stage.when.is_some() {
            let cure = "keep one of them; `otherwise` is for what no `when` took";
            return self.report.say(
                Code::WhenAndOtherwise,
                path,
                "`when` and `otherwise` are both here",
                cure,
            );
        }
        for input in &inputs[index] {
            let has_when =
                |other: &usize| inputs[*other].contains(input) && self.spec.stages[*other].when.is_some();
            if !(0..inputs.len()).any(|other| has_when(&other)) {
                let input = &self.spec.stages[*input].name;
                let reason = format!(
                    "no other stage takes events from `{input}` with `when`, so nothing is left over"
                );
                let cure =
                    format!("give the other stage a `when` and `from: [{input}]`, or leave `otherwise` out");
                self.report.say(Code::OtherwiseAlone, path.clone(), reason, cure);
            }
        }
    }

    fn check_use(&mut self, index: usize, inputs: &[Vec<usize>]) {
        let name = &self.spec.stages[index].name;
        let path = Path::stage(index);
        let has_output = !matches!(self.kinds[index], Kind::Sink(_));
        // Where an input could not be resolved, this stage may have been meant.
        let is_taken = inputs.iter().any(|inputs| inputs.contains(&index)) || self.is_nearly_named(index);
        if has_output && !is_taken {
            let reason = format!("no stage takes the events of `{name}`");
            let cure = format!("add a sink below with `from: [{name}]`, or take the stage out");
            self.report.say(Code::UnusedOutput, path.clone(), reason, cure);
        }
        if matches!(self.kinds[index], Kind::Process(Process::Merge(_))) && inputs[index].len() == 1 {
            let cure = "name the branches to bring together: `from: [a, b]`";
            self.report.say(Code::MergeOfOne, path, "there is one input, so there is nothing to merge", cure);
        }
    }

    fn is_nearly_named(&self, index: usize) -> bool {
        let name = self.spec.stages[index].name.as_str();
        let named = self.spec.stages.iter().filter_map(|stage| stage.from.as_ref()).flatten();
        named
            .filter(|from| !self.names.contains_key(from.as_str()))
            .any(|from| nearest(from, [name]).is_some())
            || self.names.get(name) != Some(&index)
    }

    fn last_with_output(&self, index: usize) -> Option<&'a str> {
        let above = (0..index).rev().find(|above| !matches!(self.kinds[*above], Kind::Sink(_)))?;
        Some(&self.spec.stages[above].name)
    }
}
