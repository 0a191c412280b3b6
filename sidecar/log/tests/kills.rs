//! A process that is killed with pushes in flight, again and again: what it had acknowledged is there, in order, and no
//! offset ever has other bytes.
//!
//! `SIDESTREAM_PROVE_N` says how many kills on each disk (4 by default), `SIDESTREAM_PROVE_SEED` when: `make prove
//! PROOF=journal-kills`. The child is this program, told by its environment to push.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{
    pushing::{check, push_for_ever, run_child},
    setting,
};
use sidestream_host::{
    Random,
    disk::{self, Choice},
};

#[test]
fn by_plain_system_calls() {
    kill_again_and_again(Choice::File);
}

#[test]
fn by_io_uring() {
    if disk::uring::Ring::probe().is_err() {
        println!("no io_uring here: not tested");
        return;
    }
    kill_again_and_again(Choice::Uring);
}

fn kill_again_and_again(choice: Choice) {
    let kills = setting("SIDESTREAM_PROVE_N", 4);
    let mut random = Random::seeded(setting("SIDESTREAM_PROVE_SEED", 1));
    let directory = tempfile::tempdir().unwrap();
    let mut seen: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let (mut acked, mut large, mut in_flight, mut with_some) = (0, 0, 0, 0);
    for kill in 0..kills {
        let lives = Duration::from_micros(30_000 + random.below(120_000));
        let told = run_child(directory.path(), choice, kill, lives, |child| child.kill().unwrap());
        acked += told.acked.len();
        large += told.large();
        in_flight += told.pushed.len() - told.acked.len();
        with_some += u64::from(told.pushed.len() > told.acked.len());
        check(directory.path(), choice, &told, &mut seen);
    }
    println!(
        "{choice:?}: {kills} kills, {with_some} with pushes in flight ({in_flight} of them), {acked} acknowledged, {large} of \
         those in pieces, 0 lost"
    );
    assert!(acked > 0 && large > 0 && with_some > 0);
}

/// Not a test by itself: what is killed.
#[test]
fn the_child_that_is_killed() {
    push_for_ever();
}
