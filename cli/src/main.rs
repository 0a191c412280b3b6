//! `sidestream`: the command line. One file per verb; this one tells the life of the process in order.

mod arguments;
mod files;
mod key;
mod log;
mod output;
mod peers;
mod place;
mod pod;
#[cfg(test)]
mod reference;
mod server;
mod verb;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    choose_crypto();
    match Sidestream::parse().verb {
        Verb::Run(run) => run.run(),
        Verb::Check(check) => check.run(),
        Verb::Plan(plan) => plan.run(),
        Verb::Eval(eval) => eval.run(),
        Verb::Inject(inject) => inject.run(),
        Verb::Top(top) => top.run(),
        Verb::Push(push) => push.run(),
        Verb::Pull(pull) => pull.run(),
        Verb::Reset(reset) => reset.run(),
        Verb::Dnpipe(dnpipe) => dnpipe.run(),
        Verb::Group(group) => group.run(),
        Verb::Redrive(redrive) => redrive.run(),
        Verb::Bench(bench) => bench.run(),
    }
}

/// Event pipelines and durable named pipes, written in YAML, on this machine.
#[derive(Debug, Parser)]
#[command(name = "sidestream", version, arg_required_else_help = true, disable_help_subcommand = true)]
struct Sidestream {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the pipelines of files, and serve their dnpipes, until they end or are told to stop
    Run(verb::run::Run),
    /// Say everything that is wrong with files, or worth knowing
    Check(verb::check::Check),
    /// Show what would run: stages, fused runs, rings
    Plan(verb::plan::ShowPlan),
    /// Evaluate an expression
    Eval(verb::eval::Eval),
    /// Add sidecars to manifests, as the operator's webhook adds them to pods
    Inject(verb::inject::Inject),
    /// Watch a running process: rates, latencies, queues
    Top(verb::top::Top),
    /// Push records to a dnpipe
    Push(verb::push::Push),
    /// Print records of a dnpipe
    Pull(verb::pull::Pull),
    /// Remove all records of a dnpipe
    Reset(verb::reset::Reset),
    /// Look at dnpipes
    Dnpipe(verb::dnpipe::Dnpipe),
    /// Look at the groups of a dnpipe, and move one
    Group(verb::group::Group),
    /// Deliver the dead letters of a group once more
    Redrive(verb::redrive::Redrive),
    /// Measure how fast a dnpipe is, beside what its disk can do
    Bench(Box<verb::bench::Bench>),
}

/// Two providers in one process panic at the first handshake, so the one of this house is named before anything else.
fn choose_crypto() {
    // It fails only where one was chosen before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
