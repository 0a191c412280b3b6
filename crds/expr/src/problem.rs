//! What is wrong with an expression, worded for the person who wrote it.

use std::fmt;

/// One thing wrong with an expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// What is wrong: a lower-case clause.
    pub message: String,
    /// Where: bytes from the start of the source, on a character boundary, at most its length.
    pub at: Option<usize>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), at: None, help: None }
    }

    pub(crate) fn at(self, at: Option<usize>) -> Self {
        Self { at, ..self }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Line and column, both from 1 and columns in characters, in the `source` this problem was found in.
    pub fn line_and_column(&self, source: &str) -> Option<(usize, usize)> {
        let before = source.get(..self.at?)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }
}

/// On one line: the message, and the help after a semicolon.
impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(out, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The name among `known` that `written` was probably meant to be: at most a third of it differs.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written_chars: Vec<char> = written.chars().collect();
    known
        .into_iter()
        .filter(|name| *name != written)
        .map(|name| (edits(&written_chars, &name.chars().collect::<Vec<_>>()), name))
        .min()
        .filter(|(edits, name)| {
            *edits <= (written_chars.len().max(name.len()) / 3).max(1) && *edits < written_chars.len()
        })
        .map(|(_, name)| name)
}

/// How many characters to insert, delete, replace or swap with their neighbour to get from one to the other, letters
/// compared without case (Damerau-Levenshtein, optimal string alignment).
fn edits(a: &[char], b: &[char]) -> usize {
    let same = |x: char, y: char| x.eq_ignore_ascii_case(&y);
    let mut two_back = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(!same(a[i - 1], b[j - 1]));
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]) {
                row[j] = row[j].min(two_back[j - 2] + 1);
            }
        }
        two_back = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name_that_was_meant() {
        let known = ["status", "path", "value", "startsWith"];
        assert_eq!(nearest("statsu", known), Some("status"));
        assert_eq!(nearest("Path", known), Some("path"));
        assert_eq!(nearest("startswith", known), Some("startsWith"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("x", known), None);
    }

    #[test]
    fn a_problem_says_its_line_and_its_column_in_characters() {
        let problem = Problem::new("x").at(Some("a &&\n'é' + ".len()));
        assert_eq!(problem.line_and_column("a &&\n'é' + b"), Some((2, 7)));
    }
}
