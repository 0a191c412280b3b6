//! A plan cut at the borders of its sidecars: where two neighbours live apart, an edge appears.
//!
//! ```text
//!   a ─▶ b      becomes     a ─▶ sink `a->b`   and   source `a->b` ─▶ b
//! ```
//!
//! The sending end asks `when` and `otherwise`, among all that take from the same stage, so only what is wanted travels.
//! What a stage cannot handle goes to its dead-letter sink by an edge too: one for each sidecar and sink.

use sidestream_plan::{
    Delivery, Input, Kind, Latency, OnError, Overflow, Priority, Process, Sink, Source, Stage,
    stage::{EdgeSink, EdgeSlots, EdgeSource, Merge},
};

use super::{SidecarPlan, keyed::Owners, names, placement::Placement, plan, spill::spills};
use crate::pipeline::{Pipeline, SidecarSpec};

/// What is cut: the stages as they were written.
pub(super) struct Whole {
    /// `namespace/name` of the pipeline.
    pub(super) name: String,
    pub(super) latency: Latency,
    pub(super) delivery: Delivery,
    pub(super) stages: Vec<Stage>,
}

/// The part of every sidecar, in their order.
pub(super) fn at_borders(
    whole: &Whole,
    placement: &Placement,
    owners: &Owners,
    pipeline: &Pipeline,
) -> Vec<SidecarPlan> {
    let cut = Cut {
        whole,
        placement,
        owners,
        namespace: pipeline.metadata.namespace.as_deref().unwrap_or("default"),
        name: pipeline.metadata.name.as_deref().unwrap_or_default(),
    };
    placement
        .sidecars
        .iter()
        .enumerate()
        .map(|(index, sidecar)| SidecarPlan {
            name: sidecar.name.clone(),
            host: sidecar.host().unwrap_or_default(),
            plan: plan(whole.name.clone(), whole.latency, whole.delivery, cut.stages_of(index)),
        })
        .collect()
}

struct Cut<'a> {
    whole: &'a Whole,
    placement: &'a Placement,
    owners: &'a Owners,
    namespace: &'a str,
    name: &'a str,
}

