//! What is wrong with what a user wrote, where, why, and what to write instead.
//!
//! Every code is a line of the table in [`Code`]: its text never changes, since people search for it. Each has a case in
//! `cases/`, a file and what is said about it; `tests/cases.rs` fails for a code without one.

use std::fmt;

use serde::Serialize;

use crate::path::Path;

/// One thing wrong with a resource, or worth knowing of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// Which kind of mistake.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// The file, as it was named to the compiler; none for a pipeline built in code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Where in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// `namespace/name` of the resource, where that much could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The field.
    pub path: Path,
    /// What is wrong: a lower-case clause.
    pub reason: String,
    /// What to do about it: a lower-case clause.
    pub cure: String,
    /// An expression and the byte of it that is meant, to show the place inside the text of the field.
    #[serde(skip)]
    pub(crate) inside: Option<(String, usize)>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// The line itself, or as much of it as is worth showing.
    pub text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// It runs, but hardly as it was meant.
    Warning,
    /// It runs, and this is good to know.
    Note,
}

impl Diagnostic {
    pub(crate) fn new(code: Code, path: Path, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        let (reason, cure) = (one_line(reason.into()), one_line(cure.into()));
        Self {
            code,
            severity: code.severity(),
            file: None,
            place: None,
            resource: None,
            path,
            reason,
            cure,
            inside: None,
        }
    }

    /// Whether nothing may start.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// What a user wrote may have line breaks, and stand in a message.
fn one_line(text: String) -> String {
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// ```text
/// error[unknown-stage]: no stage is called `tik`
///   --> hello.yaml:6:24
///    |
///  6 |   - {name: show, from: [tik], sink: {console: {}}}
///    |                         ^
///    = at: default/hello spec.stages[1].from[0]
///    = cure: write `tick`
/// ```
impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}[{}]: {}", self.severity, self.code, self.reason)?;
        let margin = match &self.place {
            Some(place) => place.line.to_string().len(),
            None => 1,
        };
        if let Some(file) = &self.file {
            write!(out, "\n{:margin$}--> {file}", "")?;
            if let Some(Place { line, column, text }) = &self.place {
                write!(out, ":{line}:{column}")?;
                let caret = column.saturating_sub(1);
                if caret <= text.chars().count() {
                    write!(out, "\n{:margin$} |\n{line} | {text}\n{:margin$} | {:caret$}^", "", "", "")?;
                }
            }
        }
        let path = self.path.to_string();
        if self.resource.is_some() || !path.is_empty() {
            let at: Vec<&str> = [self.resource.as_deref().unwrap_or_default(), &path]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect();
            write!(out, "\n{:margin$} = at: {}", "", at.join(" "))?;
        }
        write!(out, "\n{:margin$} = cure: {}", "", self.cure)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.text())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.text())
    }
}

macro_rules! codes {
    ($($code:ident $text:literal $severity:ident $meaning:literal,)+) => {
        /// Which kind of mistake it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $code,)+
        }

        impl Code {
            /// Every code, in the order a resource is read.
            pub const ALL: &'static [Code] = &[$(Code::$code),+];

            /// Its name, such as `unknown-stage`: it never changes.
            pub fn text(self) -> &'static str {
                match self { $(Code::$code => $text,)+ }
            }

            /// How bad it is.
            pub fn severity(self) -> Severity {
                match self { $(Code::$code => Severity::$severity,)+ }
            }

            /// What it means, in one line.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$code => $meaning,)+ }
            }
        }
    };
}

/// What is wrong with a file as such, found by whoever reads files: the compiler gets their text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCode {
    /// It cannot be read.
    Unreadable,
    /// It has a pipeline that another file has too.
    PipelineInTwoFiles,
    /// It has a dnpipe that another file has too.
    DnpipeInTwoFiles,
    /// The dead letters of a group go to a dnpipe that no file has.
    UnknownDeadLetter,
}

