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

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use sidestream_connector::Origin;
use sidestream_event::{Batch, Pool};
use sidestream_graph::{
    DeadLetter, Inlet, Input, Operator, Outlet, Route, Run, Stage as Counted, StageStats, WakeOnDrop,
};
use sidestream_plan::{Kind, Overflow, Plan, Priority, Stage};
use sidestream_ring::{Gauge, channel::channel_by};
use sidestream_scheduler::Task;

use crate::{
    World,
    latch::Latch,
    prepare::Prepared,
    sink::{Orders, Remains, RunningSink, drop_letters},
    source::{Head, RunningSource},
};

/// Stages and rings by name, as they come from an earlier plan and go to a later one.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) sources: HashMap<String, RunningSource>,
    pub(crate) heads: HashMap<String, Head>,
    /// What sources that were replaced have left in their rings, by the stage that goes on after them.
    pub(crate) left: HashMap<String, Vec<Input>>,
    /// The books of sources that were replaced, by the stage that goes on with their numbers.
    pub(crate) origins: HashMap<String, Origin>,
    pub(crate) operators: HashMap<String, Operator>,
    pub(crate) held: HashMap<String, Vec<Batch>>,
    pub(crate) sinks: HashMap<String, RunningSink>,
    pub(crate) remains: HashMap<String, Remains>,
    /// Stages that only earlier plans had.
    pub(crate) beside: BTreeSet<String>,
    /// Sinks that go on for a while and have the name of one that comes: set when they have ended.
    pub(crate) after: HashMap<String, Latch>,
    pub(crate) routes: HashMap<(String, String), Route>,
    /// Several where a run before has ended and left some in its ring.
    pub(crate) inputs: HashMap<(String, String), Vec<Input>>,
    /// Rings of errors that may not be empty, by the stage they lead to.
    pub(crate) letters: HashMap<String, Vec<Input>>,
    /// Errors that there was no room for in such rings, by the stage whose they are.
    pub(crate) unsent: HashMap<String, Vec<Batch>>,
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
    /// The stages of the run.
    pub(crate) stages: Vec<String>,
    /// Set when it has ended, and when a reload took it apart.
    pub(crate) ended: Latch,
    /// Its operators, when it has ended.
    pub(crate) operators: Arc<Mutex<Vec<Operator>>>,
    /// The source that heads it, where one does.
    pub(crate) head: Option<String>,
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
    let beside = std::mem::take(&mut parts.beside);
    let mut joiner = Joiner { plan, pool, world, stats, whens: prepared.whens, rings: Vec::new(), beside };

    let mut links = joiner.lay_links(&mut parts);
    joiner.lay_letter_links(&mut links, &mut parts);
    let (sources, mut heads) = joiner.start_sources(prepared.sources, prepared.doors, &mut parts)?;
    let mut operators = joiner.make_operators(prepared.operators, &mut parts.operators);
    let runs: Vec<Run> = joiner
        .worker_runs()
        .map(|stages| joiner.build_run(stages, &mut heads, &mut operators, &mut links, &mut parts))
        .collect();
    let sinks = joiner.start_sinks(prepared.sinks, &mut parts, &mut links)?;

    let unsent = std::mem::take(&mut parts.unsent);
    for (name, letters) in unsent.into_iter().filter(|(_, letters)| !letters.is_empty()) {
        // There is no dead-letter stage any more: errors are dropped, as the plan has it now.
        let dropped = drop_letters(letters);
        joiner.stats.get(&name).inspect(|own| own.count_dropped("error", dropped));
    }
    // Rings that nobody took up end now, before anything is sent along the new ones: their sinks read them first.
    drop(parts);
    let tasks = joiner.worker_runs().zip(runs).map(|(stages, run)| joiner.start(stages, run)).collect();
    Ok(Assembly { sources, sinks, tasks, stats: joiner.stats, rings: joiner.rings })
}

/// The two ends of each ring, until whoever owns them comes for them.
#[derive(Default)]
struct Links {
    /// By the stages the ring leads from and to.
    routes: HashMap<(usize, usize), Route>,
    inputs: HashMap<(usize, usize), Vec<Input>>,
    /// By the stage whose errors the ring carries and the stage at whose end they are noticed: itself, or one before it
    /// on whose way out its `when` is asked.
    letter_routes: HashMap<(usize, usize), Route>,
    /// By the stage the rings lead to.
    letter_inputs: HashMap<usize, Vec<Input>>,
}

