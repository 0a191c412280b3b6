//! A file system of its own, in a file: it can be full, and lose its power. Needs root and a loop device.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "shutting a file system down is an ioctl without a safe wrapper")]
#![allow(dead_code, reason = "each test uses some of it")]

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// `EXT4_IOC_SHUTDOWN`, and to leave the log as it is.
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;

/// A file system in a file.
pub(crate) struct Device {
    image: PathBuf,
    mounted: PathBuf,
}

impl Device {
    /// Of so many bytes; none where this is not root, or has no loop device or `mkfs.ext4`.
    pub(crate) fn new(folder: &Path, bytes: u64) -> Option<Self> {
        let device = Self { image: folder.join("image"), mounted: folder.join("mounted") };
        std::fs::create_dir(&device.mounted).unwrap();
        File::create(&device.image).unwrap().set_len(bytes).unwrap();
        let image = device.image.to_string_lossy().into_owned();
        (run("mkfs.ext4", &["-q", "-F", &image]) && device.mount()).then_some(device)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.mounted.join("journal")
    }

    fn mount(&self) -> bool {
        run("mount", &["-o", "loop", &self.image.to_string_lossy(), &self.mounted.to_string_lossy()])
    }

    pub(crate) fn shut_down(&self) {
        let root = File::open(&self.mounted).unwrap();
        // SAFETY: this ioctl reads one `u32`.
        let cut = unsafe { rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH) };
        // SAFETY: the file system is ours, and ext4 knows the ioctl.
        unsafe { rustix::ioctl::ioctl(&root, cut) }.unwrap();
    }

    pub(crate) fn mount_again(&mut self) {
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
