//! From a plan to running stages: the picture of the data path, to be read top-down.
//!
//! ```text
//!   lay_links       a ring wherever two stages are not fused
//!   start_sources   each gets its ring, or becomes the head of a run
//!   start_sinks     each takes from the rings before it
//!   build_run       stages fused into one task, between the rings
//!   start           the workers call the tasks
//! ```
//!
//! What an earlier plan left in [`Parts`] is used again under the same name: stages with their state, rings with what
//! is in them. A first start is the same with no parts.

use std::{collections::HashMap, io, sync::Arc};

use sidestream_event::{Batch, Pool};
use sidestream_graph::{
    DeadLetter, Inlet, Input, Operator, Outlet, Route, Run, Stage as Counted, StageStats, WakeOnDrop,
};
use sidestream_plan::{Kind, Overflow, Plan, Priority};
use sidestream_ring::{Gauge, channel::channel_by};
use sidestream_scheduler::Task;

use crate::{
    World,
    latch::Latch,
    prepare::Prepared,
    sink::{Orders, Remains, RunningSink},
    source::{Head, RunningSource},
};

/// Stages and rings by name, as they come from an earlier plan and go to a later one.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) sources: HashMap<String, RunningSource>,
    pub(crate) heads: HashMap<String, Head>,
    pub(crate) operators: HashMap<String, Operator>,
    pub(crate) held: HashMap<String, Vec<Batch>>,
    pub(crate) sinks: HashMap<String, RunningSink>,
    pub(crate) remains: HashMap<String, Remains>,
    pub(crate) routes: HashMap<(String, String), Route>,
    pub(crate) inputs: HashMap<(String, String), Input>,
    pub(crate) stats: HashMap<String, Arc<StageStats>>,
}

/// A plan at work.
pub(crate) struct Assembly {
    pub(crate) sources: HashMap<String, RunningSource>,
    pub(crate) sinks: HashMap<String, RunningSink>,
    pub(crate) tasks: Vec<RunTask>,
    pub(crate) stats: HashMap<String, Arc<StageStats>>,
    pub(crate) rings: Vec<(String, String, Gauge)>,
}

/// The task of a run.
pub(crate) struct RunTask {
    pub(crate) task: Arc<Task>,
    pub(crate) ended: Latch,
    /// Whether a source heads it.
    pub(crate) is_head: bool,
    /// The source whose ring heads it, to be abandoned where its thread hangs.
    pub(crate) abandoned: Option<Arc<sidestream_ring::sync::AtomicBool>>,
}

/// Puts a plan to work.
pub(crate) fn assemble(
    plan: &Plan,
    prepared: Prepared,
    mut parts: Parts,
    pool: &Arc<Pool>,
    world: &World,
) -> io::Result<Assembly> {
    let stats = count(plan, &mut parts);
    let mut joiner = Joiner { plan, pool, world, stats, whens: prepared.whens, rings: Vec::new() };

    let mut links = joiner.lay_links(&mut parts);
    let (sources, mut heads) =
        joiner.start_sources(prepared.sources, prepared.doors, &mut parts.sources, &mut parts.heads)?;
    let mut letters = joiner.lay_letter_links(&mut links);
    let mut operators = joiner.make_operators(prepared.operators, &mut parts.operators);
    let runs: Vec<Run> = joiner
        .worker_runs()
        .map(|stages| {
            joiner.build_run(stages, &mut heads, &mut operators, &mut links, &mut letters, &mut parts.held)
        })
        .collect();
    let sinks = joiner.start_sinks(prepared.sinks, &mut parts, &mut links, &mut letters)?;

    // Rings that nobody took up end now, before anything is sent along the new ones: their sinks read them first.
    drop(parts);
    let tasks = joiner.worker_runs().zip(runs).map(|(stages, run)| joiner.start(stages, run)).collect();
    Ok(Assembly { sources, sinks, tasks, stats: joiner.stats, rings: joiner.rings })
}

/// The two ends of a ring, until whoever owns them comes for them. By the stages it leads from and to.
#[derive(Default)]
struct Links {
    routes: HashMap<(usize, usize), Route>,
    inputs: HashMap<(usize, usize), Input>,
}

struct Joiner<'a> {
    plan: &'a Plan,
    pool: &'a Arc<Pool>,
    world: &'a World,
    stats: HashMap<String, Arc<StageStats>>,
    whens: HashMap<usize, sidestream_expr::Program>,
    rings: Vec<(String, String, Gauge)>,
}

/// Every stage counts on where it counted before.
fn count(plan: &Plan, parts: &mut Parts) -> HashMap<String, Arc<StageStats>> {
    plan.stages
        .iter()
        .map(|stage| (stage.name.clone(), parts.stats.remove(&stage.name).unwrap_or_default()))
        .collect()
}

