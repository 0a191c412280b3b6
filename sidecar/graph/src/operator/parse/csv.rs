//! Values between separators (RFC 4180): one record a text, its values by column. What JSON calls a number becomes one,
//! also in quotes, which CSV writes around anything; everything else stays text.

use std::fmt;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use sidestream_event::{Text, Value};
use sidestream_plan::stage;

use super::{Format, Malformed};
use crate::operator::{BuildError, number::number_or_text};

pub(super) struct Csv {
    columns: Vec<Text>,
    reader: Reader,
    /// The values of the record at hand one after the other, and where each ends; kept for their storage.
    values: Vec<u8>,
    ends: Vec<usize>,
}

/// What is wrong with a text.
enum Wrong {
    Count { values: usize, columns: usize },
    Records,
}

impl Csv {
    pub(super) fn new(config: &stage::ParseCsv) -> Result<Self, BuildError> {
        let separator = separator(config.separator.as_deref())?;
        let columns: Vec<Text> = config.columns.iter().map(Text::from).collect();
        if let Some(repeated) =
            columns.iter().enumerate().find(|(index, name)| columns[..*index].contains(name))
        {
            return Err(BuildError::setting(
                "columns",
                format!("names `{}` twice; every column needs its own name", repeated.1),
            ));
        }
        // One more than the columns, so that a record too long is seen.
        let ends = vec![0; columns.len() + 1];
        Ok(Self {
            reader: ReaderBuilder::new().delimiter(separator).build(),
            columns,
            values: Vec::new(),
            ends,
        })
    }

    /// Reads the one record of `text` into `values` and `ends`.
    fn read(&mut self, text: &[u8]) -> Result<(), Wrong> {
        self.reader.reset();
        // Values are never longer than the text they stand in; the reader wants room to be left.
        self.values.resize(text.len() + 1, 0);
        let columns = self.columns.len();
        let (mut rest, mut written, mut count) = (text, 0, 0);
        loop {
            let (result, read, wrote, ended) =
                self.reader.read_record(rest, &mut self.values[written..], &mut self.ends[count..]);
            (rest, written, count) = (&rest[read..], written + wrote, count + ended);
            match result {
                // The input is all there is; an empty one says so.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record | ReadRecordResult::End => break,
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    return Err(Wrong::Count { values: count, columns });
                }
            }
        }
        if rest.iter().any(|byte| !byte.is_ascii_whitespace()) {
            return Err(Wrong::Records);
        }
        if count != columns {
            return Err(Wrong::Count { values: count, columns });
        }
        Ok(())
    }
}

impl Format for Csv {
    fn parse(&mut self, text: &str, body: &mut Value) -> Result<(), Malformed> {
        self.read(text.as_bytes()).map_err(|wrong| {
            let cure = match wrong {
                Wrong::Count { .. } => "quote values that hold the separator: `\"a,b\"`",
                Wrong::Records => "give it one line an event",
            };
            Malformed::new(wrong, text, cure)
        })?;
        let fields = body.reset_map();
        let mut start = 0;
        for (name, end) in self.columns.iter().zip(&self.ends) {
            // Taking quotes away keeps UTF-8 what it is: nothing is lost.
            let value = String::from_utf8_lossy(&self.values[start..*end]);
            fields.push_new(name.clone(), number_or_text(&value));
            start = *end;
        }
        if self.values.capacity() > VALUES_KEPT_BYTES {
            self.values = Vec::new();
        }
        Ok(())
    }
}

/// The separator as the byte it must be; a comma where none is given.
pub(in crate::operator) fn separator(given: Option<&str>) -> Result<u8, BuildError> {
    match given.map_or(&b","[..], str::as_bytes) {
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err(BuildError::setting(
            "separator",
            "must be one ASCII character, and no quote or line break: `;`",
        )),
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Count { values, columns } if values > columns => {
                write!(out, "not CSV of {columns} columns: there are more values")
            }
            Wrong::Count { values, columns } => {
                write!(out, "not CSV of {columns} columns: there are {values} values")
            }
            Wrong::Records => out.write_str("not CSV of one record: there are more lines"),
        }
    }
}

/// Storage kept from one text to the next.
const VALUES_KEPT_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::operator::{
        parse::parsed,
        testing::{Stage, event},
    };

    fn csv(columns: &[&str]) -> Csv {
        let columns = columns.iter().map(ToString::to_string).collect();
        Csv::new(&stage::ParseCsv { field: None, columns, separator: None }).ok().unwrap()
    }

    fn read(line: &str) -> String {
        match parsed(&mut csv(&["a", "b", "c"]), line) {
            Ok(value) => value.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn values_become_the_fields_of_their_columns() {
        assert_eq!(read("x,2,3.5"), r#"{"a":"x","b":2,"c":3.5}"#);
        assert_eq!(read("\"a,\"\"b\"\"\",\"2\",\r\n"), r#"{"a":"a,\"b\"","b":2,"c":""}"#);
        assert_eq!(read("é,\"line\nbreak\",007"), r#"{"a":"é","b":"line\nbreak","c":"007"}"#);
    }

    #[test]
    fn a_record_of_another_length_is_an_error() {
        assert!(
            read("1,2")
                .starts_with("error: not CSV of 3 columns: there are 2 values, in `1,2`; quote values")
        );
        assert!(read("1,2,3,4").starts_with("error: not CSV of 3 columns: there are more values, in "));
        assert!(read("1,2,3,4,5,6,7").starts_with("error: not CSV of 3 columns: there are more values, in "));
        assert!(read("").starts_with("error: not CSV of 3 columns: there are 0 values"));
        assert!(read("1,2,3\n4,5,6").starts_with("error: not CSV of one record: there are more lines"));
    }

    #[test]
    fn a_reader_is_as_good_as_new_after_a_mistake() {
        let mut csv = csv(&["a"]);
        assert!(parsed(&mut csv, "\"never closed, 1").is_ok(), "what follows an open quote is its value");
        assert!(parsed(&mut csv, "1,2,3").is_err());
        assert_eq!(parsed(&mut csv, "7").unwrap().to_string(), r#"{"a":7}"#);
        assert!(parsed(&mut csv, &"x".repeat(200_000)).is_ok());
        assert_eq!(parsed(&mut csv, "8").unwrap().to_string(), r#"{"a":8}"#);
    }

    #[test]
    fn another_separator_and_a_bad_one() {
        let mut stage = Stage::of(r#"{"parse": {"csv": {"columns": ["a", "b"], "separator": ";"}}}"#);
        stage.push([event("\"1;x,y\"")]);
        assert_eq!(stage.bodies(), [r#"{"a":1,"b":"x,y"}"#]);
        for separator in ["é", "\\\"", "\\n", "", ";;"] {
            let config =
                format!(r#"{{"parse": {{"csv": {{"columns": ["a"], "separator": "{separator}"}}}}}}"#);
            assert!(Stage::refused(&config).to_string().contains("one ASCII character"));
        }
        let twice = Stage::refused(r#"{"parse": {"csv": {"columns": ["a", "a"]}}}"#).to_string();
        assert!(twice.contains("names `a` twice"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "(?s).{0,200}") {
            let _ = parsed(&mut csv(&["a", "b"]), &text);
        }

        #[test]
        fn anything_that_looks_like_csv_is_read_or_refused_without_a_panic(line in "[a,\"\r\n;é]{0,40}") {
            let _ = parsed(&mut csv(&["a", "b"]), &line);
        }
    }
}
