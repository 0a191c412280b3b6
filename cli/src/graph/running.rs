//! A pipeline of the program at work.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sidestream_crds::Diagnostic;
use sidestream_sidecar::{
    AssembleError, Door, Drained, Ledger, Pipeline as Started, Registry, ReloadError, Reloaded, RingView,
    StageView,
};

use crate::Pipeline;

/// A pipeline at work. It goes on when this is dropped; [`Running::drain`] ends it.
pub struct Running {
    pipeline: Arc<Started>,
    doors: Mutex<HashMap<String, Door>>,
}

/// A pipeline was not started, or a new form of it was not taken.
#[derive(Debug)]
pub enum StartError {
    /// It does not compile.
    Wrong(Vec<Diagnostic>),
    /// A stage cannot be made.
    Assemble(AssembleError),
    /// The new form was not taken; the old one is running.
    Reload(ReloadError),
}

/// There is no such door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDoor {
    /// The name that was asked for.
    pub stage: String,
    /// The stages that have doors.
    pub there: Vec<String>,
}

impl Running {
    pub(crate) fn new(pipeline: Arc<Started>, doors: Vec<(String, Door)>) -> Running {
        Running { pipeline, doors: Mutex::new(doors.into_iter().collect()) }
    }

    /// Where events are pushed into the `push` stage called `stage`.
    ///
    /// # Errors
    /// Where no `push` stage has this name.
    pub fn door(&self, stage: &str) -> Result<Door, UnknownDoor> {
        let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.get(stage).cloned().ok_or_else(|| {
            let mut there: Vec<_> = doors.keys().cloned().collect();
            there.sort();
            UnknownDoor { stage: stage.to_owned(), there }
        })
    }

    /// Puts another form of the pipeline in its place; stages of the same name and kind keep their state. A processor of
    /// the program is kept under its name, and the one given here goes unused. Blocks as [`Started::reload`] does.
    ///
    /// # Errors
    /// Where the new form does not compile or cannot be put in place; the old one then goes on.
    pub fn reload(&self, pipeline: Pipeline) -> Result<Reloaded, StartError> {
        let plan = pipeline.plan().map_err(StartError::Wrong)?;
        let mut registry = Registry::default();
        let opened = pipeline.register(&mut registry);
        let reloaded = self.pipeline.reload(plan, &mut registry).map_err(StartError::Reload)?;
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.retain(|name, _| reloaded.kept.contains(name));
        for (name, door) in opened {
            doors.entry(name).or_insert(door);
        }
        Ok(reloaded)
    }

    /// Stops the sources and lets everything that was accepted come to its end, for at most `grace`. Blocks the thread.
    pub fn drain(&self, grace: Duration) -> Drained {
        self.pipeline.drain(grace)
    }

    /// Waits until every source has come to its end and everything is delivered; for ever where a source has no end.
    pub async fn ended(&self) {
        self.pipeline.ended().await;
    }

    /// The books of all sources together.
    pub fn ledger(&self) -> Ledger {
        self.pipeline.ledger()
    }

    /// Every stage, with what it counts.
    pub fn stages(&self) -> Vec<StageView> {
        self.pipeline.stages()
    }

    /// Every ring.
    pub fn rings(&self) -> Vec<RingView> {
        self.pipeline.rings()
    }

    /// The pipeline itself, to be shown by [`crate::observe`].
    pub fn pipeline(&self) -> &Arc<Started> {
        &self.pipeline
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.pipeline.plan();
        out.debug_struct("Running").field("pipeline", &plan.pipeline).finish_non_exhaustive()
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Wrong(diagnostics) => {
                let texts: Vec<_> = diagnostics.iter().map(ToString::to_string).collect();
                write!(out, "the pipeline does not compile:\n{}", texts.join("\n"))
            }
            StartError::Assemble(error) => write!(out, "{error}"),
            StartError::Reload(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl fmt::Display for UnknownDoor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.there {
            [] => write!(
                out,
                "no stage `{}` is pushed into, nor any other; add one with `.push(name)`",
                self.stage
            ),
            there => write!(out, "no stage `{}` is pushed into; there are {}", self.stage, there.join(", ")),
        }
    }
}

impl std::error::Error for UnknownDoor {}
