//! `sidestream run`: pipelines and dnpipes on this machine.
//!
//! ```text
//!   files ─▶ compile ─▶ start ─▶ ready ─▶ ( reload )* ─▶ drain ─▶ 0, or 1 where not all was delivered
//!              │          └▶ what this machine does not give, 1
//!              └▶ all that is wrong, 2, nothing started
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use sidestream_client::Address as ServerAddress;
use sidestream_crds::Severity;
use sidestream_plan::{Dnpipe, Latency, Plan};
use sidestream_sidecar::{
    Asked, Dnpipes, Fleet, Secrets, ServeDnpipesError, Sidecar, SidecarConfig, Signals, World,
    observe::{self, Observed, ServeError, Server, State},
};

use super::{DONE, failed, plan::text, wrong};
use crate::{
    arguments::{Address, Listen, folder},
    files::{Compiled, compile_all, plural},
    log::{self, LogFormat},
    output::{complain, print},
    peers::Peers,
    server::{data_dir, socket_of},
    watch::Watch,
};

/// What to run, and how.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Files of pipelines and dnpipes; each may hold several documents
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Folder of secrets: the key KEY of the secret NAME is the file DIR/NAME/KEY
    #[arg(long, value_name = "DIR", value_parser = folder)]
    secrets: Option<PathBuf>,
    /// Where dnpipes are kept, what `overflow: Spill` spills, and the local socket is; $SIDESTREAM_DATA_DIR or
    /// `sidestream-data` by default where there are dnpipes. Those that are there already are served too
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The data directory of the process that serves the dnpipes which stages name, where this one is not to. What this one
    /// spills goes to a --data-dir of its own beside
    #[arg(long, value_name = "DIR")]
    dnpipes: Option<PathBuf>,
    /// Bytes of the data directory that spilled events may have; then the stages before them wait
    #[arg(long, value_name = "SIZE", default_value = "10Gi", requires = "data_dir")]
    spill_max: sidestream_plan::Size,
    /// Drop what waits in the data directory for a stage that no pipeline has any more, as NAMESPACE/PIPELINE/STAGE
    #[arg(long, value_name = "STAGE", requires = "data_dir")]
    drop_spilled: Vec<String>,
    #[command(flatten)]
    peers: Peers,
    /// Where to serve /metrics, /readyz, /stages and /tap; `off` for nowhere
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9464")]
    metrics: Listen,
    /// Say what would run, and start nothing
    #[arg(long)]
    dry_run: bool,
    /// Take over changes of the files while running (SIGHUP always does)
    #[arg(long)]
    watch: bool,
    /// How long to go on delivering when told to stop
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    grace: sidestream_plan::Duration,
    /// Worker threads; one for each core by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// How logs look on the standard error
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
    /// Log more, and show the compiler's notes
    #[arg(short, long)]
    verbose: bool,
}

/// What happened to a running process.
enum Happened {
    Stop,
    Reload,
    Ended,
    /// Whoever read the standard output has gone.
    Closed,
}

impl Run {
    pub(crate) fn run(self) -> ExitCode {
        log::begin(self.log_format, self.verbose);
        let watch = self.watch.then(|| Watch::new(&self.files));
        let compiled = compile_all(&self.files);
        self.report(&compiled);
        if !compiled.is_ok() {
            complain(format_args!("{}; nothing was started", compiled.summary()));
            return wrong();
        }
        let (plans, part) = match self.peers.part(&self.files) {
            Ok(None) => (compiled.plans, None),
            Ok(Some(part)) => (vec![part.plan.clone()], Some(part)),
            Err(reason) => {
                complain(format_args!("error: {reason}"));
                return wrong();
            }
        };
        if self.dry_run {
            let dnpipes = compiled.dnpipes.iter().map(|dnpipe| dnpipe.full_name() + ": a dnpipe\n\n");
            let plans: String = plans.iter().map(|plan| text(plan) + "\n").chain(dnpipes).collect();
            return print(format_args!("{plans}dry run: nothing was started\n"));
        }
        let sidecar = match Sidecar::start(self.config(&plans)) {
            Ok(sidecar) => sidecar,
            Err(error) => return self.refuse(format_args!("cannot start the worker threads: {error}")),
        };
        let seat = match part.map(|part| self.peers.join(&part, sidecar.world())).transpose() {
            Ok(seat) => seat.flatten(),
            Err(error) => return self.refuse(format_args!("{error}")),
        };
        let dnpipes = match self.serve_dnpipes(&compiled.dnpipes, sidecar.world()) {
            Ok(dnpipes) => dnpipes,
            Err(error) => return self.refuse(format_args!("{error}")),
        };
        if let Err(reason) = self.drop_spilled(sidecar.world()) {
            return self.refuse(format_args!("{reason}"));
        }
        let code = self.run_in(&sidecar, plans, dnpipes.as_ref(), watch);
        if let Some(dnpipes) = dnpipes {
            dnpipes.close(DOORS_CLOSE_WITHIN);
        }
        if let Some(seat) = seat {
            seat.leave();
        }
        code
    }

