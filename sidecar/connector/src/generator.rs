//! Events made by itself, paced by the clock it is shown.
//!
//! It fills the batch it is given in place and keeps no event, so that a batch which comes back is filled again without
//! allocating. It must never wait: a paced generator says when it is due.

use std::time::Duration;

use sidestream_event::{Batch, Text, Timestamp};
use sidestream_host::{Moment, Random};
use sidestream_plan::stage;

use crate::{BuildError, Filled, PolledSource};

pub(crate) struct Generator {
    pace: Option<Pace>,
    /// How many events are still to come; none means without end.
    left: Option<u64>,
    sequence: u64,
    keys: u64,
    random: Random,
    payload: Option<Text>,
}

impl Generator {
    pub(crate) fn new(stage: &stage::Generator) -> Result<Self, BuildError> {
        let payload = match stage.payload.map(|size| size.bytes()) {
            None | Some(0) => None,
            Some(bytes) if bytes <= PAYLOAD_BYTES_MAX => Some(Text::from("x".repeat(bytes as usize))),
            Some(bytes) => {
                let reason =
                    format!("{bytes} bytes are more than the {PAYLOAD_BYTES_MAX} an event may carry here");
                return Err(BuildError { field: "payload", reason });
            }
        };
        Ok(Self {
            pace: stage.rate.map(Pace::new).transpose()?,
            left: stage.count,
            sequence: 0,
            keys: u64::from(stage.keys.unwrap_or(1).max(1)),
            random: Random::seeded(stage.seed.unwrap_or(0)),
            payload,
        })
    }

    fn fill_one(&mut self, batch: &mut Batch, wall: Timestamp) {
        let event = batch.next();
        let key = key_name(self.sequence % self.keys);
        event.meta.time = wall;
        event.meta.key = Some(key.clone());
        let body = event.body.reset_map();
        body.push_new(Text::inline("sequence"), (self.sequence as i64).into());
        body.push_new(Text::inline("key"), key.into());
        // One decimal keeps the console readable.
        body.push_new(Text::inline("value"), (self.random.below(1001) as f64 / 10.0).into());
        if let Some(payload) = &self.payload {
            body.push_new(Text::inline("payload"), payload.clone().into());
        }
        self.sequence += 1;
    }
}

impl PolledSource for Generator {
    fn fill(&mut self, batch: &mut Batch, limit: usize, now: Moment, wall: Timestamp) -> Filled {
        if self.left == Some(0) {
            return Filled::End;
        }
        let wanted = self.left.map_or(limit, |left| limit.min(usize::try_from(left).unwrap_or(usize::MAX)));
        let count = self.pace.as_mut().map_or(wanted, |pace| pace.take(wanted, now));
        for _ in 0..count {
            self.fill_one(batch, wall);
        }
        if let Some(left) = &mut self.left {
            *left -= count as u64;
        }
        match &self.pace {
            // The end is told by the next call, so that this one's events are seen by whoever drops a source at its end.
            Some(pace) if self.left != Some(0) => pace.next(),
            _ => Filled::More,
        }
    }
}

/// A token bucket: what a stall holds up is caught up with, at most one second's worth of it.
struct Pace {
    rate: f64,
    /// Events that are due and not made yet.
    credit: f64,
    last: Option<Moment>,
}

impl Pace {
    fn new(rate: f64) -> Result<Self, BuildError> {
        if !(rate > 0.0 && rate <= 1e9) {
            let reason = format!("{rate} is no rate; write events a second from 0.001 to 1e9");
            return Err(BuildError { field: "rate", reason });
        }
        Ok(Self { rate, credit: 1.0, last: None })
    }

    fn take(&mut self, wanted: usize, now: Moment) -> usize {
        let passed = now.since(self.last.unwrap_or(now)).as_secs_f64();
        self.last = Some(now);
        self.credit = (self.credit + passed * self.rate).min(self.rate.max(1.0));
        let taken = (self.credit as usize).min(wanted);
        self.credit -= taken as f64;
        taken
    }

    fn next(&self) -> Filled {
        match self.last {
            Some(last) if self.credit < 1.0 => {
                let nanos = ((1.0 - self.credit) / self.rate * 1e9).ceil() as u64;
                Filled::Until(last + Duration::from_nanos(nanos.max(1)))
            }
            _ => Filled::More,
        }
    }
}

