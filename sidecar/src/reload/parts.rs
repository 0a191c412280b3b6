//! What was at work, taken into parts by name, and given to whoever comes after.

use std::{any::Any, collections::HashMap, sync::PoisonError};

use sidestream_connector::Origin;
use sidestream_graph::{Input, Operator, Run};
use sidestream_plan::Plan;
use sidestream_scheduler::Task;

use super::change::Change;
use crate::{
    assemble::{Assembly, Parts, is_driven_sink},
    prepare::Prepared,
    sink::{Fate, Remains},
    source::{Head, RunningSource},
};

/// What was at work.
pub(super) struct Retired {
    /// Runs, in the order of the plan.
    pub(super) runs: Vec<Run>,
    /// The operators of runs that had ended before.
    pub(super) rested: Vec<Operator>,
}

/// Takes every run from its task.
pub(super) fn retire(assembly: &mut Assembly) -> Retired {
    let tasks = std::mem::take(&mut assembly.tasks);
    let works: Vec<_> = tasks.iter().filter_map(|run| Task::retire(&run.task)).collect();
    let runs = works.into_iter().filter_map(|work| (work as Box<dyn Any>).downcast::<Run>().ok());
    let rested = tasks
        .iter()
        .flat_map(|run| std::mem::take(&mut *run.operators.lock().unwrap_or_else(PoisonError::into_inner)));
    Retired { runs: runs.map(|run| *run).collect(), rested: rested.collect() }
}

/// Stages and rings by name.
pub(super) fn dismantle(plan: &Plan, retired: Retired, assembly: &mut Assembly) -> Parts {
    let name = |index: usize| plan.stages[index].name.clone();
    let mut parts = Parts {
        sources: std::mem::take(&mut assembly.sources),
        sinks: std::mem::take(&mut assembly.sinks),
        stats: std::mem::take(&mut assembly.stats),
        ..Parts::default()
    };
    let named = |operator: Operator| (operator.name.to_string(), operator);
    parts.operators.extend(retired.rested.into_iter().map(named));
    // What is not taken out of a run goes with it, and whoever waits for its end hears of it.
    for mut run in retired.runs {
        let last = run.operators.last().map(|operator| operator.stage);
        let last = last.or(run.source.as_ref().map(|source| source.stage));
        for (place, batch) in run.take_held() {
            parts.held.entry(run.operators[place].name.to_string()).or_default().push(batch);
        }
        for (letter, route) in run.dead_letters.iter().zip(run.dead_letter_routes) {
            parts.unsent.entry(name(letter.of)).or_default().extend(route.into_waiting());
        }
        let (feed, inputs) = run.inlet.into_parts();
        if let Some(source) = &run.source {
            let (left, own): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|input| input.is_abandoned());
            let head = own.into_iter().next().map(|input| Head::Ring(input.receiver));
            let head = feed.map(Head::Feed).or(head);
            parts.heads.extend(head.map(|head| (source.name.to_string(), head)));
            parts.left.insert(source.name.to_string(), left);
        } else if let Some(first) = run.operators.first() {
            keep_inputs(inputs, &first.name, &mut parts);
        }
        for route in run.outlet.into_routes() {
            let from = last.map(name).unwrap_or_default();
            parts.routes.insert((from, route.to.name.to_string()), route);
        }
        parts.operators.extend(run.operators.into_iter().map(named));
    }
    parts
}

/// Gives what sources had to those that come after them: what is left in their rings, and where the new one can go on
/// with it, their place in the input and their books. The books of all others are only closed.
pub(super) fn pass_on(
    leaving: HashMap<String, RunningSource>,
    new: &Plan,
    change: &Change,
    prepared: &mut Prepared,
    parts: &mut Parts,
    past: &mut Vec<Origin>,
) {
    let mut left: HashMap<_, _> = parts.left.extract_if(|name, _| leaving.contains_key(name)).collect();
    for (name, source) in leaving {
        let (mut left, head) = (left.remove(&name).unwrap_or_default(), parts.heads.remove(&name));
        let heir = change.heirs.get(&name).and_then(|heir| Some((heir, new.stage(heir)?.0)));
        let Some((heir, index)) = heir else {
            if source.is_within {
                // It is on the disk, and stays there: the queue hears that it was not delivered.
                if let Some(Head::Ring(receiver)) = head {
                    left.push(Input::left_by(name.as_str(), receiver));
                }
                Remains { inputs: left, ..Remains::default() }.drop(Fate::Removed);
            } else {
                past.push(source.origin);
            }
            continue;
        };
        if let Some(Head::Ring(receiver)) = head {
            left.push(Input::left_by(name.as_str(), receiver));
        }
        parts.left.insert(heir.clone(), left);
        match source.pass_on(prepared.sources.get_mut(&index)) {
            Some(origin) => drop(parts.origins.insert(heir.clone(), origin.renamed(heir.as_str()))),
            None => past.extend((!source.is_within).then_some(source.origin)),
        }
    }
}

/// Gives what a sink had to whoever takes its name: a driver takes it whole, a stage of a run by its rings.
pub(super) fn take_over(new: &Plan, name: &str, remains: Remains, parts: &mut Parts) {
    if new.stage(name).is_some_and(|(index, _)| is_driven_sink(new, index)) {
        parts.remains.insert(name.to_owned(), remains);
        return;
    }
    parts.held.entry(name.to_owned()).or_default().extend(remains.in_hand);
    parts.unsent.entry(name.to_owned()).or_default().extend(remains.letters);
    keep_inputs(remains.inputs, name, parts);
}

/// Keeps rings to stage `to` for whoever has the name in the next plan.
fn keep_inputs(inputs: Vec<Input>, to: &str, parts: &mut Parts) {
    let (letters, events): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|input| input.is_letters);
    parts.letters.entry(to.to_owned()).or_default().extend(letters);
    for input in events {
        parts.inputs.entry((input.from.to_string(), to.to_owned())).or_default().push(input);
    }
}
