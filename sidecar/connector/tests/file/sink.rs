//! A file sink whose device is full: on a file system of 64 KiB, which only root may mount.

use std::{fs, path::Path, process::Command};

use sidestream_connector::Undelivered;
use sidestream_event::{Batch, Event, Mark};
use sidestream_plan::stage;

use crate::world::sink;

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(SmallDisk(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

fn batch(count: usize, width: usize) -> Batch {
    Batch::of((0..count).map(|n| Event::new(format!("{n:0width$}"))).collect(), Mark::none())
}

#[test]
fn a_batch_that_did_not_fit_leaves_no_trace_and_is_whole_after_a_retry() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not run: a tmpfs could not be mounted; run as root");
        return;
    };
    let path = disk.path().join("out.log");
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![0; 40 << 10]).unwrap();
    let stage = stage::FileSink {
        path: path.to_str().unwrap().into(),
        rotate_at: None,
        keep: None,
        sync: Some(true),
    };
    let mut sink = sink(stage);
    sink.deliver(&batch(10, 9)).unwrap();
    let large = batch(300, 99);
    for _ in 0..3 {
        let Err(Undelivered::Retry { reason, .. }) = sink.deliver(&large) else { panic!("delivered") };
        assert_eq!(reason, format!("cannot write {}: no space left on device", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().len(), 100, "cut back to the batch before");
    }
    fs::remove_file(&filler).unwrap();
    sink.deliver(&large).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written.lines().count(), 310);
    assert!(written.lines().skip(10).all(|line| line.len() == 99));
}
