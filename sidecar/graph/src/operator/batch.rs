//! Makes one event of many: the list of their bodies.
//!
//! The list has the envelope of its first event, and its end is the end of them all: it carries the joined marks of the
//! batches its events came from, so that their sources wait for it.

use std::time::Duration;

use sidestream_event::{Batch, Event, List, Mark, Meta, Value};
use sidestream_host::Moment;
use sidestream_plan::stage;

use crate::{Flow, Output, Processor};

/// `batch`: full at `size`, or when the first has waited for `linger`.
pub(super) struct Gather {
    size: usize,
    linger: Duration,
    open: Option<Open>,
}

/// The list that is being filled.
struct Open {
    meta: Meta,
    list: List,
    /// The mark of each batch that gave events, and their numbers.
    parts: Vec<(Mark, Vec<u64>)>,
    born_nanos: u64,
    due: Moment,
}

impl Gather {
    pub(super) fn new(config: &stage::Batch) -> Self {
        let linger = config.linger.map_or(LINGER, |linger| linger.get());
        Self { size: config.size.max(1) as usize, linger, open: None }
    }

    fn close(&mut self, out: &mut Output) {
        if let Some(Open { meta, list, parts, born_nanos, .. }) = self.open.take() {
            let mut batch = Batch::of(vec![Event { meta, body: Value::List(list) }], Mark::join(parts));
            batch.set_born_nanos(born_nanos);
            out.emit(batch);
        }
    }
}

impl Processor for Gather {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        let (mark, born_nanos) = (batch.mark().clone(), batch.born_nanos());
        let mut is_first = true;
        for Event { meta, body } in batch.drain() {
            let sequence = meta.sequence;
            let open = self.open.get_or_insert_with(|| Open {
                meta,
                list: List::new(),
                parts: Vec::new(),
                born_nanos,
                due: out.now() + self.linger,
            });
            open.list.push(body);
            match open.parts.last_mut() {
                Some((_, sequences)) if !is_first => sequences.push(sequence),
                _ if mark.is_some() => open.parts.push((mark.clone(), vec![sequence])),
                _ => {}
            }
            is_first = false;
            if open.list.len() >= self.size {
                self.close(out);
                is_first = true;
            }
        }
        Flow::Continue
    }

    fn tick(&mut self, out: &mut Output) {
        if self.due().is_some_and(|due| due <= out.now()) {
            self.close(out);
        }
    }

    fn due(&self) -> Option<Moment> {
        self.open.as_ref().map(|open| open.due)
    }

    fn flush(&mut self, out: &mut Output) {
        self.close(out);
    }
}

/// The default of `linger`: what people wait for a line of output without wondering.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use crate::operator::testing::{Stage, deliver, event};

    #[test]
    fn a_full_list_leaves_at_once_and_the_rest_when_the_first_has_waited() {
        let mut stage = Stage::of(r#"{"batch": {"size": 3, "linger": "2s"}}"#);
        stage.push((0..4).map(|n| event(&n.to_string())));
        assert_eq!(stage.bodies(), ["[0,1,2]"]);
        stage.advance(1.0);
        stage.push([event("4")]);
        assert!(stage.bodies().is_empty());
        stage.advance(0.9);
        stage.tick();
        assert!(stage.bodies().is_empty());
        stage.advance(0.1);
        stage.tick();
        assert_eq!(stage.bodies(), ["[3,4]"]);
        assert_eq!(stage.due(), None);
    }

    #[test]
    fn what_is_open_leaves_when_the_input_ends() {
        let mut stage = Stage::of(r#"{"batch": {"size": 3}}"#);
        stage.push([event("1")]);
        stage.flush();
        assert_eq!(stage.bodies(), ["[1]"]);
        stage.flush();
        assert!(stage.bodies().is_empty());
    }

    #[test]
    fn the_sources_wait_until_the_list_has_been_delivered() {
        let mut stage = Stage::of(r#"{"batch": {"size": 3}}"#);
        stage.push([event("1"), event("2")]);
        assert_eq!(stage.settled(), 0);
        stage.push([event("3"), event("4")]);
        let batches = stage.take_batches();
        assert_eq!(stage.settled(), 0);
        deliver(batches);
        assert_eq!(stage.settled(), 1, "the second batch still has an event in the open list");
        stage.flush();
        deliver(stage.take_batches());
        assert_eq!(stage.settled(), 2);
    }

    #[test]
    fn the_list_has_the_envelope_of_its_first_event() {
        let mut stage = Stage::of(r#"{"batch": {"size": 2}}"#);
        let mut first = event("1");
        first.meta.key = Some("k".into());
        stage.push([first, event("2")]);
        let events = stage.events();
        assert_eq!((events[0].meta.key.as_deref(), events[0].meta.sequence), (Some("k"), 0));
    }
}