impl Links {
    /// The rings that lead to stage `to`: those of events in the order of the stages they come from, then those of errors.
    fn take_to(&mut self, to: usize) -> Vec<Input> {
        let mut froms: Vec<usize> =
            self.inputs.keys().filter(|(_, own)| *own == to).map(|(from, _)| *from).collect();
        froms.sort_unstable();
        let events = froms.into_iter().filter_map(|from| self.inputs.remove(&(from, to)));
        let mut inputs: Vec<Input> = events.flatten().collect();
        inputs.extend(self.letter_inputs.remove(&to).into_iter().flatten());
        inputs
    }
}

struct Joiner<'a> {
    plan: &'a Plan,
    pool: &'a Arc<Pool>,
    world: &'a World,
    stats: HashMap<String, Arc<StageStats>>,
    whens: HashMap<usize, sidestream_expr::Program>,
    rings: Vec<(String, String, Gauge)>,
    beside: BTreeSet<String>,
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
        for (from, to) in plan.rings() {
            let stage = &plan.stages[to];
            let names = (self.name(from).to_owned(), stage.name.clone());
            let capacity = stage.input.capacity.map_or(RING_EVENTS, |events| events as usize);
            // The other end of a ring is gone where a sink has ended by a fault: it needs a new one.
            let mut inputs = parts.inputs.remove(&names).unwrap_or_default();
            let mut route = match parts.routes.remove(&names).filter(|route| !route.is_closed()) {
                Some(route) => route,
                None => {
                    let (sender, receiver) = channel_by(RING_BATCHES, capacity, Batch::len);
                    // A run that has ended is gone with its end of the ring; what is in it has still to be read.
                    inputs.retain(|input| !input.receiver.is_empty());
                    inputs.push(Input::new(self.name(from), receiver));
                    Route::new(self.counted(to), sender)
                }
            };
            route.to = self.counted(to);
            route.chosen_by(self.whens.get(&to).cloned(), stage.otherwise);
            route.overflows(stage.input.overflow, capacity);
            // What may be dropped waits in the route, where its oldest can be taken; the ring only hands over.
            let limit = if stage.input.overflow == Overflow::DropOldest { 1 } else { capacity };
            route.gauge().set_limit(limit);
            let is_first = self.first_before(to) == Some(&names.0);
            inputs.iter_mut().for_each(|input| input.goes_first = is_first);
            self.rings.push((names.0, names.1, route.gauge()));
            links.routes.insert((from, to), route);
            links.inputs.insert((from, to), inputs);
        }
        links
    }

    /// A ring to its dead-letter stage from every stage that has one, and from every ring before it where its `when` is
    /// asked. Laid anew for each plan; what is left in an old one is read first.
    fn lay_letter_links(&mut self, links: &mut Links, parts: &mut Parts) {
        let plan = self.plan;
        for (to, sink) in plan.stages.iter().enumerate() {
            links.letter_inputs.extend(parts.letters.remove(&sink.name).map(|left| (to, left)));
        }
        for (of, stage) in plan.stages.iter().enumerate() {
            let sink = stage.on_error.dead_letter.as_deref().and_then(|name| plan.stage(name));
            let Some((to, sink)) = sink.filter(|(to, _)| *to != of) else { continue };
            let counted = self.counted(to);
            let mut lay = |at: usize, called: String| {
                let (sender, receiver) = channel_by(LETTER_BATCHES, RING_EVENTS, Batch::len);
                let mut route = Route::new(counted.clone(), sender);
                let unsent = parts.unsent.remove(&stage.name).into_iter().flatten();
                unsent.for_each(|letters| route.send(letters, self.pool));
                self.rings.push((called, sink.name.clone(), route.gauge()));
                links.letter_routes.insert((of, at), route);
                let input = Input::letters(stage.name.as_str(), receiver);
                links.letter_inputs.entry(to).or_default().push(input);
            };
            lay(of, format!("{} (errors)", stage.name));
            for (from, _) in plan.rings().filter(|(_, to)| *to == of && stage.when.is_some()) {
                lay(from, format!("{} (errors, from {})", stage.name, plan.stages[from].name));
            }
        }
    }

    fn start_sources(
        &self,
        mut made: HashMap<usize, sidestream_connector::Source>,
        mut doors: HashMap<usize, crate::Door>,
        parts: &mut Parts,
    ) -> io::Result<(HashMap<String, RunningSource>, HashMap<usize, Head>)> {
        let mut sources = HashMap::new();
        let mut heads = HashMap::new();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let name = &stage.name;
            let (source, head) = if let Some(source) = made.remove(&index) {
                let origin = parts.origins.remove(name);
                let origin = origin.unwrap_or_else(|| Origin::new(name.as_str(), self.world.clock.clone()));
                let stats = self.stats[name].clone();
                let (mut source, head) =
                    RunningSource::start(name, source, origin, stats, self.pool, self.world)?;
                source.is_within = is_within(stage);
                (source, Some(head))
            } else if let Some(door) = doors.remove(&index) {
                let (source, head) = RunningSource::open(name, &door, self.pool, self.world);
                (source, Some(head))
            } else if let Some(source) = parts.sources.remove(name) {
                (source, parts.heads.remove(name))
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
                    is_flushed: false,
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
        parts: &mut Parts,
    ) -> Run {
        let (first, last) = (stages[0], stages[stages.len() - 1]);
        let inlet = match heads.remove(&first) {
            Some(Head::Feed(feed)) => Inlet::feed(feed),
            Some(Head::Ring(receiver)) => Inlet::inputs(vec![Input::new(self.name(first), receiver)]),
            None => Inlet::inputs(links.take_to(first)),
        };
        let is_headed = matches!(self.plan.stages[first].kind, Kind::Source(_));
        let left = is_headed.then(|| parts.left.remove(self.name(first))).flatten().unwrap_or_default();
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
        let mut run = Run::new(
            inlet.after(left),
            fused,
            Outlet::new(routes),
            self.pool.clone(),
            self.world.clock.clone(),
        );
        run.source = is_headed.then(|| self.counted(first));
        let own = stages.iter().map(|index| (*index, *index));
        for (of, at) in own.chain(self.plan.consumers(last).map(|behind| (behind, last))) {
            if let Some(route) = links.letter_routes.remove(&(of, at)) {
                run.dead_letters.push(DeadLetter { of, route: run.dead_letter_routes.len() });
                run.dead_letter_routes.push(route);
            }
        }
        for place in 0..run.operators.len() {
            for batch in parts.held.remove(&*run.operators[place].name).into_iter().flatten() {
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
    ) -> io::Result<HashMap<String, RunningSink>> {
        let mut sinks = HashMap::new();
        for (index, stage) in
            self.plan.stages.iter().enumerate().filter(|(index, _)| is_driven_sink(self.plan, *index))
        {
            let inputs = links.take_to(index);
            let dead_letter = links.letter_routes.remove(&(index, index));
            let sink = match made.remove(&index) {
                Some(sink) => {
                    let orders = Orders {
                        name: stage.name.clone(),
                        stats: self.stats[&stage.name].clone(),
                        retry: stage.on_error.retry.clone(),
                        dead_letter,
                        pool: self.pool.clone(),
                        after: parts.after.remove(&stage.name),
                    };
                    let mut remains = parts.remains.remove(&stage.name).unwrap_or_default();
                    remains.inputs.extend(inputs);
                    RunningSink::start(sink, orders, remains, self.world)?
                }
                None => {
                    let Some(sink) = parts.sinks.remove(&stage.name) else { continue };
                    sink.join(inputs, dead_letter, self.first_before(index));
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
        let (ended, operators) = (Latch::default(), Arc::<Mutex<Vec<Operator>>>::default());
        let head = run.source.as_ref().map(|source| source.name.to_string());
        let abandoned = run.source.is_some().then(|| run.inlet.abandoned()).flatten();
        run.set_waker(&task.waker());
        let left = operators.clone();
        run.heir = Some(Box::new(move |operators| {
            *left.lock().unwrap_or_else(PoisonError::into_inner) = operators;
        }));
        // Also where a reload takes the run apart: whoever waits for it looks again, at what is in its place.
        run.when_done = Some(WakeOnDrop(ended.waker()));
        task.start(Box::new(run));
        let stages = names.into_iter().map(str::to_owned).collect();
        RunTask { task, stages, ended, operators, head, abandoned }
    }

    /// The queue before stage `index` that it does not have any more: it ends, and what waits in it came first.
    fn first_before(&self, index: usize) -> Option<&str> {
        let mut from = self.plan.stages[index].from.iter().map(|from| &self.plan.stages[*from]);
        let queue = from.find(|from| is_within(from) && self.beside.contains(&from.name));
        queue.map(|queue| queue.name.as_str())
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

/// Whether a stage hands out what a queue of the same pipeline took in.
pub(crate) fn is_within(stage: &Stage) -> bool {
    matches!(stage.kind, Kind::Source(sidestream_plan::Source::Spill(_)))
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
