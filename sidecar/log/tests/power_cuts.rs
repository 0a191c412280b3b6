//! The file system loses its power with pushes in flight, again and again: a loop device with ext4, shut down as its own
//! tests do it, without a flush of its log. What was acknowledged is there after it is mounted again.
//!
//! Needs root and a loop device; says so where it has not. What the device under the file system keeps is not modelled:
//! `crashes.rs` does that. `SIDESTREAM_PROVE_N` says how many cuts on each disk (1 by default), `SIDESTREAM_PROVE_SEED`
//! when: `make prove PROOF=journal-cuts`.
#![cfg(target_os = "linux")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{
    device::Device,
    pushing::{check, push_for_ever, run_child},
    setting,
};
use sidestream_host::{
    Random,
    disk::{self, Choice},
};

#[test]
fn by_plain_system_calls() {
    cut_again_and_again(Choice::File);
}

#[test]
fn by_io_uring() {
    if disk::uring::Ring::probe().is_ok() {
        cut_again_and_again(Choice::Uring);
    }
}

fn cut_again_and_again(choice: Choice) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut device) = Device::new(folder.path(), 512 << 20) else {
        println!("no root, loop device or mkfs.ext4 here: not tested");
        return;
    };
    let cuts = setting("SIDESTREAM_PROVE_N", 1);
    let mut random = Random::seeded(setting("SIDESTREAM_PROVE_SEED", 1));
    let mut seen = BTreeMap::new();
    let (mut acked, mut large, mut in_flight) = (0, 0, 0);
    for cut in 0..cuts {
        let lives = Duration::from_micros(30_000 + random.below(150_000));
        let told = run_child(&device.journal(), choice, cut, lives, |child| {
            device.shut_down();
            child.kill().unwrap();
        });
        acked += told.acked.len();
        large += told.large();
        in_flight += told.pushed.len() - told.acked.len();
        device.mount_again();
        check(&device.journal(), choice, &told, &mut seen);
    }
    println!(
        "{choice:?}: {cuts} power cuts, {in_flight} pushes in flight, {acked} acknowledged, {large} of those in pieces, 0 lost"
    );
    assert!(acked > 0);
}

/// Not a test by itself: what loses its disk.
#[test]
fn the_child_that_is_killed() {
    push_for_ever();
}
