//! Which of several pods owns which events: where a stage behind an edge brings the events of a key together, the edge
//! must take all of a key to one pod.
//!
//! ```text
//!   scrape ═ edge ═▶ seen ─▶ minute {by: event.route} ─▶ slow {by: event.by}
//!               ▲      ▲                 ▲                       │ event.by is what minute was kept by
//!               │      │                 └── event.route ◀───────┘
//!               │      └── event.route: nothing on the way writes it
//!               └── by event.route: each slot of it has one owner among the replicas
//! ```
//!
//! From every such stage the key is followed back to the edges, as an expression of the events at each step. Where it
//! cannot be, the pods would each see a part, and that is said.

use std::collections::{BTreeMap, HashSet};

use sidestream_expr::reads;
use sidestream_plan::{
    Expression, Kind, Process,
    stage::{EdgeSlots, SLOTS},
};

use super::{Report, placement::Placement};
use crate::{
    diagnostic::Code,
    path::{Path, shortened},
    pipeline::{Host, PipelineSpec, SidecarSpec},
};

/// The owners of the events of edges, by the stages that each leads from and to.
#[derive(Default)]
pub(super) struct Owners(BTreeMap<(usize, usize), Owned>);

/// What an edge carries to several pods that own the keys of its events.
struct Owned {
    by: String,
    pods: u32,
    /// The first stage that wants it so.
    wanted_by: usize,
}

impl Owners {
    /// Who owns what travels from one stage to another; none where any pod may take it.
    pub(super) fn of(&self, from: usize, to: usize) -> Option<EdgeSlots> {
        let Owned { by, pods, .. } = self.0.get(&(from, to))?;
        let ordinals = (0..SLOTS).map(|slot| slot % pods).collect();
        Some(EdgeSlots { by: Some(Expression::from(by.as_str())), ordinals })
    }

    /// Whether events come to their owners in a stage that is one of `these`.
    pub(super) fn lead_into(&self, these: impl Fn(usize) -> bool) -> bool {
        self.0.keys().any(|(_, to)| these(*to))
    }
}

/// Finds the owners, and says which stages would bring together a part of what they are meant to.
pub(super) fn resolve(
    spec: &PipelineSpec,
    kinds: &[Kind],
    wiring: &[Vec<usize>],
    placement: &Placement,
    report: &mut Report,
) -> Owners {
    let all = Stages { spec, kinds, wiring, of_stage: &placement.of_stage };
    let mut owners = Owners::default();
    let mut is_spread: Vec<bool> = Vec::new();
    for (index, inputs) in wiring.iter().enumerate() {
        let own = placement.of_stage[index];
        is_spread.push(inputs.iter().any(|input| placement.of_stage[*input] != own || is_spread[*input]));
        let sidecar = &placement.sidecars[own];
        let found = match together(&kinds[index]) {
            Some(together) if is_spread[index] => all.own(index, together, sidecar, &mut owners),
            _ => Ok(()),
        };
        if let Err(Spread { reason, cure }) = found {
            report.say(Code::SpreadState, Path::stage(index), reason, cure);
        }
    }
    owners
}

/// What a stage brings together.
enum Together<'a> {
    Everything,
    /// The events of a key.
    Key(&'a Expression),
}

fn together(kind: &Kind) -> Option<Together<'_>> {
    let Kind::Process(process) = kind else { return None };
    let by = match process {
        Process::Window(window) => window.by.as_ref(),
        Process::Threshold(threshold) => threshold.by.as_ref(),
        Process::Dedupe(dedupe) => Some(&dedupe.by),
        // Without a key it bounds what comes to its own pod.
        Process::Throttle(throttle) => Some(throttle.by.as_ref()?),
        _ => return None,
    };
    Some(by.map_or(Together::Everything, Together::Key))
}

/// Why pods would each see a part, and what to do about it.
struct Spread {
    reason: String,
    cure: String,
}

