//! The Prometheus text format: samples of metrics, a line each.
//!
//! ```text
//!   # TYPE http_requests_total counter
//!   http_requests_total{method="post",path="C:\\x \"y\""} 1027 1395066363000
//!   └──── name ───────┘ └─────────── labels ───────────┘ value └ time, ms ┘
//! ```
//!
//! [`samples`] reads format 0.0.4 (<https://prometheus.io/docs/instrumenting/exposition_formats/>), names in quotes as
//! Prometheus 3 sends them, and OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), which a text
//! is known to be by its last line, `# EOF`: there times are seconds. Lines that begin with `#` and exemplars behind a
//! `#` are read over. Nothing is copied except label values with escapes.

use std::{borrow::Cow, fmt};

use crate::{Event, Map, Text, Timestamp, Value};

/// One sample, as it stands in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name of the metric.
    pub name: Cow<'a, str>,
    /// Labels in the order they stand in; names are unique.
    pub labels: &'a [(Cow<'a, str>, Cow<'a, str>)],
    /// Its value; may be NaN or infinite.
    pub value: f64,
    /// When it was taken, where the text says so.
    pub time: Option<Timestamp>,
}

/// Why a text is not of the format: the line, and what is wrong in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, from 1.
    pub line: usize,
    /// The byte of the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No name of a metric, which begins with a letter, `_` or `:`.
    Name,
    /// No name of a label, which begins with a letter or `_`.
    LabelName,
    /// A label of this name stood before.
    RepeatedLabel,
    /// No `="..."` after the name of a label.
    LabelValue,
    /// A quote that is not closed.
    OpenQuote,
    /// No `,` or `}` after a label.
    LabelEnd,
    /// No number after the name and labels.
    Value,
    /// A time that is no number.
    Time,
    /// More on the line than a sample has.
    Trailing,
}

/// Calls `each` with every sample of `text`, in order.
///
/// # Errors
/// At the first line that is no sample, which was called for all samples before it.
pub fn samples(text: &str, each: impl FnMut(Sample<'_>)) -> Result<(), Malformed> {
    Dialect::of(text).samples(text, each)
}

/// Which of the two formats a text is in: what must be known of the whole text before parts of it are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Format 0.0.4: times are milliseconds.
    Text,
    /// OpenMetrics 1.0: times are seconds.
    OpenMetrics,
}

impl Dialect {
    /// The dialect of a whole text.
    pub fn of(text: &str) -> Self {
        if text.trim_end().ends_with("# EOF") { Self::OpenMetrics } else { Self::Text }
    }

    /// Like [`samples`], of whole lines of a text in this dialect; lines are counted from the first of them.
    ///
    /// # Errors
    /// At the first line that is no sample.
    pub fn samples(self, text: &str, mut each: impl FnMut(Sample<'_>)) -> Result<(), Malformed> {
        let mut labels = Vec::new();
        for (index, line) in text.split('\n').enumerate() {
            let mut cursor = Cursor { line, at: 0 };
            cursor.skip_blanks();
            if matches!(cursor.peek(), None | Some(b'#')) {
                continue;
            }
            labels.clear();
            match cursor.sample(&mut labels, self == Self::OpenMetrics) {
                Ok((name, value, time)) => each(Sample { name, labels: &labels, value, time }),
                Err(problem) => return Err(Malformed { line: index + 1, column: cursor.at + 1, problem }),
            }
        }
        Ok(())
    }
}

impl Sample<'_> {
    /// Makes `event` say this sample: `{name, labels, value}`, at its time or, where it has none, at `otherwise`. The rest
    /// of the envelope stays.
    pub fn fill(&self, event: &mut Event, otherwise: Timestamp) {
        let mut labels = Map::with_capacity(self.labels.len());
        for (name, value) in self.labels {
            labels.push_new(Text::from(&**name), Value::from(&**value));
        }
        let body = event.body.reset_map();
        body.push_new("name".into(), Value::from(&*self.name));
        body.push_new("labels".into(), Value::Map(labels));
        body.push_new("value".into(), Value::Float(self.value));
        event.meta.time = self.time.unwrap_or(otherwise);
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong = match self.problem {
            Problem::Name => "a metric's name is wanted, which begins with a letter, `_` or `:`",
            Problem::LabelName => "a label's name is wanted, which begins with a letter or `_`",
            Problem::RepeatedLabel => "the label was given before",
            Problem::LabelValue => "a label's value is wanted: `=\"...\"`",
            Problem::OpenQuote => "the quote is not closed; inside quotes write `\\\"` and `\\\\`",
            Problem::LabelEnd => "`,` or `}` is wanted after a label",
            Problem::Value => "a number is wanted as the value: `1.5`, `NaN` or `+Inf`",
            Problem::Time => "a number is wanted as the time, or the end of the line",
            Problem::Trailing => "the end of the line is wanted",
        };
        write!(out, "not the Prometheus text format: line {}, column {}: {wrong}", self.line, self.column)
    }
}

impl std::error::Error for Malformed {}

