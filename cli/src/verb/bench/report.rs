//! What is said of a run: as text, and as JSON for programs. `docs/how-to/measure-a-dnpipe.md` names the fields.

use std::fmt::Write;

use serde::Serialize;
use sidestream_client::{DiskView, DnpipeView};

use super::{
    Kind,
    disk::Disk,
    load::{Load, Measured},
    tally::{Gathered, Quantiles, Second},
};

/// A run, in figures.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) kind: Kind,
    /// The dnpipe, or the first of several.
    pub(super) dnpipe: String,
    pub(super) dnpipes: usize,
    pub(super) partitions: usize,
    /// When a push was acknowledged.
    pub(super) durability: String,
    pub(super) driver: String,
    pub(super) record_bytes: usize,
    /// Records that were pushed together; absent where the client made the batches.
    pub(super) batch: Option<u32>,
    pub(super) in_flight: usize,
    /// Records a second that were due; absent where it was as fast as it goes.
    pub(super) rate: Option<u64>,
    pub(super) producers: usize,
    pub(super) consumers: usize,
    /// The disk right before the run, where it is one of this machine.
    pub(super) disk: Option<Disk>,
    pub(super) push: Option<Side>,
    pub(super) pull: Option<Side>,
    pub(super) ended: Ended,
}

/// One side of it. Latencies are in microseconds.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Side {
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Records before anything was measured.
    pub(super) warm_up_records: u64,
    /// From when anything was measured to the last of them.
    pub(super) seconds: f64,
    pub(super) records_per_second: f64,
    pub(super) bytes_per_second: f64,
    /// How many came together, on average; of a push alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) records_per_batch: Option<f64>,
    /// From when a record was due: of a push until it was acknowledged, of an end-to-end pull until it was there.
    pub(super) latency: Option<Quantiles>,
    /// How long after it was due a record was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) late: Option<Quantiles>,
    /// Records that were due and never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unsent: Option<u64>,
    pub(super) every_second: Vec<Second>,
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ended {
    Done,
    Interrupted,
    Failed(String),
}

impl Report {
    pub(super) fn new(
        load: &Load,
        described: &[DnpipeView],
        disk: Option<Disk>,
        measured: &Measured,
    ) -> Report {
        let side = |gathered: &Gathered| {
            let counted = &gathered.whole;
            let seconds = counted.last.since(measured.from).as_secs_f64();
            let each = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
            Side {
                records: counted.records,
                bytes: counted.bytes,
                warm_up_records: counted.warm_up,
                seconds,
                records_per_second: each(counted.records),
                bytes_per_second: each(counted.bytes),
                records_per_batch: None,
                latency: Quantiles::of(&counted.latency),
                late: load.rate.and_then(|_| Quantiles::of(&counted.late)),
                unsent: None,
                every_second: gathered.seconds.clone(),
            }
        };
        let push = measured.push.as_ref().map(|gathered| {
            let all = gathered.whole.records + gathered.whole.warm_up;
            let records_per_batch = (measured.batches > 0).then(|| all as f64 / measured.batches as f64);
            Side { records_per_batch, unsent: load.rate.map(|_| measured.unsent), ..side(gathered) }
        });
        let first = described.first();
        let of_first = |text: fn(&DnpipeView) -> String| first.map(text).unwrap_or_default();
        Report {
            kind: load.kind,
            dnpipe: of_first(|own| own.name.to_string()),
            dnpipes: described.len(),
            partitions: described.iter().map(|own| own.partitions.len()).sum(),
            durability: of_first(|own| own.durability.clone()),
            driver: of_first(|DnpipeView { disk: DiskView { driver, .. }, .. }| driver.clone()),
            record_bytes: load.value_bytes,
            batch: load.batch,
            in_flight: load.in_flight,
            rate: load.rate,
            producers: if load.kind.pushes() { load.producers } else { 0 },
            consumers: if load.kind.pulls() { load.consumers } else { 0 },
            disk,
            push,
            pull: measured.pull.as_ref().map(side),
            ended: match (&measured.failed, measured.was_interrupted) {
                (Some(error), _) => Ended::Failed(error.to_string()),
                (None, true) => Ended::Interrupted,
                (None, false) => Ended::Done,
            },
        }
    }

    pub(super) fn json(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }

    pub(super) fn text(&self) -> String {
        let mut text = self.title() + "\n";
        // Writing to memory does not fail.
        if let Some(disk) = self.disk {
            let bandwidth = bytes(disk.bandwidth_bytes_per_second);
            let _ = writeln!(text, "disk    B {bandwidth}/s   L {}", micros(disk.flush_micros));
        }
        for (word, side) in [("pushed", &self.push), ("pulled", &self.pull)] {
            if let Some(side) = side {
                let _ = writeln!(text, "{word}  {}", self.rates(side, word == "pushed"));
                if let Some(latency) = &side.latency {
                    let _ = writeln!(text, "        {}", quantiles(latency));
                }
                if let Some(late) = &side.late {
                    let _ = writeln!(text, "  sent after it was due: {}", quantiles(late));
                }
                if let Some(unsent) = side.unsent.filter(|unsent| *unsent > 0) {
                    let _ = writeln!(text, "  due and never sent: {}", number(unsent as f64));
                }
            }
        }
        match &self.ended {
            Ended::Done => {}
            Ended::Interrupted => text += "interrupted: this is what there was\n",
            Ended::Failed(_) => text += "it ended early: this is what there was\n",
        }
        text
    }

    /// What was run, in a line.
    pub(super) fn title(&self) -> String {
        let what = match self.dnpipes {
            1 => self.dnpipe.clone(),
            several => format!("{} and {} more", self.dnpipe, several - 1),
        };
        let mut words = vec![
            format!("{} {what}: {} on {}", self.kind.text(), self.durability, self.driver),
            crate::files::plural(self.partitions, "partition"),
        ];
        if self.push.is_some() {
            words.push(format!("records of {}", bytes(self.record_bytes as f64)));
            words.push(match self.batch {
                Some(batch) => format!("batches of {batch}"),
                None => "the client's own batches".into(),
            });
            words.push(format!("{} in flight", number(self.in_flight as f64)));
            words.push(match self.rate {
                Some(rate) => format!("{}/s due", number(rate as f64)),
                None => "as fast as it goes".into(),
            });
            words.push(crate::files::plural(self.producers, "producer"));
        }
        if self.pull.is_some() {
            words.push(crate::files::plural(self.consumers, "consumer"));
        }
        words.join(", ")
    }

    fn rates(&self, side: &Side, is_push: bool) -> String {
        let mut text = format!(
            "{} records in {:.2} s   {}/s   {}/s",
            number(side.records as f64),
            side.seconds,
            number(side.records_per_second),
            bytes(side.bytes_per_second)
        );
        if let Some(disk) = self.disk.filter(|_| is_push) {
            let of_bandwidth = side.bytes_per_second / disk.bandwidth_bytes_per_second;
            let by_flush = side.records_per_second * disk.flush_micros / 1e6;
            let _ = write!(text, "   {of_bandwidth:.2} B   {by_flush:.1} records in L");
        }
        if let Some(batch) = side.records_per_batch {
            let _ = write!(text, "   {batch:.1} records a batch");
        }
        text
    }
}

/// One second, for whoever watches.
pub(super) fn line(at: f64, push: Option<Second>, pull: Option<Second>) -> String {
    let mut line = format!("{at:6.0} s");
    for (word, second) in [("pushed", push), ("pulled", pull)] {
        let Some(second) = second else { continue };
        let (rate, volume) = (number(second.records_per_second), bytes(second.bytes_per_second));
        let _ = write!(line, "   {word} {rate}/s ({volume}/s)");
        if let Some(latency) = second.latency {
            let (p50, p99, max) = (micros(latency.p50), micros(latency.p99), micros(latency.max));
            let _ = write!(line, " p50 {p50} p99 {p99} max {max}");
        }
    }
    line
}

fn quantiles(own: &Quantiles) -> String {
    let named = own.named();
    let words: Vec<_> = named.iter().map(|(name, value)| format!("{name} {}", micros(*value))).collect();
    words.join("  ")
}

/// A time, with three digits and its unit.
pub(super) fn micros(micros: f64) -> String {
    match micros {
        _ if micros < 1000.0 => format!("{micros:.0} us"),
        _ if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

/// Bytes, with their unit.
pub(super) fn bytes(bytes: f64) -> String {
    match bytes {
        _ if bytes < 1024.0 => format!("{bytes:.0} B"),
        _ if bytes < 1048576.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1048576.0),
    }
}

/// A whole number, in threes.
pub(super) fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_said_with_their_units() {
        assert_eq!([0.0, 999.0, 1000.0, 1234567.0].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([63.4, 1500.0, 2.5e6].map(micros), ["63 us", "1.50 ms", "2.50 s"]);
        assert_eq!([16.0, 1024.0, 3.5 * 1048576.0].map(bytes), ["16 B", "1.0 KiB", "3.5 MiB"]);
    }

    #[test]
    fn a_second_is_a_line() {
        let second = Second { at: 3.0, records_per_second: 1234.0, bytes_per_second: 2048.0, latency: None };
        assert_eq!(line(3.0, Some(second.clone()), None), "     3 s   pushed 1,234/s (2.0 KiB/s)");
        assert!(line(3.0, None, Some(second)).contains("pulled 1,234/s"));
    }
}
