//! The standard output: one event a line, for people or for programs.
//!
//! ```text
//!   12:04:05.123 tick  sequence=3 key=k0 value=42.1
//!   time (UTC)   source, as wide as the widest so far
//!   12:04:05.124 logs  not JSON at all  -- fields: not JSON: expected ident at line 1 column 2
//!                                          of a dead letter, the stage that failed and why
//! ```
//!
//! A batch is one write. A closed pipe is the end of the sink; it must never panic, as `println!` does.

use std::io::{self, IsTerminal, Write};

use sidestream_event::{Batch, Event, Value, json};
use sidestream_plan::stage::{self, ConsoleFormat};

use crate::{
    BlockingSink, Undelivered,
    letter::{self, Letter},
};

pub(crate) struct Console<W> {
    output: W,
    look: Look,
    text: Vec<u8>,
    /// The last write failed, maybe in the middle of a line.
    torn: bool,
}

impl Console<io::Stdout> {
    pub(crate) fn new(stage: &stage::Console) -> Self {
        let output = io::stdout();
        let dim = output.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Console::of(output, stage, dim)
    }
}

impl<W: Write + Send> Console<W> {
    fn of(output: W, stage: &stage::Console, dim: bool) -> Self {
        let look = match stage.format.unwrap_or_default() {
            ConsoleFormat::Human => Look::Human { dim, source_width: 0 },
            ConsoleFormat::JSON => Look::Json,
        };
        Self { output, look, text: Vec::new(), torn: false }
    }
}

impl<W: Write + Send> BlockingSink for Console<W> {
    fn deliver(&mut self, batch: &Batch) -> Result<(), Undelivered> {
        self.text.clear();
        if self.torn {
            self.text.push(b'\n');
        }
        for event in batch.events() {
            self.look.write(event, &mut self.text);
        }
        let written = self.output.write_all(&self.text).and_then(|()| self.output.flush());
        self.torn = written.is_err();
        if self.text.capacity() > KEPT_BYTES {
            self.text = Vec::new();
        }
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Undelivered::Closed { reason: "whoever read the standard output has gone".into() })
            }
            Err(error) => Err(Undelivered::retry(format!("cannot write to the standard output: {error}"))),
        }
    }
}

enum Look {
    Human { dim: bool, source_width: usize },
    Json,
}

impl Look {
    fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        match self {
            Look::Human { dim, source_width } => {
                let source = event.meta.source.as_str();
                *source_width = (*source_width).max(source.chars().count());
                if *dim {
                    out.extend_from_slice(DIM);
                }
                write_time_of_day(event.meta.time.as_nanos(), out);
                // Writing to memory does not fail.
                let _ = write!(out, " {source:source_width$}");
                if *dim {
                    out.extend_from_slice(PLAIN);
                }
                out.extend_from_slice(b"  ");
                write_body(&event.body, out);
                if let Some(Letter { stage, error }) = Letter::of(event) {
                    let _ = write!(out, "  -- {stage}: {error}");
                }
            }
            Look::Json if matches!(event.body, Value::Map(_)) || Letter::of(event).is_some() => {
                letter::write_json(event, out);
            }
            Look::Json => {
                out.extend_from_slice(b"{\"body\":");
                json::write(&event.body, out);
                out.push(b'}');
            }
        }
        out.push(b'\n');
    }
}

fn write_body(body: &Value, out: &mut Vec<u8>) {
    match body {
        Value::Map(map) => {
            for (index, (name, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b' ');
                }
                out.extend_from_slice(name.as_bytes());
                out.push(b'=');
                write_field(value, out);
            }
        }
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Bytes(bytes) => out.extend_from_slice(String::from_utf8_lossy(bytes).as_bytes()),
        other => json::write(other, out),
    }
}

/// A field as a person would write it: quoted only where it could be read in two ways.
fn write_field(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) if is_plain(text) => out.extend_from_slice(text.as_bytes()),
        Value::Float(number) if !number.is_finite() => {
            let _ = write!(out, "{number}");
        }
        other => json::write(other, out),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '='))
}

fn write_time_of_day(nanos: i64, out: &mut Vec<u8>) {
    let millis = nanos.div_euclid(1_000_000).rem_euclid(86_400_000);
    let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}.{:03}", millis % 1000);
}

