//! Changes of several pipelines at once, of which one may want the port that another gives up.
//!
//! ```text
//!   a chain    a wants what b gives up            b, then a
//!   a circle   a and b want each other's          a, whose source waits for the port; then b
//! ```
//!
//! A pipeline that cannot change keeps what it has, so in a circle each is asked first whether it could. Where one fails all
//! the same, those that have changed for its sake go back to what they were.

use std::{collections::BTreeMap, time::Duration};

use super::{Fleet, Wanted};
use crate::reload::{Ports, ports_beyond};

/// A change that is to be made.
struct Change {
    wanted: Wanted,
    /// The ports it gives up, and those it takes.
    gives: Ports,
    asks: Ports,
}

impl Fleet {
    /// Changes the pipelines, each when what it wants has been given up.
    pub(super) fn exchange(
        &mut self,
        wanted: Vec<Wanted>,
        grace: Duration,
    ) -> BTreeMap<String, Result<(), String>> {
        let mut waiting: Vec<Change> = wanted.into_iter().map(|wanted| self.change(wanted)).collect();
        let mut outcomes = BTreeMap::new();
        // Those that have changed while a port they want was not free yet, as they were before; and such ports.
        let (mut changed, mut awaited): (Vec<Wanted>, Ports) = Default::default();
        while !waiting.is_empty() {
            let free = (0..waiting.len())
                .find(|place| waiting[*place].asks.is_disjoint(&given_by_others(&waiting, *place)));
            if free.is_none() && self.refuse_one(&mut waiting, &mut outcomes) {
                continue;
            }
            let place = free.unwrap_or_default();
            let given = given_by_others(&waiting, place);
            let Change { wanted, gives, asks } = waiting.remove(place);
            let (name, before) = (wanted.plan.pipeline.clone(), self.wanted(&wanted.plan.pipeline));
            let outcome = self.change_one(wanted, &given, grace);
            match &outcome {
                Ok(()) => {
                    awaited = &(&awaited - &gives) | &(&asks & &given);
                    changed.extend(before);
                }
                Err(reason) if !awaited.is_disjoint(&gives) => {
                    for before in changed.drain(..).rev() {
                        let other = before.plan.pipeline.clone();
                        let back = match self.change_one(before, &Ports::new(), grace) {
                            Ok(()) => "the old plan is running".to_owned(),
                            Err(error) => error,
                        };
                        outcomes.insert(other, Err(format!("{name} keeps its port: {reason}; {back}")));
                    }
                    awaited.clear();
                }
                Err(_) => {}
            }
            if awaited.is_empty() {
                changed.clear();
            }
            outcomes.insert(name, outcome);
        }
        outcomes
    }

    /// Takes out one of a circle that cannot change, and says whether there was one.
    fn refuse_one(
        &self,
        waiting: &mut Vec<Change>,
        outcomes: &mut BTreeMap<String, Result<(), String>>,
    ) -> bool {
        let given: Ports = waiting.iter().flat_map(|own| own.gives.iter().cloned()).collect();
        let refused = waiting.iter().enumerate().find_map(|(place, own)| {
            let running = self.pipelines.get(&own.wanted.plan.pipeline)?;
            let error = running.would_take(&own.wanted.plan, &given).err()?;
            Some((place, error.to_string()))
        });
        let Some((place, reason)) = refused else { return false };
        let Change { wanted, .. } = waiting.remove(place);
        tracing::error!(pipeline = wanted.plan.pipeline, "not reloaded: {reason}");
        outcomes.insert(wanted.plan.pipeline, Err(format!("{reason}; the old plan is running")));
        true
    }

    fn change(&self, wanted: Wanted) -> Change {
        let before = self.wanted(&wanted.plan.pipeline).map(|before| before.plan);
        let gives =
            before.as_ref().map(|before| ports_beyond(before, Some(&wanted.plan))).unwrap_or_default();
        let asks = ports_beyond(&wanted.plan, before.as_ref());
        Change { wanted, gives, asks }
    }
}

/// The ports that all but the one at `place` give up.
fn given_by_others(waiting: &[Change], place: usize) -> Ports {
    let others = waiting.iter().enumerate().filter(|(other, _)| *other != place);
    others.flat_map(|(_, other)| other.gives.iter().cloned()).collect()
}
