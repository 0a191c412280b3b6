//! Bytes -> documents. The only file that knows YAML.
//!
//! ```text
//! bytes -> size, UTF-8 -> chunks between `---` -> one bounded tree each -> Document
//! ```
//!
//! Every document is read on its own, so that a slip in one leaves the others their diagnostics. What a document may
//! cost is bounded before anything is built from it: size, depth, and how far aliases expand. Values carry no places;
//! [`locate`] finds that of a mistake.

mod locate;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{
    diagnostic::{Code, Diagnostic, Place},
    path::{Path, Step, quoted, shortened},
};

pub(crate) use locate::locate;

/// Bytes of a file. An object in Kubernetes has at most 1.5 MiB.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;
/// Documents of a file.
const DOCUMENTS_MAX: usize = 256;
/// Maps and lists in one another. A pipeline needs 10.
const DEPTH_MAX: usize = 32;
/// What a document may cost when its aliases are expanded: its text in bytes, and [`NODE_COST`] for each value. A file of
/// 1 MiB without aliases can't reach it.
const EXPANDED_MAX: usize = 16 << 20;
const NODE_COST: usize = 16;
/// Brackets that are open at once: room for texts that have some of their own.
const BRACKETS_OPEN_MAX: usize = 8 * DEPTH_MAX;
/// Steps of a path that is too deep.
const PATH_SHOWN_MAX: usize = 8;
/// Characters of a line that a place shows.
const LINE_SHOWN_MAX: usize = 160;

const _: () = assert!(FILE_BYTES_MAX * (1 + NODE_COST / 2) <= EXPANDED_MAX);

/// One YAML document of a file, not yet looked at.
pub(crate) struct Document<'a> {
    pub(crate) value: Value,
    /// What could not be taken over, so that nothing more need be said of it.
    pub(crate) refused: Vec<Path>,
    pub(crate) chunk: Chunk<'a>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// The text of one document, and where in the file it begins.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    text: &'a str,
    lines_before: usize,
}

/// Reads a file: its documents, or why there are none.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<Document<'_>>, Box<Diagnostic>> {
    if bytes.len() > FILE_BYTES_MAX {
        let reason = format!("the file has {} bytes, and 1 MiB is the most that is read", bytes.len());
        return Err(refusal(Code::FileTooLarge, reason, "split it; a pipeline has a few kilobytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        let reason = format!("byte {} of the file, in line {line}, is not UTF-8", error.valid_up_to() + 1);
        refusal(Code::NotText, reason, "give a YAML file, saved as UTF-8")
    })?;
    let chunks = chunks(text);
    if chunks.len() > DOCUMENTS_MAX {
        let reason = format!(
            "the file has {} documents, and {DOCUMENTS_MAX} are the most that are read",
            chunks.len()
        );
        return Err(refusal(Code::FileTooLarge, reason, "split it"));
    }
    if chunks.is_empty() {
        let cure = "write a resource: `kind: Pipeline`, `metadata` with a `name`, and `spec` with `stages`";
        return Err(refusal(Code::EmptyFile, "there is no document in the file", cure));
    }
    Ok(chunks.into_iter().map(parse).collect())
}

/// The documents of a file of any resources, within the bounds of a file of pipelines; `file` is what diagnostics call it.
///
/// # Errors
/// Everything that is no YAML in it.
pub fn documents(text: &[u8], file: &str) -> Result<Vec<Value>, Vec<Diagnostic>> {
    let named = |mut diagnostic: Diagnostic| {
        diagnostic.file = Some(file.into());
        diagnostic
    };
    let documents = read(text).map_err(|refusal| vec![named(*refusal)])?;
    let (mut values, mut found) = (Vec::new(), Vec::new());
    for document in documents {
        found.extend(document.diagnostics.into_iter().map(named));
        values.push(document.value);
    }
    if found.is_empty() { Ok(values) } else { Err(found) }
}

/// A tree as YAML text.
pub fn to_yaml(value: &Value) -> String {
    serde_yaml::to_string(value).expect("a JSON value has a YAML form")
}

impl Chunk<'_> {
    /// Bytes it costs to look for a place in it.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// The place of a line and column of this document, both from 1.
    fn place(&self, line: usize, column: usize) -> Option<Place> {
        let (index, text) = self.text.lines().enumerate().take(line).last()?;
        // What is missing at the end is missing after the last line.
        let (line, column) =
            if index + 1 < line { (index + 1, text.chars().count() + 1) } else { (line, column) };
        let text = text.chars().take(LINE_SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(Place { line: self.lines_before + line, column, text })
    }
}

