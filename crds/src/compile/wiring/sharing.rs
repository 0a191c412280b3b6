//! What only one stage can have: the standard input, a socket on an address, the right to write a file.

use std::{
    collections::HashMap,
    path::{self, Component, PathBuf},
};

use sidestream_plan::{Kind, Sink, Source};

use super::Report;
use crate::{
    diagnostic::Code,
    path::{Path, shortened},
    pipeline::PipelineSpec,
};

/// Says of every stage that wants what a stage above it has.
pub(super) fn check(spec: &PipelineSpec, kinds: &[Kind], report: &mut Report) {
    let mut taken: HashMap<Thing, usize> = HashMap::new();
    for (index, kind) in kinds.iter().enumerate() {
        let Some(Want { thing, called, fields, cure }) = wanted(kind) else { continue };
        let owner = *taken.entry(thing).or_insert(index);
        if owner != index {
            let owner = &spec.stages[owner].name;
            let reason = format!("{called} is already taken by the stage `{owner}`");
            report.say(Code::SharedResource, Path::stage(index).fields(fields), reason, cure);
        }
    }
}

/// What there is one of.
#[derive(PartialEq, Eq, Hash)]
enum Thing {
    Stdin,
    Address(String),
    /// A file that is written, whoever writes it and for what.
    File(PathBuf),
}

/// What a stage wants for itself.
struct Want {
    thing: Thing,
    called: String,
    fields: &'static [&'static str],
    cure: &'static str,
}

fn wanted(kind: &Kind) -> Option<Want> {
    match kind {
        Kind::Source(Source::Stdin(_)) => Some(Want {
            thing: Thing::Stdin,
            called: "the standard input".into(),
            fields: &["source", "stdin"],
            cure: "read it once, and let both take from that stage with `from`",
        }),
        // Of port 0, everybody gets another one.
        Kind::Source(Source::Http(http)) if !http.listen.ends_with(":0") => Some(Want {
            thing: Thing::Address(http.listen.clone()),
            called: format!("the address `{}`", shortened(&http.listen)),
            fields: &["source", "http", "listen"],
            cure: "listen on another port",
        }),
        Kind::Source(Source::File(file)) => file.checkpoint.as_ref().map(|path| Want {
            thing: Thing::file(path),
            called: format!("the checkpoint `{}`", shortened(path)),
            fields: &["source", "file", "checkpoint"],
            cure: "give every source a checkpoint of its own: each writes its positions over what is there",
        }),
        Kind::Sink(Sink::File(file)) => Some(Want {
            thing: Thing::file(&file.path),
            called: format!("the file `{}`", shortened(&file.path)),
            fields: &["sink", "file", "path"],
            cure: "write to another file, or let one sink take both with `from`",
        }),
        _ => None,
    }
}

impl Thing {
    /// The file at `path`, however it is written: `a//b` and `./a/b` are `a/b`. (Only the machine knows of links.)
    fn file(path: &str) -> Thing {
        Thing::File(path::Path::new(path).components().filter(|part| *part != Component::CurDir).collect())
    }
}
