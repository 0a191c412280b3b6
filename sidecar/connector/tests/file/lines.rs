//! Lines no log should have.

use std::{fs::File, io::Write, os::unix::fs::FileExt};

use sidestream_connector::ERROR_HEADER;
use sidestream_event::Value;

use crate::world::{Folder, Reading};

#[test]
fn a_line_that_is_no_utf8_comes_as_its_bytes_between_its_neighbours() {
    let folder = Folder::new();
    File::create(folder.path("app.log")).unwrap().write_all(b"before\n\xc3\x28\nafter\n").unwrap();
    let mut stage = folder.stage(&["app.log"]);
    stage.follow = Some(false);
    let mut reading = Reading::start(stage);
    let batch = loop {
        if let Some(batch) = reading.batches.try_recv() {
            break batch;
        }
        std::thread::yield_now();
    };
    let bodies: Vec<_> = batch.events().iter().map(|event| event.body.clone()).collect();
    assert_eq!(bodies, ["before".into(), Value::Bytes((&b"\xc3\x28"[..]).into()), "after".into()]);
    reading.end();
}

#[test]
fn a_line_of_a_gibibyte_does_not_grow_memory_and_the_next_line_is_whole() {
    let folder = Folder::new();
    // A hole takes no space on the disk and reads as zeros.
    let file = File::create(folder.path("app.log")).unwrap();
    file.write_all_at(b"first\n", 0).unwrap();
    file.write_all_at(b"\nlast\n", 6 + (1 << 30)).unwrap();
    let before = resident_bytes();
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    let mut events = Vec::new();
    let mut most = before;
    while events.len() < 3 {
        most = most.max(resident_bytes());
        if let Some(batch) = reading.batches.try_recv() {
            events.extend(batch.events().to_vec());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    reading.stop();
    assert_eq!(events[0].body, "first".into());
    assert_eq!(events[1].body, Value::Bytes(vec![0; 1024].into()));
    let why = events[1].meta.header(ERROR_HEADER).unwrap();
    assert_eq!(why, "line of 1073741824 bytes, more than the 1048576 of `maxLine`");
    assert_eq!(events[2].body, "last".into());
    assert!(most - before < 64 << 20, "grew by {} bytes", most - before);
}

/// Memory of this process; the tests beside this one are small.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
