//! What the pipelines of a process share: its workers, its sockets, its clock, its secrets.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, OnceLock},
};

use sidestream_connector::{Address, Environment, Secrets, Servers};
use sidestream_edge::Peering;
use sidestream_expr::{Program, Type};
use sidestream_graph::Processor;
use sidestream_host::Clock;
use sidestream_plan::Latency;
use sidestream_scheduler::{Config, Pool, Scheduler, Waiting};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{
    Door,
    latch::Latch,
    spill::{SPILL_BYTES_MAX, SpillPlace},
};

/// How a sidecar is started.
#[derive(Clone, Debug, Default)]
pub struct SidecarConfig {
    /// Worker threads; one for every core the process may use by default.
    pub workers: Option<usize>,
    /// How idle workers wait.
    pub latency: Latency,
    /// Where secrets are read.
    pub secrets: Secrets,
    /// Bytes that spilled queues may have of the journal of dnpipes; [`SPILL_BYTES_MAX`](crate::SPILL_BYTES_MAX) by default.
    pub spill_bytes_max: Option<u64>,
}

/// The threads of a data plane. They end when it is dropped.
pub struct Sidecar {
    world: World,
    _workers: Pool,
    _sockets: Runtime,
}

/// What stages are built in and run on.
#[derive(Clone)]
pub struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) sockets: Handle,
    pub(crate) clock: Clock,
    pub(crate) secrets: Secrets,
    peering: Arc<OnceLock<Peering>>,
    dnpipes: Arc<OnceLock<Arc<Servers>>>,
    pub(crate) spill_place: SpillPlace,
    pub(crate) spill_bytes_max: u64,
    /// Set when somebody at the other end of this process has gone for good.
    pub(crate) closed: Latch,
}

impl Sidecar {
    /// Starts the workers and the socket runtime.
    pub fn start(config: SidecarConfig) -> io::Result<Sidecar> {
        let clock = Clock::machine();
        let waiting = match config.latency {
            Latency::Park => Waiting::Park,
            Latency::Busy => Waiting::Busy,
        };
        let default = Config::default();
        let workers = Config { workers: config.workers.unwrap_or(default.workers), waiting };
        let workers = Pool::start(workers, clock.clone())?;
        let sockets =
            Builder::new_multi_thread().worker_threads(1).thread_name("sockets").enable_all().build()?;
        let world = World {
            scheduler: workers.scheduler().clone(),
            sockets: sockets.handle().clone(),
            clock,
            secrets: config.secrets,
            peering: Arc::default(),
            dnpipes: Arc::default(),
            spill_place: SpillPlace::default(),
            spill_bytes_max: config.spill_bytes_max.unwrap_or(SPILL_BYTES_MAX),
            closed: Latch::default(),
        };
        Ok(Sidecar { world, _workers: workers, _sockets: sockets })
    }

    /// What pipelines are started in.
    pub fn world(&self) -> &World {
        &self.world
    }
}

impl World {
    /// The runtime that owns the sockets.
    pub fn sockets(&self) -> &Handle {
        &self.sockets
    }

    /// What time it is.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Waits until a sink finds that nobody takes its events any more, nor ever will: whoever read the standard output has
    /// gone.
    pub async fn closed(&self) {
        self.closed.wait().await;
    }

    /// Lets this process take part in edges from now on, for as long as it lives. Before that, a plan with edges is refused.
    pub fn take_part(&self, peering: Peering) {
        // Who has a part already keeps it.
        let _ = self.peering.set(peering);
    }

    /// This process's part in edges, where it has one.
    pub fn peering(&self) -> Option<&Peering> {
        self.peering.get()
    }

    /// Lets stages use the dnpipes of the server at `address` from now on. Before that, a plan that names one is refused.
    pub fn use_dnpipes(&self, address: Address) {
        self.use_pools(Arc::new(move |_, _| Ok(address.clone())));
    }

    /// Lets stages use dnpipes of several pools from now on.
    pub fn use_pools(&self, servers: Arc<Servers>) {
        // Who knows a server already keeps it.
        let _ = self.dnpipes.set(servers);
    }

    /// Where dnpipes are; nothing before [`World::use_pools`].
    #[cfg(unix)]
    pub(crate) fn servers(&self) -> Arc<OnceLock<Arc<Servers>>> {
        self.dnpipes.clone()
    }

    pub(crate) fn environment(&self, pipeline: &str) -> Environment {
        Environment {
            pipeline: pipeline.to_owned(),
            clock: self.clock.clone(),
            secrets: self.secrets.clone(),
            dnpipes: self.dnpipes.get().cloned(),
            exactly_once: None,
            compile: Arc::new(|expression| {
                let program = Program::compile(expression.source(), &Type::Dyn).map_err(|problems| {
                    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                })?;
                Ok(Box::new(move |event| program.eval(event).map_err(|error| error.to_string())))
            }),
        }
    }
}

/// What a program that embeds pipelines brings along: processors by name, and the doors to its `push` sources.
#[derive(Default)]
pub struct Registry {
    pub(crate) processors: HashMap<String, Box<dyn Processor>>,
    pub(crate) doors: HashMap<String, Door>,
}

impl Registry {
    /// Registers a processor for the stage of kind `custom` that names it.
    pub fn processor(&mut self, name: impl Into<String>, processor: Box<dyn Processor>) {
        self.processors.insert(name.into(), processor);
    }

    /// The door of the source stage `stage` of kind `push`. It opens when the pipeline starts.
    pub fn door(&mut self, stage: impl Into<String>) -> Door {
        self.doors.entry(stage.into()).or_default().clone()
    }
}