impl Cut<'_> {
    fn stages_of(&self, own: usize) -> Vec<Stage> {
        let mut part = Part { stages: Vec::new(), of_whole: vec![None; self.whole.stages.len()] };
        for (index, stage) in self.whole.stages.iter().enumerate() {
            if self.placement.of_stage[index] == own {
                self.add(stage, index, own, &mut part);
            } else {
                self.send(stage, index, own, &mut part);
            }
        }
        self.send_letters(own, &mut part);
        part.stages
    }

    /// A stage of this sidecar, after the edges that bring it events from others.
    fn add(&self, stage: &Stage, index: usize, own: usize, part: &mut Part) {
        let (mut near, mut from) = (Vec::new(), Vec::new());
        for input in &stage.from {
            let sender = self.placement.of_stage[*input];
            if sender == own {
                near.extend(part.of_whole[*input]);
            } else {
                let name = between(&self.whole.stages[*input], stage);
                from.push(part.push(self.edge_source(name, sender, stage.priority)));
            }
        }
        for sender in self.letter_senders(stage).filter(|sender| *sender != own) {
            let name = letters(&self.placement.sidecars[sender].name, stage);
            from.push(part.push(self.edge_source(name, sender, stage.priority)));
        }
        let mut own_stage = Stage { from, ..stage.clone() };
        own_stage.on_error.dead_letter = self.letters_from(stage, own);
        if own_stage.from.is_empty() {
            own_stage.from = near;
        } else {
            let is_all_by_edges = near.is_empty() && !self.letter_senders(stage).any(|sender| sender == own);
            let chosen = self.chosen(&own_stage, near, part);
            if spills(&own_stage.input) && (is_all_by_edges || chosen.iter().any(|own| part.is_chosen(*own)))
            {
                // It was spilled before it came here.
                own_stage.input.overflow = Overflow::Block;
            }
            own_stage.from.extend(chosen);
        }
        if own_stage.from.iter().any(|input| is_edge(&part.stages[*input])) {
            // The sending ends have asked, and dead letters are not asked.
            (own_stage.when, own_stage.otherwise) = (None, false);
        }
        part.of_whole[index] = Some(part.push(own_stage));
    }

    /// What `stage` takes of its neighbours in this sidecar, where it also takes what comes by edges: that it must not ask
    /// again, so a stage before it asks for it.
    fn chosen(&self, stage: &Stage, near: Vec<usize>, part: &mut Part) -> Vec<usize> {
        if near.is_empty() || stage.when.is_none() && !stage.otherwise {
            return near;
        }
        let kind = Kind::Process(Process::Merge(Merge::default()));
        let mut chosen = bare(stage.name.clone() + CHOSEN, stage.priority, kind);
        chosen.from = near;
        (chosen.when, chosen.otherwise) = (stage.when.clone(), stage.otherwise);
        chosen.input = stage.input.clone();
        chosen.on_error.dead_letter = stage.on_error.dead_letter.clone();
        vec![part.push(chosen)]
    }

    /// The edges from stages of this sidecar to `stage`, which lives in another.
    fn send(&self, stage: &Stage, index: usize, own: usize, part: &mut Part) {
        for input in stage.from.iter().filter(|input| self.placement.of_stage[**input] == own) {
            let name = between(&self.whole.stages[*input], stage);
            let slots = self.owners.of(*input, index);
            let mut sink = self.edge_sink(name, self.placement.of_stage[index], slots, stage.priority);
            sink.from.extend(part.of_whole[*input]);
            (sink.when, sink.otherwise) = (stage.when.clone(), stage.otherwise);
            // A peer that is away fills the queue here, not there.
            sink.input = stage.input.clone();
            // An event its `when` fails on.
            sink.on_error.dead_letter = self.letters_from(stage, own);
            part.push(sink);
        }
    }

    /// The edges that carry dead letters of this sidecar to sinks in others.
    fn send_letters(&self, own: usize, part: &mut Part) {
        for (index, sink) in self.whole.stages.iter().enumerate() {
            let abroad = self.placement.of_stage[index];
            if abroad != own && self.letter_senders(sink).any(|sender| sender == own) {
                let name = letters(&self.placement.sidecars[own].name, sink);
                let mut edge = self.edge_sink(name, abroad, None, sink.priority);
                if spills(&sink.input) {
                    edge.input = sink.input.clone();
                }
                part.push(edge);
            }
        }
    }

    /// The sidecars that have dead letters for `sink`, each once: those of the stages that name it, and those that send such
    /// a stage events and ask its `when`.
    fn letter_senders(&self, sink: &Stage) -> impl Iterator<Item = usize> {
        let mut senders = Vec::new();
        for (stage, sidecar) in self.whole.stages.iter().zip(&self.placement.of_stage) {
            if stage.on_error.dead_letter.as_ref() == Some(&sink.name) {
                senders.push(*sidecar);
                senders.extend(stage.from.iter().map(|input| self.placement.of_stage[*input]));
            }
        }
        senders.sort_unstable();
        senders.dedup();
        senders.into_iter()
    }

    /// What takes the dead letters of `stage` in this sidecar: the sink itself, or the edge to it where there is one.
    fn letters_from(&self, stage: &Stage, own: usize) -> Option<String> {
        let name = stage.on_error.dead_letter.as_deref()?;
        let (index, sink) = self.whole.stages.iter().enumerate().find(|(_, other)| other.name == name)?;
        if self.placement.of_stage[index] == own {
            return Some(sink.name.clone());
        }
        let has_edge = self.letter_senders(sink).any(|sender| sender == own);
        has_edge.then(|| letters(&self.placement.sidecars[own].name, sink))
    }

    fn edge_source(&self, edge: String, sender: usize, priority: Priority) -> Stage {
        let sender = &self.placement.sidecars[sender];
        // Whom the user's pods run as is known on the cluster alone; until it is, nobody may send.
        let from = match sender.inject {
            None => vec![names::account(self.namespace, self.name, &sender.name)],
            Some(_) => Vec::new(),
        };
        bare(edge.clone(), priority, Kind::Source(Source::Edge(EdgeSource { edge, from })))
    }

    fn edge_sink(
        &self,
        edge: String,
        receiver: usize,
        slots: Option<EdgeSlots>,
        priority: Priority,
    ) -> Stage {
        let SidecarSpec { name, transport, .. } = &self.placement.sidecars[receiver];
        let to = names::account(self.namespace, self.name, name);
        let service = names::service(self.namespace, self.name, name);
        let transport = transport.unwrap_or_default();
        bare(edge.clone(), priority, Kind::Sink(Sink::Edge(EdgeSink { edge, to, service, slots, transport })))
    }
}

/// The stages of one sidecar so far.
struct Part {
    stages: Vec<Stage>,
    /// Where a stage of the whole plan is among them.
    of_whole: Vec<Option<usize>>,
}

impl Part {
    fn push(&mut self, stage: Stage) -> usize {
        self.stages.push(stage);
        self.stages.len() - 1
    }

    /// Whether a stage is one that stands for another's `when`.
    fn is_chosen(&self, index: usize) -> bool {
        self.stages[index].name.ends_with(CHOSEN)
    }
}

/// How the name of a stage ends that stands for another's `when`. No stage has such a name: a stage's has no colon.
const CHOSEN: &str = ":chosen";

fn is_edge(stage: &Stage) -> bool {
    matches!(stage.kind, Kind::Source(Source::Edge(_)))
}

fn between(from: &Stage, to: &Stage) -> String {
    format!("{}->{}", from.name, to.name)
}

/// No stage has such a name: a stage's has no colon.
fn letters(sidecar: &str, sink: &Stage) -> String {
    format!("{sidecar}:errors->{}", sink.name)
}

fn bare(name: String, priority: Priority, kind: Kind) -> Stage {
    Stage {
        name,
        from: Vec::new(),
        when: None,
        otherwise: false,
        priority,
        input: Input::default(),
        on_error: OnError::default(),
        kind,
    }
}
