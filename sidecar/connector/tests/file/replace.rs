//! A source that takes another's place goes on where that one stopped.

use std::{thread, time::Duration};

use sidestream_plan::{Size, stage::FileSource};

use crate::world::{Folder, Reading};

fn with_max_line(stage: FileSource, bytes: u64) -> FileSource {
    FileSource { max_line: Some(Size::from_bytes(bytes)), ..stage }
}

#[test]
fn lines_that_were_refused_at_the_stop_are_brought_by_the_next() {
    let folder = Folder::new();
    // More than the ring takes, so that the source waits with a batch in its hand.
    let lines: Vec<_> = (0..60_000).map(|n| format!("line {n:05}")).collect();
    folder.append("app.log", &(lines.join("\n") + "\n"));
    let stage = || folder.stage(&["app.log"]);
    let mut reading = Reading::start(stage());
    for bytes in [2_000, 3_000, 2_000] {
        thread::sleep(Duration::from_millis(50));
        let (next, goes_on) = reading.replace(with_max_line(stage(), bytes));
        assert!(goes_on);
        reading = next;
    }
    let expected: Vec<_> = lines.iter().map(String::as_str).collect();
    reading.expect(&expected);
    assert_eq!(reading.stop(), [""; 0]);
    folder.append("app.log", "after\n");
    let mut reading = Reading::start(stage());
    reading.expect(&["after"]);
    reading.stop();
}

#[test]
fn a_begun_line_is_taken_whole_and_cut_as_the_new_limit_says() {
    let folder = Folder::new();
    folder.append("app.log", "one\nbegun");
    let stage = || folder.stage(&["app.log"]);
    let mut reading = Reading::start(stage());
    reading.expect(&["one"]);
    thread::sleep(Duration::from_millis(50));
    let (mut reading, _) = reading.replace(with_max_line(stage(), 10));
    folder.append("app.log", " and ended\nshort\n");
    // The first is longer than a line may be now, and comes as an error event with as much of it as is kept.
    reading.until(|seen| seen.len() == 2);
    let (mut reading, _) = reading.replace(stage());
    folder.append("app.log", "a line of more than ten bytes\n");
    reading.until(|seen| seen.len() == 3);
    assert_eq!(reading.stop()[1..], ["short", "a line of more than ten bytes"]);
}

#[test]
fn files_that_are_not_named_any_more_are_left_and_new_ones_are_met() {
    let folder = Folder::new();
    folder.append("a.log", "a1\n");
    folder.append("b.log", "b1\n");
    let mut reading = Reading::start(folder.stage(&["a.log", "b.log"]));
    reading.expect(&["a1", "b1"]);
    folder.append("c.log", "c1\n");
    let (mut reading, _) = reading.replace(folder.stage(&["b.log", "c.log"]));
    folder.append("a.log", "a2\n");
    reading.expect(&["c1"]);
    folder.append("b.log", "b2\n");
    reading.expect(&["b2"]);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(reading.stop(), [""; 0]);
}

#[test]
fn another_checkpoint_is_another_memory() {
    let folder = Folder::new();
    folder.append("app.log", "one\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["one"]);
    let other = folder.path("other").to_str().unwrap().to_owned();
    let stage = FileSource { checkpoint: Some(other), ..folder.stage(&["app.log"]) };
    let (mut reading, goes_on) = reading.replace(stage);
    assert!(!goes_on);
    reading.expect(&["one"]);
    reading.stop();
}

#[test]
fn a_source_does_not_read_the_checkpoint_it_writes_itself() {
    let folder = Folder::new();
    folder.append("app.log", "one\n");
    let mut reading = Reading::start(folder.stage(&["*"]));
    reading.expect(&["one"]);
    // It is looked for, and written, more than once in this time.
    thread::sleep(Duration::from_millis(1_300));
    folder.append("app.log", "two\n");
    reading.expect(&["two"]);
    thread::sleep(Duration::from_millis(600));
    assert!(folder.path("checkpoint").exists());
    assert_eq!(reading.stop(), [""; 0]);
}
