//! The file system loses its power with pushes in flight, again and again: a loop device with ext4, shut down as its own
//! tests do it, without a flush of its log. What was acknowledged is there after it is mounted again.
//!
//! Needs root and a loop device; says so where it has not. What the device under the file system keeps is not modelled:
//! `crashes.rs` does that. `SIDESTREAM_PROVE_N` says how many cuts on each disk (1 by default), `SIDESTREAM_PROVE_SEED`
//! when: `make prove PROOF=journal-cuts`.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "shutting a file system down is an ioctl without a safe wrapper")]

mod common;

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use common::{
    pushing::{check, push_for_ever, run_child},
    setting,
};
use sidestream_host::{
    Random,
    disk::{self, Choice},
};

/// `EXT4_IOC_SHUTDOWN`, and to leave the log as it is.
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;

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
    let Some(mut device) = Device::new(folder.path()) else {
        println!("no root, loop device or mkfs.ext4 here: not tested");
        return;
    };
    let cuts = setting("SIDESTREAM_PROVE_N", 1);
    let mut random = Random::seeded(setting("SIDESTREAM_PROVE_SEED", 1));
    let mut seen = BTreeMap::new();
    let (mut acked, mut in_flight) = (0, 0);
    for cut in 0..cuts {
        let lives = Duration::from_micros(30_000 + random.below(150_000));
        let told = run_child(&device.journal(), choice, cut, lives, |child| {
            device.shut_down();
            child.kill().unwrap();
        });
        acked += told.acked.len();
        in_flight += told.pushed.len() - told.acked.len();
        device.mount_again();
        check(&device.journal(), choice, &told, &mut seen);
    }
    println!("{choice:?}: {cuts} power cuts, {in_flight} pushes in flight, {acked} acknowledged, 0 lost");
    assert!(acked > 0);
}

/// A file system in a file.
struct Device {
    image: PathBuf,
    mounted: PathBuf,
}

impl Device {
    fn new(folder: &Path) -> Option<Self> {
        let device = Self { image: folder.join("image"), mounted: folder.join("mounted") };
        std::fs::create_dir(&device.mounted).unwrap();
        File::create(&device.image).unwrap().set_len(256 << 20).unwrap();
        let image = device.image.to_string_lossy().into_owned();
        (run("mkfs.ext4", &["-q", "-F", &image]) && device.mount()).then_some(device)
    }

    fn journal(&self) -> PathBuf {
        self.mounted.join("journal")
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", &self.image.to_string_lossy(), &self.mounted.to_string_lossy()])
    }

    fn shut_down(&self) {
        let root = File::open(&self.mounted).unwrap();
        // SAFETY: this ioctl reads one `u32`.
        let cut = unsafe { rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH) };
        // SAFETY: the file system is ours, and ext4 knows the ioctl.
        unsafe { rustix::ioctl::ioctl(&root, cut) }.unwrap();
    }

    fn mount_again(&mut self) {
        // The child that had it may not quite have ended.
        let has_gone = (0..6_000).any(|_| {
            let has_gone = run("umount", &[&self.mounted.to_string_lossy()]);
            if !has_gone {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            has_gone
        });
        assert!(has_gone && self.mount());
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Also where the child that had it has not quite ended.
        run("umount", &["-l", &self.mounted.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Not a test by itself: what loses its disk.
#[test]
fn the_child_that_is_killed() {
    push_for_ever();
}
