//! The Prometheus text format: one event a sample. What its codec promises is in [`sidestream_event::prometheus`].

use sidestream_event::{Batch, Event, prometheus};
use sidestream_plan::stage;

use super::Malformed;
use crate::{
    Flow, Output, Processor,
    operator::{split::push_bounded, text::Place},
};

/// A text in which one line is wrong fails as a whole: half a scrape would pass for a whole one.
pub(super) struct Prometheus {
    place: Place,
    /// The texts of the batch at hand, and the samples of one, kept for their storage.
    texts: Vec<Event>,
    samples: Vec<Event>,
}

impl Prometheus {
    pub(super) fn new(config: &stage::ParseField) -> Self {
        Self { place: Place::new(config.field.as_ref()), texts: Vec::new(), samples: Vec::new() }
    }

    /// Reads the samples of `event` into `samples`; they have its envelope, and their own time where they say it.
    fn read(&mut self, event: &Event) -> Result<(), String> {
        let text = self.place.text(event).map_err(|reason| reason.to_string())?;
        let read = prometheus::samples(text, |sample| {
            let mut own = Event { meta: event.meta.clone(), body: Default::default() };
            sample.fill(&mut own, event.meta.time);
            self.samples.push(own);
        });
        read.map_err(|error| {
            let line = text.split('\n').nth(error.line - 1).unwrap_or_default();
            Malformed::new(error, line, "the whole text is left out").to_string()
        })
    }
}

impl Processor for Prometheus {
    fn process(&mut self, batch: &mut Batch, out: &mut Output) -> Flow {
        let mut texts = std::mem::take(&mut self.texts);
        texts.extend(batch.drain());
        for text in texts.drain(..) {
            self.samples.clear();
            match self.read(&text) {
                Ok(()) => self.samples.drain(..).for_each(|sample| push_bounded(batch, out, sample)),
                Err(reason) => out.fail(text, reason),
            }
        }
        self.texts = texts;
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use sidestream_event::Event;

    use crate::operator::testing::{Stage, event_at};

    fn text_at(seconds: f64, text: &str) -> Event {
        let mut event = event_at(seconds, "null");
        event.body = text.into();
        event
    }

    #[test]
    fn each_sample_is_an_event_of_its_own_time_or_its_texts() {
        let mut stage = Stage::of(r#"{"parse": {"prometheus": {}}}"#);
        stage.push([text_at(5.0, "# TYPE a counter\na{x=\"1\"} 2 7000\nb NaN\n"), text_at(6.0, "")]);
        let events = stage.events();
        let said: Vec<_> = events
            .iter()
            .map(|event| (event.body.to_string(), event.meta.time.as_seconds(), event.meta.sequence))
            .collect();
        assert_eq!(
            said,
            [
                (r#"{"name":"a","labels":{"x":"1"},"value":2.0}"#.to_string(), 7.0, 0),
                (r#"{"name":"b","labels":{},"value":null}"#.to_string(), 5.0, 0),
            ]
        );
    }

    #[test]
    fn a_text_with_a_wrong_line_fails_as_a_whole_and_names_it() {
        let mut stage = Stage::of(r#"{"parse": {"prometheus": {"field": "text"}}}"#);
        let body = [("text", "a 1\nb one\n")].into_iter().collect::<sidestream_event::Value>();
        stage.push([Event::new(body), Event::new(5)]);
        assert!(stage.bodies().is_empty());
        let failed = stage.failed();
        assert!(failed[0].1.contains("line 2, column 3: a number is wanted as the value"), "{}", failed[0].1);
        assert!(failed[0].1.ends_with("in `b one`; the whole text is left out"), "{}", failed[0].1);
        assert!(failed[1].1.contains("no field `text`"));
    }
}
