//! Files that are renamed, removed, and come again.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::world::{Folder, Reading, append};

#[test]
fn a_renamed_file_is_read_to_its_end_and_then_its_successor() {
    let folder = Folder::new();
    folder.append("app.log", "one\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["one"]);
    folder.append("app.log", "two\n");
    folder.rename("app.log", "app.log.1");
    folder.append("app.log", "three\n");
    reading.expect(&["two", "three"]);
    assert_eq!(reading.stop(), [""; 0]);
}

#[test]
fn a_writer_that_still_has_the_renamed_file_open_is_heard() {
    let folder = Folder::new();
    let mut writer = OpenOptions::new().create(true).append(true).open(folder.path("app.log")).unwrap();
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    writer.write_all(b"before\n").unwrap();
    reading.expect(&["before"]);
    folder.rename("app.log", "app.log.1");
    folder.append("app.log", "new\n");
    reading.expect(&["new"]);
    writer.write_all(b"straggler\n").unwrap();
    reading.expect(&["straggler"]);
    reading.stop();
}

#[test]
fn nothing_is_lost_or_repeated_or_reordered_while_a_busy_file_is_rotated_again_and_again() {
    let folder = Folder::new();
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    let path = folder.path("app.log");
    let seen = Arc::new(Mutex::new(0));
    let seen_by_writer = seen.clone();
    let writer = thread::spawn(move || {
        for round in 0..20 {
            for part in 0..10 {
                let numbers = (0..100).map(|n| round * 1000 + part * 100 + n);
                append(&path, &numbers.map(|n| format!("line {n}\n")).collect::<String>());
                thread::sleep(Duration::from_millis(2));
            }
            // A file that comes and goes between two looks is not seen: it stays until it was.
            while *seen_by_writer.lock().unwrap() <= round * 1000 {
                thread::sleep(Duration::from_millis(1));
            }
            for old in (1..3).rev() {
                let name = |number| path.with_extension(format!("log.{number}"));
                let _ = fs::rename(name(old), name(old + 1));
            }
            fs::rename(&path, path.with_extension("log.1")).unwrap();
        }
    });
    reading.until(|lines| {
        *seen.lock().unwrap() = lines.len();
        lines.len() >= 20_000
    });
    writer.join().unwrap();
    let expected: Vec<_> = (0..20_000).map(|n| format!("line {n}")).collect();
    assert!(reading.stop() == expected, "the lines differ from those written");
}

#[test]
fn a_file_renamed_to_a_name_that_matches_too_is_not_read_again() {
    let folder = Folder::new();
    folder.append("app.log", "one\n");
    let mut reading = Reading::start(folder.stage(&["app.log*"]));
    reading.expect(&["one"]);
    folder.rename("app.log", "app.log.1");
    folder.append("app.log", "two\n");
    reading.expect(&["two"]);
    folder.append("app.log.1", "late\n");
    reading.expect(&["late"]);
    assert_eq!(reading.stop(), [""; 0]);
}

#[test]
fn files_that_appear_later_or_come_back_are_read_from_their_start() {
    let folder = Folder::new();
    let mut reading = Reading::start(folder.stage(&["app.log", "other.log"]));
    thread::sleep(Duration::from_millis(50));
    folder.append("app.log", "one\n");
    reading.expect(&["one"]);
    folder.append("other.log", "two\n");
    reading.expect(&["two"]);
    fs::remove_file(folder.path("app.log")).unwrap();
    thread::sleep(Duration::from_millis(300));
    folder.append("app.log", "three\n");
    reading.expect(&["three"]);
    reading.stop();
}

#[test]
fn an_event_carries_its_path_where_there_can_be_several() {
    let folder = Folder::new();
    folder.append("a.log", "one\n");
    let header_of = |names: &[&str]| {
        let mut stage = folder.stage(names);
        (stage.follow, stage.checkpoint) = (Some(false), None);
        let mut reading = Reading::start(stage);
        let batch = loop {
            if let Some(batch) = reading.batches.try_recv() {
                break batch;
            }
            thread::yield_now();
        };
        let header = batch.events()[0].meta.header("file").map(str::to_owned);
        reading.end();
        header
    };
    let path = folder.path("a.log").to_str().unwrap().to_owned();
    assert_eq!(header_of(&["*.log"]), Some(path.clone()));
    assert_eq!(header_of(&["a.log", "a.log"]), Some(path));
    assert_eq!(header_of(&["a.log"]), None);
}