/// `k0`, `k1`, ...: short enough to be inline, and written without the formatting machinery.
fn key_name(number: u64) -> Text {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    at -= 1;
    digits[at] = b'k';
    Text::from(std::str::from_utf8(&digits[at..]).expect("digits are ASCII"))
}

/// Longer payloads measure memory, not Sidestream.
const PAYLOAD_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use sidestream_plan::Size;

    use super::*;

    fn generator(stage: stage::Generator) -> Generator {
        Generator::new(&stage).unwrap()
    }

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    fn fill(source: &mut Generator, limit: usize, now: Moment) -> (Batch, Filled) {
        let mut batch = Batch::default();
        let filled = source.fill(&mut batch, limit, now, Timestamp::from_nanos(5));
        (batch, filled)
    }

    #[test]
    fn a_body_is_sequence_key_and_value_and_the_keys_take_turns() {
        let payload = Some(Size::from_bytes(40));
        let mut source = generator(stage::Generator { keys: Some(2), payload, ..Default::default() });
        let (batch, filled) = fill(&mut source, 3, at(0));
        assert_eq!(filled, Filled::More);
        let keys: Vec<_> = batch.events().iter().map(|event| event.meta.key.clone().unwrap()).collect();
        assert_eq!(keys, ["k0", "k1", "k0"]);
        let body = &batch.events()[2].body;
        assert_eq!(body.field("sequence").unwrap().as_f64(), Some(2.0));
        assert_eq!(body.field("key").unwrap().as_text(), Some("k0"));
        assert!((0.0..=100.0).contains(&body.field("value").unwrap().as_f64().unwrap()));
        assert_eq!(body.field("payload").unwrap().as_text().unwrap().len(), 40);
        assert_eq!(batch.events()[2].meta.time, Timestamp::from_nanos(5));
    }

    #[test]
    fn one_seed_makes_the_same_events_and_another_seed_others() {
        let bodies = |seed| {
            let mut source = generator(stage::Generator { seed: Some(seed), ..Default::default() });
            fill(&mut source, 20, at(0))
                .0
                .events()
                .iter()
                .map(|event| event.body.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(bodies(1), bodies(1));
        assert_ne!(bodies(1), bodies(2));
    }

    #[test]
    fn the_rate_is_kept_and_the_next_event_is_announced() {
        let mut source = generator(stage::Generator { rate: Some(10.0), ..Default::default() });
        let (batch, filled) = fill(&mut source, 100, at(0));
        assert_eq!((batch.len(), filled), (1, Filled::Until(at(100))));
        let (batch, filled) = fill(&mut source, 100, at(50));
        assert_eq!((batch.len(), filled), (0, Filled::Until(at(100))));
        let made: usize = (1..=600).map(|step| fill(&mut source, 100, at(step * 100)).0.len()).sum();
        assert!((599..=600).contains(&made), "{made} in a minute");
    }

    #[test]
    fn after_a_stall_at_most_one_second_is_caught_up_with() {
        let mut source = generator(stage::Generator { rate: Some(1000.0), ..Default::default() });
        fill(&mut source, 10_000, at(0));
        let (batch, _) = fill(&mut source, 600, at(60_000));
        assert_eq!(batch.len(), 600);
        let (batch, filled) = fill(&mut source, 600, at(60_000));
        assert_eq!((batch.len(), filled), (400, Filled::Until(at(60_001))));
    }

    #[test]
    fn a_rate_below_one_a_second_still_comes() {
        let mut source = generator(stage::Generator { rate: Some(0.5), ..Default::default() });
        let made: usize = (0..=10).map(|second| fill(&mut source, 10, at(second * 1000)).0.len()).sum();
        assert_eq!(made, 6);
    }

    #[test]
    fn it_ends_after_count_events() {
        let mut source =
            generator(stage::Generator { count: Some(5), rate: Some(1e6), ..Default::default() });
        fill(&mut source, 1, at(0));
        let (batch, filled) = fill(&mut source, 100, at(1));
        assert_eq!((batch.len(), filled), (4, Filled::More));
        assert_eq!(fill(&mut source, 100, at(1)).1, Filled::End);
        assert_eq!(
            fill(&mut generator(stage::Generator { count: Some(0), ..Default::default() }), 1, at(0)).1,
            Filled::End
        );
    }

    #[test]
    fn a_rate_that_is_none_is_refused_with_what_to_write() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error =
                Generator::new(&stage::Generator { rate: Some(rate), ..Default::default() }).err().unwrap();
            assert!(error.to_string().contains("from 0.001 to 1e9"), "{error}");
        }
    }
}