fn refusal(code: Code, reason: impl Into<String>, cure: &str) -> Box<Diagnostic> {
    Box::new(file_problem(code, reason, cure))
}

fn file_problem(code: Code, reason: impl Into<String>, cure: &str) -> Diagnostic {
    Diagnostic::new(code, Path::top(), reason, cure)
}

/// The documents of a file. A line that begins with `---` or `...` ends a document wherever it stands (YAML 1.2.2,
/// section 9.1.2), so no parser is needed to tell them apart.
fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut lines_before, mut at, mut lines) = (0, 0, 0, 0);
    for line in text.split_inclusive('\n') {
        let ends = is_marker(line, "...");
        if is_marker(line, "---") || ends {
            chunks.push(Chunk { text: &text[start..at], lines_before });
            (start, lines_before) = if ends { (at + line.len(), lines + 1) } else { (at, lines) };
        }
        at += line.len();
        lines += 1;
    }
    chunks.push(Chunk { text: &text[start..], lines_before });
    chunks.retain(|chunk| !chunk.text.lines().all(says_nothing));
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Comments, directives and the marker itself.
fn says_nothing(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    line.is_empty() || line.starts_with('#') || line.starts_with('%')
}

fn parse(chunk: Chunk<'_>) -> Document<'_> {
    let mut reader = Reader::default();
    if let Some(line) = too_many_brackets(chunk.text) {
        reader.refuse(Code::TooDeep, TOO_DEEP, TOO_DEEP_CURE);
        for diagnostic in &mut reader.diagnostics {
            diagnostic.place = chunk.place(line, 1);
        }
        return Document {
            value: Value::Null,
            refused: reader.refused,
            chunk,
            diagnostics: reader.diagnostics,
        };
    }
    let (value, sound) = match reader.deserialize_from(chunk.text) {
        Ok(value) => (value, true),
        Err(error) => {
            let diagnostic = reader.refusal(&error);
            reader.diagnostics.push(Diagnostic {
                place: error.location().and_then(|at| chunk.place(at.line(), at.column())),
                ..diagnostic
            });
            (Value::Null, false)
        }
    };
    if !sound {
        reader.refused.push(Path::top());
    }
    Document { value, refused: reader.refused, chunk, diagnostics: reader.diagnostics }
}

/// The line in which more brackets are open than any document needs. The parser's time grows with the square of them, so
/// this comes first. Brackets in texts count too, which is only a matter for texts with hundreds that never close.
fn too_many_brackets(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (index, line) in text.lines().enumerate() {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > BRACKETS_OPEN_MAX {
                return Some(index + 1);
            }
        }
    }
    None
}

/// Builds the tree of one document.
#[derive(Default)]
struct Reader {
    path: Path,
    cost: usize,
    refused: Vec<Path>,
    diagnostics: Vec<Diagnostic>,
}

impl Reader {
    fn deserialize_from(&mut self, text: &str) -> Result<Value, serde_yaml::Error> {
        (&mut *self).deserialize(serde_yaml::Deserializer::from_str(text))
    }

    fn refuse(&mut self, code: Code, reason: impl Into<String>, cure: &str) {
        self.refused.push(self.path.clone());
        self.diagnostics.push(Diagnostic::new(code, self.path.clone(), reason, cure));
    }

    fn refusal(&self, error: &serde_yaml::Error) -> Diagnostic {
        let text = error.to_string();
        if self.cost > EXPANDED_MAX || text.starts_with("repetition limit") {
            let reason = "aliases repeat so much that the document would take more than 16 MiB";
            return file_problem(Code::AliasBomb, reason, "write out what the aliases stand for");
        }
        if text.starts_with("recursion limit") {
            return file_problem(Code::TooDeep, TOO_DEEP, TOO_DEEP_CURE);
        }
        // The place is shown with the line; the library repeats it in its text.
        let reason = text.split(" at line ").next().unwrap_or_default();
        let cure = "mend the YAML there; most often it is the indentation, a tab, or a `: ` in a text without quotes";
        file_problem(Code::YamlSyntax, shortened(reason), cure)
    }

