//! Dnpipes of a test: served from the folder `data` of its folder, filled and read by the program.

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use super::{Folder, Running, run, sidestream, text};

/// `sidestream run YAML --data-dir data`, ready.
pub(crate) fn serve(folder: &Folder, yaml: &str) -> Running {
    let running = run(&folder.write("served.yaml", yaml), &["--data-dir", &data(folder)]);
    running.until_err("INFO ready");
    running
}

pub(crate) fn data(folder: &Folder) -> String {
    folder.path("data").display().to_string()
}

pub(crate) fn push(folder: &Folder, dnpipe: &str, lines: &str) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["push", dnpipe, "--patience", "60s", "--data-dir", &data(folder)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

pub(crate) fn pull(folder: &Folder, dnpipe: &str, more: &[&str]) -> String {
    let data = data(folder);
    let pulled = sidestream(&[&["pull", dnpipe, "--patience", "60s", "--data-dir", &data], more].concat());
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    text(&pulled.stdout)
}

/// Waits until `dnpipe` holds as many records as that, and gives them.
pub(crate) fn until(folder: &Folder, dnpipe: &str, count: usize) -> Vec<String> {
    for _ in 0..600 {
        let lines: Vec<String> = pull(folder, dnpipe, &[]).lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{dnpipe} has too few records: {}", pull(folder, dnpipe, &[]));
}

/// How many records of `dnpipe` the group has not acknowledged; none where there is no such group.
pub(crate) fn lag(folder: &Folder, dnpipe: &str, group: &str) -> Option<u64> {
    let data = data(folder);
    let said = text(&sidestream(&["group", "list", dnpipe, "--data-dir", &data]).stdout);
    let mut words = said.lines().filter(|line| line.starts_with(group)).map(str::split_whitespace);
    words.next().and_then(|mut words| words.nth(2)).and_then(|lag| lag.parse().ok())
}

/// Waits until everything is acknowledged.
pub(crate) fn until_nothing_is_left(folder: &Folder, dnpipe: &str, group: &str) {
    for _ in 0..600 {
        if lag(folder, dnpipe, group) == Some(0) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{group} still has {:?} of {dnpipe} to do", lag(folder, dnpipe, group));
}