    /// Serves the dnpipes of the files, and those of a data directory that was named.
    fn serve_dnpipes(&self, wanted: &[Dnpipe], world: &World) -> Result<Option<Dnpipes>, String> {
        if let Some(folder) = &self.dnpipes {
            if let Some(first) = wanted.first() {
                let name = first.full_name();
                return Err(format!(
                    "the files have the dnpipe {name}, and --dnpipes says that another process serves it; move it to that one's files"
                ));
            }
            if self.data_dir.as_ref().is_some_and(|own| is_same(own, folder)) {
                return Err(format!(
                    "--data-dir and --dnpipes are the same folder, {}, and one process at a time has it: give this process a \
                     --data-dir of its own, or leave --dnpipes out to have it serve these dnpipes itself",
                    folder.display()
                ));
            }
            world.use_dnpipes(ServerAddress::Local(socket_of(folder)));
        }
        if wanted.is_empty() && self.data_dir.is_none() && !self.peers.listens() {
            return Ok(None);
        }
        let folder = data_dir(self.data_dir.clone());
        let said_so = |error: ServeDnpipesError| error.to_string();
        let dnpipes = Dnpipes::open(world, &folder).map_err(said_so)?;
        dnpipes.apply_as_keys_come(wanted).map_err(said_so)?;
        let address = self.peers.listen(&dnpipes, world)?;
        let (names, socket, disk) = (dnpipes.names(), socket_of(&folder), dnpipes.disk());
        let names = said(&names, "dnpipe");
        let address = address.map(|address| address.to_string());
        let (disk, why) = (disk.driver, disk.reason);
        tracing::info!(dnpipes = names, socket = %socket.display(), address, disk, why, "serving");
        Ok(Some(dnpipes))
    }

    /// Drops what was spilled for stages that were named, before any stage can want it.
    fn drop_spilled(&self, world: &World) -> Result<(), String> {
        for name in &self.drop_spilled {
            let parts = name.rsplit_once('/').filter(|(pipeline, _)| pipeline.contains('/'));
            let dropped = parts.and_then(|(pipeline, stage)| world.forget_spilled(pipeline, stage));
            let Some(events) = dropped else {
                let there: Vec<String> =
                    world.spilled_for_nobody().into_iter().map(|(name, _)| name).collect();
                let there = if there.is_empty() { "nothing is".to_owned() } else { there.join(", ") };
                return Err(format!("nothing is spilled for `{name}`; there: {there}"));
            };
            tracing::warn!(stage = name, events, "dropped what was spilled for it");
        }
        Ok(())
    }

    fn run_in(
        &self,
        sidecar: &Sidecar,
        plans: Vec<Plan>,
        dnpipes: Option<&Dnpipes>,
        mut watch: Option<Watch>,
    ) -> ExitCode {
        let world = sidecar.world();
        let mut signals = match Signals::catch(world) {
            Ok(signals) => signals,
            Err(error) => return self.refuse(format_args!("cannot catch signals: {error}")),
        };
        let observed = Observed::new(world);
        dnpipes.into_iter().for_each(|dnpipes| observed.add_dnpipes(dnpipes.clone()));
        let server = match self.serve(&observed, sidecar) {
            Ok(server) => server,
            Err(error) => {
                return self
                    .refuse(format_args!("{error}; give another address with --metrics, or --metrics off"));
            }
        };
        let mut fleet = Fleet::new(world, &observed);
        let told = (names(&plans), plans.iter().map(|plan| plan.stages.len()).sum::<usize>());
        for plan in plans {
            let name = plan.pipeline.clone();
            if let Err(error) = fleet.start(plan) {
                // Those before it may have taken events in already.
                fleet.drain(self.grace.get());
                return self.refuse(format_args!("pipeline {name}: {error}"));
            }
        }
        for (stage, events) in fleet.left_behind() {
            tracing::warn!(
                stage,
                events,
                "spilled events wait for a stage that is not here, or does not spill: put it back to have them delivered, or drop them with --drop-spilled"
            );
        }
        observed.enter(State::Ready);
        say_ready(&told.0, told.1, server.as_ref());

        loop {
            // What is served is served until somebody says stop.
            let ends = dnpipes.is_none();
            match world.sockets().block_on(next(&mut signals, &fleet, ends, sidecar, watch.as_mut())) {
                Happened::Reload => self.reload(&mut fleet, dnpipes),
                Happened::Ended => {
                    fleet.drain(Duration::ZERO);
                    return DONE;
                }
                Happened::Stop => break,
                Happened::Closed => {
                    tracing::info!("whoever read the standard output has gone: nothing more is wanted");
                    break;
                }
            }
        }
        observed.enter(State::Draining);
        tracing::info!(grace = %self.grace, "draining; a second signal ends at once");
        world.sockets().spawn(async move {
            while signals.next().await != Asked::Stop {}
            tracing::error!("ended by a second signal, with events undelivered");
            std::process::exit(1);
        });
        if fleet.drain(self.grace.get()) { DONE } else { failed() }
    }