    fn spend<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.cost = self.cost.saturating_add(bytes + NODE_COST);
        if self.cost > EXPANDED_MAX { Err(E::custom("the document expands too far")) } else { Ok(()) }
    }

    fn is_too_deep(&mut self) -> bool {
        let too_deep = self.path.steps().len() >= DEPTH_MAX;
        if too_deep && !self.diagnostics.iter().any(|other| other.code == Code::TooDeep) {
            let path = Path::from(&self.path.steps()[..PATH_SHOWN_MAX]);
            self.refused.push(self.path.clone());
            self.diagnostics.push(Diagnostic::new(Code::TooDeep, path, TOO_DEEP, TOO_DEEP_CURE));
        }
        too_deep
    }
}

const TOO_DEEP: &str = "maps and lists are nested deeper than 32 levels";
const TOO_DEEP_CURE: &str = "take levels out; no field needs more than 10";

impl<'de> DeserializeSeed<'de> for &mut Reader {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value without a tag")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.spend(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.spend(0)?;
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => {
                self.refuse(
                    Code::NotFinite,
                    format!("`{value}` is no number to count with"),
                    "write a finite number",
                );
                Ok(Value::Null)
            }
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(Value::String(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        if self.is_too_deep() {
            while input.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let mut list = Vec::new();
        loop {
            self.path.push(Step::Element(list.len()));
            let next = input.next_element_seed(&mut *self);
            self.path.pop();
            match next? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        if self.is_too_deep() {
            while input.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let mut map = Map::new();
        while let Some(key) = input.next_key_seed(KeyReader { fail_at: None })? {
            self.spend(key.len())?;
            self.path.push(Step::Field(key.clone()));
            let value = input.next_value_seed(&mut *self);
            if map.contains_key(&key) {
                let reason = format!("{} is there twice", quoted(&key));
                self.diagnostics.push(Diagnostic::new(
                    Code::DuplicateKey,
                    self.path.clone(),
                    reason,
                    "keep one of them",
                ));
            }
            self.path.pop();
            map.entry(key).or_insert(value?);
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("a tag such as `!this` has no meaning here"))
    }
}

/// Keys are text; a number or `true` as a key is taken as it is written, as Kubernetes does.
struct KeyReader<'a> {
    /// The key at which to fail, so that the error has its place.
    fail_at: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for KeyReader<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<String, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeyReader<'_> {
    type Value = String;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text as key")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<String, E> {
        match self.fail_at {
            Some(name) if name == value => Err(E::custom("here")),
            _ => Ok(value.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<Value> {
        read(text.as_bytes()).unwrap_or_default().into_iter().map(|document| document.value).collect()
    }

    #[test]
    fn documents_are_told_apart_by_their_markers_and_empty_ones_are_none() {
        assert_eq!(values("a: 1\n---\nb: 2\n...\nc: 3"), [1, 2, 3].map(|n| json(["a", "b", "c"][n - 1], n)));
        assert_eq!(values("%YAML 1.2\n---\n# nothing\n--- {a: 1}\r\n---\r\n"), [json("a", 1)]);
        assert_eq!(values("\u{feff}a: 1\n"), [json("a", 1)]);
        assert_eq!(values("a: '---'\n"), [serde_json::json!({"a": "---"})]);
    }

    #[test]
    fn a_place_counts_the_lines_of_the_whole_file() {
        let documents = read(b"a: 1\n---\nb: {c: [1, 2]}\n").unwrap();
        let path = Path::top().fields(&["b", "c"]).element(1);
        let place = locate(documents[1].chunk, &path, false).unwrap();
        assert_eq!((place.line, place.column, place.text.as_str()), (3, 12, "b: {c: [1, 2]}"));
        let name = locate(documents[1].chunk, &Path::top().fields(&["b", "c"]), true).unwrap();
        assert_eq!((name.line, name.column), (3, 5));
        let missing = locate(documents[1].chunk, &Path::top().fields(&["b", "x", "y"]), false).unwrap();
        assert_eq!((missing.line, missing.column), (3, 4));
    }

    #[test]
    fn numbers_and_words_are_keys_as_they_are_written() {
        assert_eq!(values("{1: a, true: b}"), [serde_json::json!({"1": "a", "true": "b"})]);
    }

    #[test]
    fn an_alias_stands_for_what_it_names() {
        assert_eq!(values("{a: &x 1, b: *x}"), [serde_json::json!({"a": 1, "b": 1})]);
    }

    fn json(key: &str, value: usize) -> Value {
        serde_json::json!({ key: value })
    }
}