impl Joiner<'_> {
    /// A ring wherever a stage takes from one it is not fused with.
    fn lay_links(&mut self, parts: &mut Parts) -> Links {
        let mut links = Links::default();
        let plan = self.plan;
        for (to, stage) in plan.stages.iter().enumerate() {
            for &from in stage.from.iter().filter(|from| !plan.are_fused(**from, to)) {
                let names = (self.name(from).to_owned(), stage.name.clone());
                let capacity = stage.input.capacity.map_or(RING_EVENTS, |events| events as usize);
                let (mut route, input) = match parts.routes.remove(&names) {
                    Some(route) => (route, parts.inputs.remove(&names)),
                    None => {
                        let (sender, receiver) = channel_by(RING_BATCHES, capacity, Batch::len);
                        (
                            Route::new(to, sender, self.stats[&stage.name].clone()),
                            Some(Input::new(from, receiver)),
                        )
                    }
                };
                route.to = to;
                route.chosen_by(self.whens.get(&to).cloned(), stage.otherwise);
                route.overflows(stage.input.overflow, capacity);
                // What may be dropped waits in the route, where its oldest can be taken; the ring only hands over.
                let limit = if stage.input.overflow == Overflow::DropOldest { 1 } else { capacity };
                route.gauge().set_limit(limit);
                self.rings.push((names.0, names.1, route.gauge()));
                links.routes.insert((from, to), route);
                if let Some(mut input) = input {
                    input.from = from;
                    links.inputs.insert((from, to), input);
                }
            }
        }
        links
    }

    /// A ring from every stage that has a dead-letter stage to it. Its key is the stage whose errors it carries.
    fn lay_letter_links(&mut self, links: &mut Links) -> HashMap<usize, Route> {
        let mut letters = HashMap::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let sink = stage.on_error.dead_letter.as_deref().and_then(|name| self.plan.stage(name));
            let Some((to, sink)) = sink.filter(|(to, _)| *to != index) else { continue };
            let (sender, receiver) = channel_by(LETTER_BATCHES, RING_EVENTS, Batch::len);
            let route = Route::new(to, sender, self.stats[&sink.name].clone());
            self.rings.push((format!("{} (errors)", stage.name), sink.name.clone(), route.gauge()));
            letters.insert(index, route);
            // Beside the key of the link that events take from the same stage, if there is one.
            links.inputs.insert((self.plan.stages.len() + index, to), Input::letters(index, receiver));
        }
        letters
    }

    fn start_sources(
        &self,
        mut made: HashMap<usize, sidestream_connector::Source>,
        mut doors: HashMap<usize, crate::Door>,
        kept: &mut HashMap<String, RunningSource>,
        kept_heads: &mut HashMap<String, Head>,
    ) -> io::Result<(HashMap<String, RunningSource>, HashMap<usize, Head>)> {
        let mut sources = HashMap::new();
        let mut heads = HashMap::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let name = &stage.name;
            let (source, head) = if let Some(source) = made.remove(&index) {
                let (source, head) =
                    RunningSource::start(name, source, self.stats[name].clone(), self.pool, self.world)?;
                (source, Some(head))
            } else if let Some(door) = doors.remove(&index) {
                let (source, head) = RunningSource::open(name, &door, self.pool, self.world);
                (source, Some(head))
            } else if let Some(source) = kept.remove(name) {
                (source, kept_heads.remove(name))
            } else {
                continue;
            };
            sources.insert(name.clone(), source);
            heads.extend(head.map(|head| (index, head)));
        }
        Ok((sources, heads))
    }

    fn make_operators(
        &self,
        mut made: HashMap<usize, Box<dyn sidestream_graph::Processor>>,
        kept: &mut HashMap<String, Operator>,
    ) -> HashMap<usize, Operator> {
        let mut operators = HashMap::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let operator = match made.remove(&index) {
                Some(processor) => Operator {
                    stage: index,
                    name: stage.name.as_str().into(),
                    processor,
                    when: None,
                    stats: self.stats[&stage.name].clone(),
                    is_sink: matches!(stage.kind, Kind::Sink(_)),
                },
                None => match kept.remove(&stage.name) {
                    Some(operator) => Operator { stage: index, when: None, ..operator },
                    None => continue,
                },
            };
            operators.insert(index, operator);
        }
        operators
    }

    /// The runs that workers call: all but those of sinks with a thread or task of their own.
    fn worker_runs(&self) -> impl Iterator<Item = &'_ [usize]> + '_ {
        let plan = self.plan;
        plan.runs
            .iter()
            .map(|run| run.stages.as_slice())
            .filter(move |stages| !is_driven_sink(plan, stages[0]))
    }

    fn build_run(
        &self,
        stages: &[usize],
        heads: &mut HashMap<usize, Head>,
        operators: &mut HashMap<usize, Operator>,
        links: &mut Links,
        letters: &mut HashMap<usize, Route>,
        held: &mut HashMap<String, Vec<Batch>>,
    ) -> Run {
        let (first, last) = (stages[0], stages[stages.len() - 1]);
        let inlet = match heads.remove(&first) {
            Some(Head::Feed(feed)) => Inlet::feed(feed),
            Some(Head::Ring(receiver)) => Inlet::inputs(vec![Input::new(first, receiver)]),
            None => Inlet::inputs(take_to(&mut links.inputs, first)),
        };
        let mut fused = Vec::new();
        for (place, index) in stages.iter().enumerate() {
            let Some(mut operator) = operators.remove(index) else { continue };
            // Between rings the route asks; between fused stages the run does.
            operator.when = self.whens.get(index).filter(|_| place > 0).cloned();
            fused.push(operator);
        }
        let mut routes: Vec<Route> = Vec::new();
        for to in self.plan.consumers(last) {
            routes.extend(links.routes.remove(&(last, to)));
        }
        let behind: Vec<usize> = routes.iter().map(|route| route.to).collect();
        let mut run =
            Run::new(inlet, fused, Outlet::new(routes), self.pool.clone(), self.world.clock.clone());
        run.source = matches!(self.plan.stages[first].kind, Kind::Source(_)).then(|| self.counted(first));
        for index in stages {
            if let Some(route) = letters.remove(index) {
                run.dead_letters.push(DeadLetter { of: *index, route: run.dead_letter_routes.len() });
                run.dead_letter_routes.push(route);
            }
        }
        run.behind = behind.into_iter().map(|index| self.counted(index)).collect();
        for place in 0..run.operators.len() {
            for batch in held.remove(&*run.operators[place].name).into_iter().flatten() {
                run.hold(place, batch);
            }
        }
        run
    }

    fn start_sinks(
        &self,
        mut made: HashMap<usize, sidestream_connector::Sink>,
        parts: &mut Parts,
        links: &mut Links,
        letters: &mut HashMap<usize, Route>,
    ) -> io::Result<HashMap<String, RunningSink>> {
        let mut sinks = HashMap::new();
        for (index, stage) in
            self.plan.stages.iter().enumerate().filter(|(index, _)| is_driven_sink(self.plan, *index))
        {
            let inputs = take_to(&mut links.inputs, index);
            let sink = match made.remove(&index) {
                Some(sink) => {
                    let orders = Orders {
                        name: stage.name.clone(),
                        stats: self.stats[&stage.name].clone(),
                        retry: stage.on_error.retry.clone(),
                        dead_letter: letters.remove(&index),
                        pool: self.pool.clone(),
                    };
                    let mut remains = parts.remains.remove(&stage.name).unwrap_or_default();
                    remains.inputs.extend(inputs);
                    RunningSink::start(sink, orders, remains, self.world)?
                }
                None => {
                    let Some(sink) = parts.sinks.remove(&stage.name) else { continue };
                    inputs.into_iter().for_each(|input| sink.attach(input));
                    sink
                }
            };
            sinks.insert(stage.name.clone(), sink);
        }
        Ok(sinks)
    }

    fn start(&self, stages: &[usize], mut run: Run) -> RunTask {
        let names: Vec<_> = stages.iter().map(|index| self.name(*index)).collect();
        let priority = stages.iter().map(|index| self.plan.stages[*index].priority).max().unwrap_or_default();
        let task = self.world.scheduler.task(names.join("+"), class(priority));
        let ended = Latch::default();
        let is_head = run.source.is_some();
        let abandoned = run.source.is_some().then(|| run.inlet.abandoned()).flatten();
        run.set_waker(&task.waker());
        run.when_done = Some(WakeOnDrop(ended.waker()));
        task.start(Box::new(run));
        RunTask { task, ended, is_head, abandoned }
    }

    fn name(&self, index: usize) -> &str {
        &self.plan.stages[index].name
    }

    fn counted(&self, index: usize) -> Counted {
        let name = self.name(index);
        Counted { stage: index, name: name.into(), stats: self.stats[name].clone() }
    }
}

