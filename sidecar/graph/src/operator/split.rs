//! Makes one event of each element of a list.

use std::fmt;

use sidestream_event::{Batch, Event, Value};
use sidestream_expr::Type;
use sidestream_plan::stage;

use super::{BuildError, expression::Formula};
use crate::{Flow, Output, Processor};

/// `split`: an element's event has its parent's envelope, and the parent ends when all of them have. A long list leaves
/// as several batches, so that no later stage meets one of unbounded length.
pub(super) struct Split {
    list: Formula,
    /// The parents of the batch at hand, kept for their storage.
    parents: Vec<Event>,
}

struct NoList(&'static str);

impl Split {
    pub(super) fn new(config: &stage::Split, input: &Type) -> Result<Self, BuildError> {
        Ok(Self { list: Formula::new("list", &config.list, input)?, parents: Vec::new() })
    }
}

impl Processor for Split {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        self.parents.extend(batch.drain());
        for parent in self.parents.drain(..) {
            match self.list.eval(&parent) {
                Ok(Value::List(list)) => {
                    for element in list {
                        push_bounded(batch, out, Event { meta: parent.meta.clone(), body: element });
                    }
                }
                Ok(other) => out.fail(parent, NoList(other.kind())),
                Err(reason) => out.fail(parent, reason),
            }
        }
        Flow::Continue
    }
}

/// Adds an event to `batch`, which is emitted first where it is full.
pub(super) fn push_bounded(batch: &mut Batch, out: &mut Output, event: Event) {
    if batch.len() >= BATCH_EVENTS_MAX {
        let mut full = Batch::of(batch.drain().collect(), batch.mark().clone());
        full.set_born_nanos(batch.born_nanos());
        out.emit(full);
    }
    batch.push(event);
}

impl fmt::Display for NoList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`list`: a list is wanted, and this is {}", self.0)
    }
}

/// The longest batch an operator that makes many events of one lets go: 1024 small events are some 200 KiB.
pub(super) const BATCH_EVENTS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::testing::{Stage, deliver, event};

    #[test]
    fn each_element_becomes_an_event_with_its_parents_envelope() {
        let mut stage = Stage::of(r#"{"split": {"list": "event.items"}}"#);
        let mut parent = event(r#"{"items":[1,{"a":2}]}"#);
        parent.meta.key = Some("k".into());
        stage.push([parent, event(r#"{"items":[]}"#), event(r#"{"items":["x"]}"#)]);
        let events = stage.events();
        let bodies: Vec<_> = events.iter().map(|event| event.body.to_string()).collect();
        assert_eq!(bodies, ["1", r#"{"a":2}"#, "\"x\""]);
        assert_eq!(events[1].meta.key.as_deref(), Some("k"));
        assert_eq!(events.iter().map(|event| event.meta.sequence).collect::<Vec<_>>(), [0, 0, 2]);
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let mut stage = Stage::of(r#"{"split": {"list": "event.items"}}"#);
        stage.push([event(r#"{"items":"a,b"}"#), event("{}")]);
        let failed = stage.failed();
        assert_eq!(failed[0].1, "`list`: a list is wanted, and this is text");
        assert!(failed[1].1.contains("no such field"));
    }

    #[test]
    fn a_long_list_leaves_in_bounded_batches_and_its_parent_ends_with_the_last_of_them() {
        let mut stage = Stage::of(r#"{"split": {"list": "event"}}"#);
        let list = Value::from((0..3000).map(Value::from).collect::<Vec<_>>());
        stage.push([Event::new(list)]);
        let batches = stage.take_batches();
        assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [1024, 1024, 952]);
        let mut batches = batches.into_iter();
        deliver(batches.by_ref().take(2));
        assert_eq!(stage.settled(), 0);
        deliver(batches);
        assert_eq!(stage.settled(), 1);
    }
}
