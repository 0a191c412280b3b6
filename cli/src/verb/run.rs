//! `sidestream run`: pipelines on this machine.
//!
//! ```text
//!   files ─▶ compile ─▶ start ─▶ ready ─▶ ( reload )* ─▶ drain ─▶ 0, or 1 where not all was delivered
//!              │          └▶ what this machine does not give, 1
//!              └▶ all that is wrong, 2, nothing started
//! ```

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use sidestream_crds::Severity;
use sidestream_plan::{Latency, Plan};
use sidestream_sidecar::{
    Asked, Fleet, Secrets, Sidecar, SidecarConfig, Signals,
    observe::{self, Observed, ServeError, Server, State},
};

use super::{DONE, failed, plan::text, wrong};
use crate::{
    arguments::{Address, Listen, folder},
    files::{Compiled, compile_all, plural},
    log::{self, LogFormat},
    output::{complain, print},
    peers::Peers,
    watch::Watch,
};

/// What to run, and how.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Files of pipelines; each may hold several documents
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Folder of secrets: the key KEY of the secret NAME is the file DIR/NAME/KEY
    #[arg(long, value_name = "DIR", value_parser = folder)]
    secrets: Option<PathBuf>,
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
            let plans: String = plans.iter().map(|plan| text(plan) + "\n").collect();
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
        let code = self.run_in(&sidecar, plans, watch);
        if let Some(seat) = seat {
            seat.leave();
        }
        code
    }

    fn run_in(&self, sidecar: &Sidecar, plans: Vec<Plan>, mut watch: Option<Watch>) -> ExitCode {
        let world = sidecar.world();
        let mut signals = match Signals::catch(world) {
            Ok(signals) => signals,
            Err(error) => return self.refuse(format_args!("cannot catch signals: {error}")),
        };
        let observed = Observed::new(world);
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
        observed.enter(State::Ready);
        say_ready(&told.0, told.1, server.as_ref());

        loop {
            match world.sockets().block_on(next(&mut signals, &fleet, sidecar, watch.as_mut())) {
                Happened::Reload => self.reload(&mut fleet),
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

    fn reload(&self, fleet: &mut Fleet) {
        let compiled = compile_all(&self.files);
        self.report(&compiled);
        if compiled.is_ok() {
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
        () = fleet.ended() => Happened::Ended,
        () = sidecar.world().closed() => Happened::Closed,
        () = changed => Happened::Reload,
    }
}

fn say_ready(pipelines: &str, stages: usize, server: Option<&Server>) {
    let metrics = server.map_or("off".to_owned(), |server| format!("http://{}/metrics", server.address()));
    tracing::info!(pipelines, stages, metrics, "ready");
}

fn names(plans: &[Plan]) -> String {
    if plans.len() > NAMES_SAID_MAX {
        return plural(plans.len(), "pipeline");
    }
    plans.iter().map(|plan| plan.pipeline.as_str()).collect::<Vec<_>>().join(", ")
}

/// More pipelines than this are counted rather than named.
const NAMES_SAID_MAX: usize = 8;