/// Whether a stage is a sink with a thread or task of its own.
pub(crate) fn is_driven_sink(plan: &Plan, index: usize) -> bool {
    match &plan.stages[index].kind {
        Kind::Sink(sink) => !matches!(sink, sidestream_plan::Sink::Blackhole(_)),
        _ => false,
    }
}

fn take_to(inputs: &mut HashMap<(usize, usize), Input>, to: usize) -> Vec<Input> {
    let mut keys: Vec<_> = inputs.keys().filter(|(_, own)| *own == to).copied().collect();
    keys.sort_unstable();
    keys.iter().filter_map(|key| inputs.remove(key)).collect()
}

fn class(priority: Priority) -> sidestream_scheduler::Priority {
    match priority {
        Priority::Low => sidestream_scheduler::Priority::Low,
        Priority::Normal => sidestream_scheduler::Priority::Normal,
        Priority::High => sidestream_scheduler::Priority::High,
        Priority::Critical => sidestream_scheduler::Priority::Critical,
    }
}

/// How many events a ring holds where the stage behind it does not say.
const RING_EVENTS: usize = 8_192;
/// How many batches; single events fill these first, so that a ring of them holds 1024 events.
const RING_BATCHES: usize = 1_024;
const LETTER_BATCHES: usize = 64;
