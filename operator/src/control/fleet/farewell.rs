//! A pipeline that is gone, in the order it stops.
//!
//! Pods that were made for it go with it: each runs it until its own end, and drains there. Sidecars in pods of the user's stay
//! and have to be told: those that only send stop at once and say when they have drained; what comes by an edge is taken until
//! nobody can send by it any more. Nobody waits for what the API server has forgotten, so all of this is memory, and has an end:
//! after a while everybody is told to stop, as another leader would tell them.
//!
//! Sidecars that a pipeline has no more, while it goes on, part in the same order; those that stay may still send to them.

use std::collections::{BTreeMap, BTreeSet};

use sidestream_control::{Plan, Suspend};
use sidestream_desired::{edges_in, edges_out};

use super::{Account, Addressee, Fleet, Inner};

/// What is told of a pipeline that is gone.
#[derive(Debug, PartialEq)]
pub enum Farewell {
    /// What it was told before: its pod ends by itself.
    Stays,
    /// To stop, or what of it is to.
    Told(Plan),
    /// That there is no such pipeline.
    Gone,
}

/// One that runs a part of it.
struct Part {
    plan: Plan,
    ins: Vec<String>,
    outs: Vec<String>,
}

impl Fleet {
    /// Whether each that is connected, of `pods` at least, has said that it has drained this plan.
    pub fn has_drained(&self, addressee: &Addressee, plan: &Plan, pods: usize) -> bool {
        self.lock().has_drained(addressee, plan, pods)
    }

    /// What each of `going`, which the pipeline has no more, is told now. `may_come`: the edges by which others may still send
    /// to them; `expected`: how many pods of an account there are, where more may come.
    pub fn partings(
        &self,
        pipeline: &str,
        going: &BTreeSet<Addressee>,
        may_come: &BTreeSet<String>,
        expected: impl Fn(&Account) -> Option<usize>,
    ) -> BTreeMap<Addressee, Farewell> {
        self.lock().partings(pipeline, going, may_come, expected)
    }
}

impl Inner {
    /// What each of those that ran `pipeline` is told now. `expected`: how many pods of an account there are, where more may
    /// come.
    pub(super) fn farewells(
        &self,
        pipeline: &str,
        expected: impl Fn(&Account) -> Option<usize>,
    ) -> BTreeMap<Addressee, Farewell> {
        let Some(all) = self.addressees.get(pipeline) else { return BTreeMap::new() };
        let mut farewells = self.partings(pipeline, all, &BTreeSet::new(), &expected);
        for (own, farewell) in farewells.iter_mut().filter(|(own, _)| own.pod.is_none()) {
            *farewell = if self.is_there(own, &expected) { Farewell::Stays } else { Farewell::Gone };
        }
        farewells
    }

    /// What each of `going` is told now. `may_come`: the edges by which others may send to them.
    pub(super) fn partings(
        &self,
        pipeline: &str,
        going: &BTreeSet<Addressee>,
        may_come: &BTreeSet<String>,
        expected: impl Fn(&Account) -> Option<usize>,
    ) -> BTreeMap<Addressee, Farewell> {
        let parts: BTreeMap<&Addressee, Part> =
            going.iter().filter_map(|own| Some((own, self.part(own, pipeline)?))).collect();
        let is_there = |own: &Addressee| self.is_there(own, &expected);
        let pods = |own: &Addressee| expected(&own.account).filter(|_| own.pod.is_none()).unwrap_or_default();
        let is_closed = |edge: &String| {
            let senders = parts.iter().filter(|(_, part)| part.outs.contains(edge));
            let mut senders = senders.filter(|(own, _)| is_there(own));
            senders.all(|(own, part)| self.has_closed(own, &part.plan, edge, pods(own)))
                && !may_come.contains(edge)
        };
        let farewell = |own: &Addressee, part: &Part| {
            if !is_there(own)
                || part.ins.is_empty() && part.outs.is_empty()
                || self.has_drained(own, &part.plan, pods(own))
            {
                return Farewell::Gone;
            }
            let closed: Vec<String> = part.ins.iter().filter(|edge| is_closed(edge)).cloned().collect();
            let (suspend, closed) = match closed.len() == part.ins.len() {
                true => (Suspend::Stop, Vec::new()),
                false => (Suspend::StopSources, closed),
            };
            Farewell::Told(Plan { suspend: suspend.into(), closed, ..part.plan.clone() })
        };
        parts.iter().map(|(own, part)| ((*own).clone(), farewell(own, part))).collect()
    }

    /// Whether one of them is connected, or may still come.
    fn is_there(&self, own: &Addressee, expected: &impl Fn(&Account) -> Option<usize>) -> bool {
        !self.ids_of(own).is_empty() || own.pod.is_none() && expected(&own.account).is_some()
    }

    fn part(&self, own: &Addressee, pipeline: &str) -> Option<Part> {
        let plan = (**self.plans.get(own)?.get(pipeline)?).clone();
        // What cannot be read here was told by nobody of this version; it has no edges then.
        let read = plan.unwrap().ok();
        let names = |edges: Vec<&str>| edges.into_iter().map(str::to_owned).collect();
        let ins = read.as_ref().map(|plan| names(edges_in(plan).collect())).unwrap_or_default();
        let outs = read.as_ref().map(|plan| names(edges_out(plan).collect())).unwrap_or_default();
        Some(Part { plan, ins, outs })
    }

    /// Whether each that is connected has said that nothing more comes of it by `edge`.
    fn has_closed(&self, own: &Addressee, plan: &Plan, edge: &String, pods: usize) -> bool {
        let sessions: Vec<_> = self.sessions_of(own).collect();
        let has_closed = |session: &&super::Session| {
            let said = session.said.get(&plan.pipeline);
            let halting = said.and_then(|said| said.halting.as_ref());
            halting.is_some_and(|(hash, open)| *hash == plan.hash && !open.contains(edge))
        };
        // One that is expected and not connected has said nothing.
        sessions.len() >= pods.max(1) && sessions.iter().all(has_closed) || self.has_drained(own, plan, pods)
    }

    pub(super) fn has_drained(&self, own: &Addressee, plan: &Plan, pods: usize) -> bool {
        let sessions: Vec<_> = self.sessions_of(own).collect();
        let has_drained = |session: &&super::Session| {
            let said = session.said.get(&plan.pipeline).and_then(|said| said.drained.as_ref());
            said.is_some_and(|(hash, counts)| *hash == plan.hash && counts.in_flight == 0)
        };
        sessions.len() >= pods.max(1) && sessions.iter().all(has_drained)
    }
}