impl FileCode {
    /// Every one.
    pub const ALL: &'static [FileCode] = &[
        FileCode::Unreadable,
        FileCode::PipelineInTwoFiles,
        FileCode::DnpipeInTwoFiles,
        FileCode::UnknownDeadLetter,
    ];

    /// Its name: it never changes.
    pub fn text(self) -> &'static str {
        match self {
            FileCode::Unreadable => "unreadable-file",
            FileCode::PipelineInTwoFiles => "pipeline-in-two-files",
            FileCode::DnpipeInTwoFiles => "dnpipe-in-two-files",
            FileCode::UnknownDeadLetter => "unknown-dead-letter",
        }
    }

    /// What it means, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            FileCode::Unreadable => "A file is not there, or may not be read.",
            FileCode::PipelineInTwoFiles => "Two files have a pipeline of the same namespace and name.",
            FileCode::DnpipeInTwoFiles => "Two files have a dnpipe of the same namespace and name.",
            FileCode::UnknownDeadLetter => {
                "The dead letters of a group go to a dnpipe that none of the files has."
            }
        }
    }
}

impl Serialize for FileCode {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.text())
    }
}

codes! {
    // The file.
    FileTooLarge "file-too-large" Error "A file has more than 1 MiB, or more than 256 documents.",
    NotText "not-text" Error "A file is not UTF-8 text.",
    EmptyFile "empty-file" Error "A file has no document in it.",
    YamlSyntax "yaml-syntax" Error "A document is not YAML.",
    TooDeep "too-deep" Error "Maps and lists are nested deeper than 32 levels.",
    AliasBomb "alias-bomb" Error "Aliases repeat so much that the document would grow beyond every bound.",
    DuplicateKey "duplicate-key" Error "A map has the same key twice.",
    NotFinite "not-finite" Error "A number is infinite, or not a number.",
    TooManyProblems "too-many-problems" Error "A file has more problems than are worth listing.",

    // The resource.
    UnknownResource "unknown-resource" Error "A document is of a kind that is not known.",
    UnknownVersion "unknown-version" Error "A resource is of a version that is not known.",
    DuplicatePipeline "duplicate-pipeline" Error "Two pipelines of a file have the same namespace and name.",
    DuplicateDnpipe "duplicate-dnpipe" Error "Two dnpipes of a file have the same namespace and name.",

    // Its fields.
    MissingField "missing-field" Error "A field that is required is not there.",
    UnknownField "unknown-field" Error "There is no such field.",
    WrongType "wrong-type" Error "A value is of another type than the field.",
    UnknownValue "unknown-value" Error "A value is none of those the field may have.",
    BadDuration "bad-duration" Error "A text is no duration.",
    BadSize "bad-size" Error "A text is no size.",
    BadText "bad-text" Error "A text does not have the form the field asks for.",
    BadLength "bad-length" Error "A text is too short or too long.",
    OutOfRange "out-of-range" Error "A number is less or more than the field allows.",
    BadCount "bad-count" Error "A list or a map has too few or too many entries.",
    UnknownKind "unknown-kind" Error "There is no such kind of source, process, sink or codec.",
    NoKind "no-kind" Error "A stage does not say what it does.",
    TwoKinds "two-kinds" Error "A stage says twice what it does.",
    TooManyStages "too-many-stages" Error "A pipeline has more than 64 stages.",

    // The graph.
    DuplicateStage "duplicate-stage" Error "Two stages of a pipeline have the same name.",
    UnknownStage "unknown-stage" Error "No stage has this name.",
    LaterStage "later-stage" Error "A stage takes input from itself or from a stage below it.",
    FromSink "from-sink" Error "A stage takes input from a sink, which has no output.",
    NoInput "no-input" Error "A stage that is not a source has nothing to take events from.",
    RepeatedInput "repeated-input" Error "A stage names the same input twice.",
    InputOnSource "input-on-source" Error "A source has a field that is about its input, and it has no input.",
    WhenAndOtherwise "when-and-otherwise" Error "A stage has both `when` and `otherwise`.",
    OtherwiseAlone "otherwise-alone" Error "A stage has `otherwise`, and no other stage with the same input has `when`.",
    UnusedOutput "unused-output" Warning "No stage takes the events of a stage.",
    MergeOfOne "merge-of-one" Warning "A `merge` has one input, so it does nothing.",
    SharedResource "shared-resource" Error "Two stages want for themselves what only one can have.",

    // Where stages run.
    DuplicateSidecar "duplicate-sidecar" Error "Two sidecars of a pipeline have the same name.",
    UnknownSidecar "unknown-sidecar" Error "No sidecar has this name.",
    NoSidecar "no-sidecar" Error "A stage does not say in which of several sidecars it runs, and has no input to follow.",
    UnusedSidecar "unused-sidecar" Warning "No stage runs in a sidecar.",
    NoHost "no-host" Error "A sidecar does not say which pods it runs in.",
    TwoHosts "two-hosts" Error "A sidecar says twice which pods it runs in.",
    BadSelector "bad-selector" Error "A selector selects every pod, or is none that Kubernetes takes.",
    SamePods "same-pods" Error "Two sidecars of a pipeline are injected into the same pods.",
    NoService "no-service" Error "An edge leads into pods that no Service can select.",
    UnusedTransport "unused-transport" Warning "A sidecar says what carries the edges into it, and there are none.",
    SpreadState "spread-state" Error "A stage that brings events together runs in several pods that share them.",
    LongName "long-name" Error "The objects of a pipeline would have a name that Kubernetes does not allow.",

    // Failures.
    RetryOffSink "retry-off-sink" Error "A stage that is not a sink has `retry`.",
    DeadLetterOffSink "dead-letter-off-sink" Error "`deadLetter` names a stage that is not a sink.",
    DeadLetterLoop "dead-letter-loop" Error "Dead letters of a sink would come back to it.",
    BadRetry "bad-retry" Error "The first wait of `retry` is longer than the longest.",

    UnprovenDelivery "unproven-delivery" Error "A pipeline is to deliver exactly once, and that can't be proved of it.",

    // What the kinds ask for.
    ZeroDuration "zero-duration" Error "A duration is 0 where time must pass.",
    BadWindow "bad-window" Error "A `window` has not exactly one form, or one that does not divide.",
    BadThreshold "bad-threshold" Error "A `threshold` has not exactly one bound, or clears on the wrong side of it.",
    BadThrottle "bad-throttle" Error "A `throttle` with keys would block all of them for one.",
    BadQuantile "bad-quantile" Error "A quantile is not a share from 0 to 1, or is there twice.",
    BadRegex "bad-regex" Error "A pattern is no regular expression, or names no group.",
    BadSeparator "bad-separator" Error "A separator of CSV is not one byte, or is one that has a meaning.",
    BadAddress "bad-address" Error "An address to listen on has no port that exists.",
    BadFieldPath "bad-field-path" Error "A dotted path to a field has an empty name in it.",
    RepeatedField "repeated-field" Error "A field is written twice by one stage.",

    // A dnpipe.
    DuplicateGroup "duplicate-group" Error "Two groups of a dnpipe have the same name.",
    BadGroup "bad-group" Error "A group has one of `maxDeliveries` and `deadLetter` without the other, or is its own dead letter.",
    RepeatedRule "repeated-rule" Warning "An access rule says nothing that one above does not say.",
    LateRetention "late-retention" Warning "A dnpipe keeps more bytes than it may have, so pushes are refused before any record goes.",

    // Expressions.
    BadExpression "bad-expression" Error "An expression is wrong, whatever the events are.",
    UnfitExpression "unfit-expression" Error "An expression does not fit the events that reach the stage.",
    UnfitEvents "unfit-events" Error "A stage can't do its work on the events that reach it.",
    CheckedWhenRun "checked-when-run" Note "The fields of the events are not known, so expressions are checked when they run.",
    StateInMemory "state-in-memory" Note "A stage keeps state in memory, which a crash loses.",
    SpilledToDisk "spilled-to-disk" Note "What waits for a stage goes to the disk of its process.",
}
