//! Files that are cut while they are read, as `copytruncate` does.

use std::fs;

use crate::world::{Folder, Reading};

#[test]
fn a_file_that_is_cut_is_read_from_its_start() {
    let folder = Folder::new();
    folder.append("app.log", "a first line\nand a second\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["a first line", "and a second"]);
    fs::copy(folder.path("app.log"), folder.path("app.log.1")).unwrap();
    fs::OpenOptions::new().write(true).open(folder.path("app.log")).unwrap().set_len(0).unwrap();
    folder.append("app.log", "new\n");
    reading.expect(&["new"]);
    folder.append("app.log", "more\n");
    reading.expect(&["more"]);
    assert_eq!(reading.stop(), [""; 0]);
}

#[test]
fn a_file_written_anew_and_longer_than_before_is_read_from_its_start() {
    let folder = Folder::new();
    folder.append("app.log", "old\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["old"]);
    fs::write(folder.path("app.log"), "a new and longer line\n").unwrap();
    reading.expect(&["a new and longer line"]);
    assert_eq!(reading.stop(), [""; 0]);
}

#[test]
fn a_line_begun_before_the_cut_is_not_lost() {
    let folder = Folder::new();
    folder.append("app.log", "whole\nbegun");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["whole"]);
    fs::write(folder.path("app.log"), "x\n").unwrap();
    reading.expect(&["begun", "x"]);
    reading.stop();
}

#[test]
fn a_restart_after_a_cut_begins_at_the_start_of_what_is_there() {
    let folder = Folder::new();
    folder.append("app.log", "one\ntwo\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["one", "two"]);
    reading.stop();
    fs::write(folder.path("app.log"), "three, which is longer than both\n").unwrap();
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["three, which is longer than both"]);
    reading.stop();
}