const DIM: &[u8] = b"\x1b[2m";
const PLAIN: &[u8] = b"\x1b[0m";
/// A batch of more text than this gives its storage back.
const KEPT_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use sidestream_event::{Bytes, Map, Mark, Timestamp};

    use super::*;

    fn event(source: &str, body: impl Into<Value>) -> Event {
        let mut event = Event::new(body);
        event.meta.source = source.into();
        event.meta.time = Timestamp::from_nanos(43_445_123_456_789);
        event
    }

    fn shown(stage: stage::Console, dim: bool, events: Vec<Event>) -> String {
        let mut console = Console::of(Vec::new(), &stage, dim);
        console.deliver(&Batch::of(events, Mark::none())).unwrap();
        String::from_utf8(console.output).unwrap()
    }

    fn tick() -> Value {
        let mut body = Map::new();
        body.insert("sequence", 3);
        body.insert("key", "k0");
        body.insert("value", 42.1);
        body.into()
    }

    #[test]
    fn people_see_time_source_and_fields() {
        assert_eq!(
            shown(stage::Console::default(), false, vec![event("tick", tick())]),
            "12:04:05.123 tick  sequence=3 key=k0 value=42.1\n"
        );
    }

    #[test]
    fn sources_are_aligned_and_text_stands_as_it_is() {
        let events =
            vec![event("longer", "a b \"c\""), event("in", Bytes::from_static(b"\xffz")), event("in", 7)];
        assert_eq!(
            shown(stage::Console::default(), false, events),
            "12:04:05.123 longer  a b \"c\"\n12:04:05.123 in      \u{fffd}z\n12:04:05.123 in      7\n"
        );
    }

    #[test]
    fn a_field_is_quoted_where_it_could_be_misread() {
        let fields = [("plain", "/cart"), ("spaced", "a b"), ("empty", ""), ("sign", "a=b")];
        let mut body: Map = fields.into_iter().collect();
        body.insert("labels", Map::from_iter([("route", "/")]));
        body.insert("nan", f64::NAN);
        assert_eq!(
            shown(stage::Console::default(), false, vec![event("s", body)]),
            "12:04:05.123 s  plain=/cart spaced=\"a b\" empty=\"\" sign=\"a=b\" labels={\"route\":\"/\"} nan=NaN\n"
        );
    }

    #[test]
    fn programs_see_one_json_object_a_line() {
        let json = stage::Console { format: Some(ConsoleFormat::JSON) };
        assert_eq!(
            shown(json, true, vec![event("tick", tick()), event("in", "a\nb")]),
            "{\"sequence\":3,\"key\":\"k0\",\"value\":42.1}\n{\"body\":\"a\\nb\"}\n"
        );
    }

    #[test]
    fn a_dead_letter_shows_which_stage_failed_and_why() {
        let letter = || {
            let mut letter = crate::letter::tests::letter("x y");
            letter.meta =
                sidestream_event::Meta { context: letter.meta.context.take(), ..event("s", 0).meta };
            letter
        };
        assert_eq!(
            shown(stage::Console::default(), false, vec![letter()]),
            "12:04:05.123 s  x y  -- fields: not \"JSON\"\n"
        );
        let json = stage::Console { format: Some(ConsoleFormat::JSON) };
        assert_eq!(
            shown(json, false, vec![letter()]),
            "{\"stage\":\"fields\",\"error\":\"not \\\"JSON\\\"\",\"body\":\"x y\"}\n"
        );
    }

    #[test]
    fn only_a_terminal_gets_colour() {
        let look = |dim| shown(stage::Console::default(), dim, vec![event("s", "x")]);
        assert!(!look(false).contains('\x1b'));
        assert_eq!(look(true), "\x1b[2m12:04:05.123 s\x1b[0m  x\n");
    }

    #[test]
    fn a_closed_pipe_is_the_end_of_it_and_it_says_so() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut console = Console::of(writer, &stage::Console::default(), false);
        let batch = Batch::of(vec![event("s", 1), event("s", 2)], Mark::none());
        let Err(Undelivered::Closed { reason }) = console.deliver(&batch) else { panic!("delivered") };
        assert_eq!(reason, "whoever read the standard output has gone");
    }

    #[test]
    fn after_a_failed_write_the_next_begins_a_line_of_its_own() {
        struct Once(Vec<u8>, bool);
        impl Write for Once {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if !std::mem::replace(&mut self.1, true) {
                    self.0.extend_from_slice(&bytes[..5]);
                    return Ok(5);
                }
                if self.0.len() == 5 && bytes[0] != b'\n' {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut console = Console::of(Once(Vec::new(), false), &stage::Console::default(), false);
        let batch = Batch::of(vec![event("s", "x")], Mark::none());
        assert!(matches!(console.deliver(&batch), Err(Undelivered::Retry { .. })));
        console.deliver(&batch).unwrap();
        assert_eq!(String::from_utf8_lossy(&console.output.0), "12:04\n12:04:05.123 s  x\n");
    }
}
