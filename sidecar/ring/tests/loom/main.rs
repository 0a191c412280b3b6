//! Every primitive under every interleaving loom can think of, with as few slots and items as show the point.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p sidestream-ring --release --test loom`
//!
//! A lost wake-up shows as a deadlock, a slot handed over too early as a causality violation. "Mutant" in a comment
//! names a change to the code under test that was made once and that this model caught.
#![cfg(loom)]

mod broadcast;
mod channel;
mod eventcount;
mod fan_in;
mod shelf;
mod spsc;

/// Runs `world` under all interleavings with at most `preemptions` forced switches.
fn explore(preemptions: usize, world: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(world);
}