/// What keeps a key from being followed back to the edges.
enum Obstacle {
    /// The stage makes what the key reads.
    Made { by: usize, key: String },
    /// The source begins in each of the pods.
    Begins(usize),
    /// It reads what no edge carries.
    Untold(&'static str),
}

struct Stages<'a> {
    spec: &'a PipelineSpec,
    kinds: &'a [Kind],
    wiring: &'a [Vec<usize>],
    of_stage: &'a [usize],
}

impl Stages<'_> {
    /// Has the events come to their owners that stage `index` of `sidecar` brings together.
    fn own(
        &self,
        index: usize,
        together: Together<'_>,
        sidecar: &SidecarSpec,
        owners: &mut Owners,
    ) -> Result<(), Spread> {
        let (name, home) = (self.name(index), &sidecar.name);
        let part =
            |pods: &str| format!("{pods} would see a part of the events that `{name}` brings together");
        let pods = match sidecar.host() {
            // That was said.
            None => return Ok(()),
            Some(Host::Workload(workload)) => workload.replicas,
            // How many pods of theirs there are is the user's to say, at any time.
            Some(Host::Inject(_)) => {
                let reason = part(&format!("each of the pods that `{home}` is in"));
                let cure = format!("run `{name}` where its events begin, or in a sidecar with `workload`");
                return Err(Spread { reason, cure });
            }
        };
        let Some(pods) = pods else {
            let pods = format!("`{home}` may be scaled to any number of pods, and each of several");
            let cure = match together {
                Together::Key(_) => {
                    format!(
                        "write `replicas` at the sidecar `{home}`: 1, or as many as are to share the keys"
                    )
                }
                Together::Everything => format!("write `replicas: 1` at the sidecar `{home}`"),
            };
            return Err(Spread { reason: part(&pods), cure });
        };
        let Some(pods) = u32::try_from(pods).ok().filter(|pods| *pods > 1) else { return Ok(()) };
        let each = format!("each of the {pods} pods of `{home}`");
        let Together::Key(key) = together else {
            let cure = format!(
                "write `replicas: 1` at the sidecar `{home}`, or give `{name}` a key: pods can share those"
            );
            return Err(Spread { reason: part(&each), cure });
        };
        if pods > SLOTS {
            let reason = format!(
                "all keys are in {SLOTS} parts, so some of the {pods} pods of `{home}` would own none"
            );
            return Err(Spread { reason, cure: format!("write `replicas: {SLOTS}` or fewer at `{home}`") });
        }
        let mut edges = Vec::new();
        self.follow(index, key.source().trim().to_owned(), &mut HashSet::new(), &mut edges)
            .map_err(|obstacle| self.in_the_way(obstacle, index, &part(&each), home))?;
        for (edge, key) in &edges {
            if let Some(other) = owners.0.get(edge).filter(|other| other.by != *key) {
                let (other, by) = (self.name(other.wanted_by), shortened(&other.by));
                let reason = format!(
                    "{}: they come by `{by}`, as `{other}` wants them, and not by `{key}`",
                    part(&each)
                );
                let cure = format!(
                    "run `{name}` in a sidecar of its own, give both the same key, or write `replicas: 1` at `{home}`"
                );
                return Err(Spread { reason, cure });
            }
        }
        for (edge, by) in edges {
            owners.0.entry(edge).or_insert(Owned { by, pods, wanted_by: index });
        }
        Ok(())
    }

    /// Follows `key`, of the events that come to `stage`, back to the edges that bring them.
    fn follow(
        &self,
        stage: usize,
        key: String,
        seen: &mut HashSet<(usize, String)>,
        edges: &mut Vec<((usize, usize), String)>,
    ) -> Result<(), Obstacle> {
        for input in &self.wiring[stage] {
            if self.of_stage[*input] != self.of_stage[stage] {
                untold(&key).map_or(Ok(()), |field| Err(Obstacle::Untold(field)))?;
                edges.push(((*input, stage), key.clone()));
                continue;
            }
            let before = self.before(*input, &key)?;
            if seen.insert((*input, before.clone())) {
                self.follow(*input, before, seen, edges)?;
            }
        }
        Ok(())
    }

    /// What `key`, of the events that `stage` gives, is of those that it takes.
    fn before(&self, stage: usize, key: &str) -> Result<String, Obstacle> {
        let made = || Obstacle::Made { by: stage, key: key.to_owned() };
        let process = match &self.kinds[stage] {
            Kind::Source(_) => return Err(Obstacle::Begins(stage)),
            Kind::Sink(_) => return Err(made()),
            Kind::Process(process) => process,
        };
        let kept_by = match process {
            Process::Window(window) => window.by.as_ref(),
            Process::Threshold(threshold) => threshold.by.as_ref(),
            _ => None,
        };
        if let Some(by) = kept_by.filter(|_| key == "event.by") {
            return Ok(by.source().trim().to_owned());
        }
        let is_kept = match process {
            Process::Filter(_) | Process::Merge(_) | Process::Sample(_) => true,
            Process::Dedupe(_) | Process::Throttle(_) => true,
            Process::Set(set) => !reads_any(key, set.fields.keys()),
            Process::Unset(unset) => !reads_any(key, &unset.fields),
            Process::Rename(rename) => {
                !reads_any(key, rename.fields.iter().flat_map(|(old, new)| [old, new]))
            }
            // A new body in the same envelope.
            Process::Map(_) | Process::Split(_) => reads_envelope_alone(key),
            _ => false,
        };
        is_kept.then(|| key.to_owned()).ok_or_else(made)
    }

    fn in_the_way(&self, obstacle: Obstacle, index: usize, part: &str, home: &str) -> Spread {
        let name = self.name(index);
        match obstacle {
            Obstacle::Made { by, key } => {
                let (by, key) = (self.name(by), shortened(&key));
                Spread {
                    reason: format!("{part}: `{key}`, its key there, is made by `{by}`, behind the edge"),
                    cure: format!(
                        "run `{by}` before the edge or `{name}` in a sidecar of its own, or write `replicas: 1` at `{home}`"
                    ),
                }
            }
            Obstacle::Begins(source) => Spread {
                reason: format!("{part}: `{}` begins in each of them", self.name(source)),
                cure: format!(
                    "run `{}` in another sidecar, or write `replicas: 1` at `{home}`",
                    self.name(source)
                ),
            },
            Obstacle::Untold(field) => Spread {
                reason: format!("{part}: its key reads `{field}`, which is another on each side of an edge"),
                cure: format!(
                    "have the key of `{name}` read the event itself, or write `replicas: 1` at `{home}`"
                ),
            },
        }
    }

    fn name(&self, stage: usize) -> &str {
        &self.spec.stages[stage].name
    }
}

/// Whether an expression reads any of these fields of the body, dotted as stages write them, or what is in or around one.
fn reads_any<'a>(key: &str, fields: impl IntoIterator<Item = &'a String>) -> bool {
    let Some(read) = reads(key) else { return true };
    let mut fields = fields.into_iter();
    fields.any(|field| {
        let written: Vec<&str> = std::iter::once("event").chain(field.split('.')).collect();
        read.iter().any(|path| path.iter().zip(&written).all(|(one, other)| one == other))
    })
}

fn reads_envelope_alone(key: &str) -> bool {
    reads(key).is_some_and(|read| read.iter().all(|path| path[0] == "meta"))
}

/// What `key` reads that is told to nobody: events are numbered anew where they arrive.
pub(super) fn untold(key: &str) -> Option<&'static str> {
    let read = reads(key)?;
    let is_untold = |path: &Vec<String>| path[0] == "meta" && path.get(1).is_none_or(|own| own == "sequence");
    read.iter().any(is_untold).then_some("meta.sequence")
}