type Labels<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A line, and how far it is read.
struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn sample(
        &mut self,
        labels: &mut Labels<'a>,
        open_metrics: bool,
    ) -> Result<(Cow<'a, str>, f64, Option<Timestamp>), Problem> {
        let mut name = None;
        if self.peek() != Some(b'{') {
            name = Some(Cow::Borrowed(self.name(|byte| is_name(byte) || byte == b':').ok_or(Problem::Name)?));
            self.skip_blanks();
        }
        if self.take(b'{') {
            self.labels(labels, &mut name)?;
            self.skip_blanks();
        }
        let name = name.ok_or(Problem::Name)?;
        let value = self.number().ok_or(Problem::Value)?;
        self.skip_blanks();
        let time = match self.peek() {
            None | Some(b'#') => None,
            _ => Some(self.time(open_metrics)?),
        };
        self.skip_blanks();
        match self.peek() {
            // An exemplar.
            None | Some(b'#') => Ok((name, value, time)),
            _ => Err(Problem::Trailing),
        }
    }

    /// Labels up to the closing brace. A text in quotes without a value, in the first place, is the metric's name.
    fn labels(&mut self, labels: &mut Labels<'a>, name: &mut Option<Cow<'a, str>>) -> Result<(), Problem> {
        loop {
            self.skip_blanks();
            if self.take(b'}') {
                return Ok(());
            }
            let start = self.at;
            let quoted = self.peek() == Some(b'"');
            let label = match quoted {
                true => self.quoted()?,
                false => Cow::Borrowed(self.name(is_name).ok_or(Problem::LabelName)?),
            };
            self.skip_blanks();
            if quoted && name.is_none() && matches!(self.peek(), Some(b',' | b'}')) {
                *name = Some(label);
            } else {
                if labels.iter().any(|(own, _)| *own == label) {
                    self.at = start;
                    return Err(Problem::RepeatedLabel);
                }
                if !self.take(b'=') {
                    return Err(Problem::LabelValue);
                }
                self.skip_blanks();
                if self.peek() != Some(b'"') {
                    return Err(Problem::LabelValue);
                }
                let value = self.quoted()?;
                labels.push((label, value));
                self.skip_blanks();
            }
            if !self.take(b',') && self.peek() != Some(b'}') {
                return Err(Problem::LabelEnd);
            }
        }
    }

    /// A text in quotes. `\\`, `\"` and `\n` are escapes; before anything else a backslash is one, as Prometheus has it.
    fn quoted(&mut self) -> Result<Cow<'a, str>, Problem> {
        let start = self.at + 1;
        let bytes = self.line.as_bytes();
        let mut end = start;
        let mut escaped = false;
        loop {
            match bytes.get(end) {
                None => return Err(Problem::OpenQuote),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += 2;
                }
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        let text = &self.line[start..end];
        Ok(if escaped { Cow::Owned(unescaped(text)) } else { Cow::Borrowed(text) })
    }

    fn number(&mut self) -> Option<f64> {
        let start = self.at;
        let value = self.word()?.parse().ok();
        if value.is_none() {
            self.at = start;
        }
        value
    }

    /// A time: milliseconds, or the seconds of OpenMetrics.
    fn time(&mut self, open_metrics: bool) -> Result<Timestamp, Problem> {
        let start = self.at;
        let word = self.word().ok_or(Problem::Time)?;
        let time = if open_metrics {
            word.parse().ok().filter(|seconds: &f64| seconds.is_finite()).map(Timestamp::from_seconds)
        } else {
            word.parse().ok().map(|millis: i64| Timestamp::from_nanos(millis.saturating_mul(1_000_000)))
        };
        time.ok_or_else(|| {
            self.at = start;
            Problem::Time
        })
    }

    /// A name of what `fits` says yes to, which does not begin with a digit.
    fn name(&mut self, fits: impl Fn(u8) -> bool) -> Option<&'a str> {
        if self.peek().is_some_and(|byte| byte.is_ascii_digit()) { None } else { self.run(fits) }
    }

    /// What comes before the next white space.
    fn word(&mut self) -> Option<&'a str> {
        self.run(|byte| !byte.is_ascii_whitespace())
    }

    /// The bytes from here on that `fits` says yes to, where there is one. They end where a character does: `fits` takes
    /// all bytes beyond ASCII or none.
    fn run(&mut self, fits: impl Fn(u8) -> bool) -> Option<&'a str> {
        let rest = &self.line[self.at..];
        let length = rest.bytes().take_while(|byte| fits(*byte)).count();
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        // Not `self.at += usize::from(found)`: where the caller branches on the result, rustc 1.95 optimises that away.
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(char @ ('\\' | '"')) => out.push(char),
                Some(char) => out.extend(['\\', char]),
                None => out.push('\\'),
            },
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        let result = samples(text, |sample| {
            let mut event = Event::default();
            sample.fill(&mut event, Timestamp::from_seconds(7.0));
            lines.push(format!("{} @{}", event.body, event.meta.time.as_seconds()));
        });
        result.map(|()| lines).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_of_the_format_is_read() {
        let text = r#"
# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9

# Minimalistic line:
metric_without_timestamp_and_labels 12.47

# A weird metric from before the epoch:
something_weird{problem="division by zero"} +Inf -3982045

# A summary, which has a complex representation, too:
rpc_duration_seconds{quantile="0.01",} NaN
	rpc_duration_seconds_sum	1.7560473e+07
rpc:empty{ } -Inf
"#;
        let lines = read(text).unwrap();
        assert_eq!(lines.len(), 8);
        assert_eq!(
            lines[0],
            r#"{"name":"http_requests_total","labels":{"method":"post","code":"200"},"value":1027.0} @1395066363"#
        );
        assert_eq!(
            lines[2],
            r#"{"name":"msdos_file_access_time_seconds","labels":{"path":"C:\\DIR\\FILE.TXT","error":"Cannot find file:\n\"FILE.TXT\""},"value":1458255915.0} @7"#
        );
        assert_eq!(
            lines[3],
            r#"{"name":"metric_without_timestamp_and_labels","labels":{},"value":12.47} @7"#
        );
        assert!(lines[4].ends_with(r#""value":null} @-3982.045"#));
        assert_eq!(lines[6], r#"{"name":"rpc_duration_seconds_sum","labels":{},"value":17560473.0} @7"#);
    }

    #[test]
    fn in_openmetrics_times_are_seconds_and_exemplars_are_read_over() {
        let text = "foo_bucket{le=\"0.1\"} 8 1520879607.5 # {trace_id=\"a b\"} 0.067 1.6e9\nfoo_total 17 1520879607\nx 1 # {} 1\n# EOF\n";
        let lines = read(text).unwrap();
        assert!(lines[0].ends_with(r#""value":8.0} @1520879607.5"#), "{}", lines[0]);
        assert!(lines[1].ends_with("@1520879607"), "{}", lines[1]);
        assert!(lines[2].ends_with("@7"), "{}", lines[2]);
    }

    #[test]
    fn names_in_quotes_are_names() {
        let lines = read("{\"my.metric\",\"a.b\"=\"c\"} 1\n{\"x\\\"y\"} 2\r\n").unwrap();
        assert_eq!(lines[0], r#"{"name":"my.metric","labels":{"a.b":"c"},"value":1.0} @7"#);
        assert_eq!(lines[1], r#"{"name":"x\"y","labels":{},"value":2.0} @7"#);
        assert_eq!(read("a{b=\"\\d\"} 1").unwrap()[0], r#"{"name":"a","labels":{"b":"\\d"},"value":1.0} @7"#);
    }

    #[test]
    fn a_mistake_is_named_with_its_line_and_column() {
        use Problem::*;
        for (text, column, problem) in [
            ("1a 1", 1, Name),
            ("{} 1", 4, Name),
            ("a{1=\"x\"} 1", 3, LabelName),
            ("a{b=\"x\",b=\"y\"} 1", 9, RepeatedLabel),
            ("a{b} 1", 4, LabelValue),
            ("a{b=1} 1", 5, LabelValue),
            ("a{b=\"x} 1", 5, OpenQuote),
            ("a{b=\"x\\", 5, OpenQuote),
            ("a{b=\"x\" c=\"y\"} 1", 9, LabelEnd),
            ("a{b=\"x\"", 8, LabelEnd),
            ("a", 2, Value),
            ("a x", 3, Value),
            ("a 1 x", 5, Time),
            ("a 1 1.5", 5, Time),
            ("a 1 2 3", 7, Trailing),
        ] {
            let found = samples(&format!("ok 1\n\n{text}\n"), |_| ()).unwrap_err();
            assert_eq!(found, Malformed { line: 3, column, problem }, "{text}");
            assert!(found.to_string().starts_with("not the Prometheus text format: line 3, column "));
        }
        assert_eq!(samples("a 1 inf\n# EOF", |_| ()).unwrap_err().problem, Time);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,120}") {
            let _ = samples(&text, |_| ());
        }

        #[test]
        fn anything_that_looks_like_samples_is_read_or_refused_without_a_panic(
            text in "([a{}\"\\\\=,é # 1.\n-]|EOF|NaN){0,40}"
        ) {
            let _ = samples(&text, |_| ());
        }

        #[test]
        fn what_is_written_is_read(
            labels in prop::collection::btree_map("[a-z_][a-z0-9_]{0,6}", ".{0,10}", 0..5),
            value in any::<f64>(),
            millis in prop::option::of(any::<i32>()),
        ) {
            let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let written: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
            let time = millis.map_or(String::new(), |millis| format!(" {millis}"));
            let mut found = 0;
            samples(&format!("metric{{{}}} {value}{time}", written.join(",")), |sample| {
                found += 1;
                assert_eq!(sample.name, "metric");
                let read: Vec<_> = sample.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
                assert_eq!(read, labels.clone().into_iter().collect::<Vec<_>>());
                assert!(sample.value == value || value.is_nan());
                assert_eq!(sample.time.map(Timestamp::as_nanos), millis.map(|millis| i64::from(millis) * 1_000_000));
            }).unwrap();
            prop_assert_eq!(found, 1);
        }
    }
}