    fn reload(&self, fleet: &mut Fleet, dnpipes: Option<&Dnpipes>) {
        let compiled = compile_all(&self.files);
        self.report(&compiled);
        if compiled.is_ok() {
            match dnpipes {
                Some(dnpipes) => {
                    if let Err(error) = dnpipes.apply_as_keys_come(&compiled.dnpipes) {
                        tracing::error!("{error}; what was served goes on");
                    }
                }
                None if compiled.dnpipes.is_empty() => {}
                None => tracing::error!(
                    "dnpipes are served from the start or not at all; start this process again"
                ),
            }
            match self.peers.part(&self.files) {
                Ok(None) => drop(fleet.change_to(compiled.plans, self.grace.get())),
                Ok(Some(part)) => drop(fleet.change_to(vec![part.plan], self.grace.get())),
                Err(reason) => tracing::error!("{reason}; what was running goes on"),
            }
        } else {
            tracing::error!("{}: the files are not taken, and what was running goes on", compiled.summary());
        }
    }

    fn config(&self, plans: &[Plan]) -> SidecarConfig {
        // The workers are shared, so one pipeline that asks for spinning workers gets them for all.
        let busy = plans.iter().any(|plan| plan.latency == Latency::Busy);
        SidecarConfig {
            workers: self.workers.map(usize::from),
            latency: if busy { Latency::Busy } else { Latency::Park },
            secrets: self.secrets.as_ref().map(Secrets::at).unwrap_or_default(),
            spill_bytes_max: Some(self.spill_max.bytes()),
        }
    }

    fn serve(&self, observed: &Observed, sidecar: &Sidecar) -> Result<Option<Server>, ServeError> {
        match &self.metrics {
            Listen::Off => Ok(None),
            Listen::At(Address(address)) => {
                observe::serve(observed.clone(), address, sidecar.world()).map(Some)
            }
        }
    }

    fn report(&self, compiled: &Compiled) {
        log::report(compiled, if self.verbose { Severity::Note } else { Severity::Warning }, self.log_format);
    }

    fn refuse(&self, reason: std::fmt::Arguments<'_>) -> ExitCode {
        match self.log_format {
            LogFormat::Human => complain(format_args!("error: {reason}")),
            LogFormat::Json => tracing::error!("{reason}"),
        }
        failed()
    }
}

async fn next(
    signals: &mut Signals,
    fleet: &Fleet,
    ends: bool,
    sidecar: &Sidecar,
    watch: Option<&mut Watch>,
) -> Happened {
    let changed = async {
        match watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        asked = signals.next() => match asked {
            Asked::Stop => Happened::Stop,
            Asked::Reload => Happened::Reload,
        },
        () = fleet.ended(), if ends => Happened::Ended,
        () = sidecar.world().closed() => Happened::Closed,
        () = changed => Happened::Reload,
    }
}

/// Whether two paths lead to the same folder.
fn is_same(own: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(own) == real(other)
}

fn say_ready(pipelines: &str, stages: usize, server: Option<&Server>) {
    let metrics = server.map_or("off".to_owned(), |server| format!("http://{}/metrics", server.address()));
    tracing::info!(pipelines, stages, metrics, "ready");
}

fn names(plans: &[Plan]) -> String {
    said(&plans.iter().map(|plan| plan.pipeline.clone()).collect::<Vec<_>>(), "pipeline")
}

fn said(names: &[String], what: &str) -> String {
    if names.len() > NAMES_SAID_MAX { plural(names.len(), what) } else { names.join(", ") }
}

/// More than this are counted rather than named.
const NAMES_SAID_MAX: usize = 8;
/// What was asked is answered by then.
const DOORS_CLOSE_WITHIN: Duration = Duration::from_secs(2);
