//! What a restart repeats, and that it loses nothing.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use sidestream_connector::{Source, build};
use sidestream_event::Batch;
use sidestream_host::Random;
use sidestream_plan::{self as plan, stage::ReadFrom};

use crate::world::{Folder, Reading, env, line};

#[test]
fn a_restart_goes_on_after_the_last_delivered_line() {
    let folder = Folder::new();
    folder.append("app.log", "one\ntwo\nhalf");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["one", "two"]);
    reading.stop();
    folder.append("app.log", " and half\nthree\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["half and half", "three"]);
    assert_eq!(reading.stop(), [""; 0]);
}

#[test]
fn a_crash_at_any_moment_repeats_lines_and_loses_none() {
    let folder = Folder::new();
    let lines: Vec<_> = (0..20_000).map(|n| format!("line {n:05}")).collect();
    folder.append("app.log", &(lines.join("\n") + "\n"));
    let mut random = Random::seeded(7);
    let mut delivered = BTreeSet::new();
    for _ in 0..12 {
        let mut reading = Reading::start(folder.stage(&["app.log"]));
        let mut held: Vec<Batch> = Vec::new();
        for _ in 0..random.below(12) {
            let Some(batch) = next_batch(&mut reading) else { break };
            // What is held is not delivered, and neither is anything after it.
            match random.below(4) {
                0 => held.push(batch),
                _ => delivered.extend(lines_of(batch)),
            }
        }
        thread::sleep(Duration::from_millis(random.below(20)));
        let left = fs::read(folder.path("checkpoint"));
        // In order: what the stop delivers and remembers is undone, as if the process had been killed before.
        reading.stop();
        drop(held);
        fs::write(folder.path("checkpoint"), left.unwrap_or_default()).unwrap();
    }
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    while let Some(batch) = next_batch(&mut reading) {
        delivered.extend(lines_of(batch));
    }
    reading.stop();
    assert_eq!(delivered.len(), lines.len());
}

/// The lines of a batch, delivered.
fn lines_of(mut batch: Batch) -> Vec<String> {
    let lines = batch.events().iter().map(line).collect();
    batch.finish();
    lines
}

/// The next batch; none where nothing comes for half a second.
fn next_batch(reading: &mut Reading) -> Option<Batch> {
    (0..100).find_map(|_| {
        let batch = reading.batches.try_recv();
        if batch.is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        batch
    })
}

#[test]
fn lines_that_were_in_flight_when_the_source_stopped_come_again_and_no_others() {
    let folder = Folder::new();
    folder.append("app.log", "one\ntwo\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["one", "two"]);
    folder.append("app.log", "three\n");
    let held = next_batch(&mut reading).unwrap();
    folder.append("app.log", "four\n");
    reading.expect(&["four"]);
    reading.stop();
    drop(held);
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["three", "four"]);
    reading.stop();
}

#[test]
fn a_file_renamed_while_nobody_looked_is_read_to_its_end_first() {
    let folder = Folder::new();
    folder.append("app.log", "one\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["one"]);
    reading.stop();
    folder.append("app.log", "two\n");
    folder.rename("app.log", "app.log.1");
    folder.append("app.log", "three\n");
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    reading.expect(&["two", "three"]);
    reading.stop();
    let mut reading = Reading::start(folder.stage(&["app.log"]));
    folder.append("app.log", "four\n");
    reading.expect(&["four"]);
    reading.stop();
}

#[test]
fn reading_from_the_end_skips_what_was_there_once_and_nothing_after_a_restart() {
    let folder = Folder::new();
    folder.append("app.log", "old\n");
    let stage = || {
        let mut stage = folder.stage(&["app.log"]);
        stage.read_from = Some(ReadFrom::End);
        stage
    };
    let reading = Reading::start(stage());
    while !folder.path("checkpoint").exists() {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(reading.stop(), [""; 0]);
    folder.append("app.log", "new\n");
    folder.rename("app.log", "app.log.1");
    folder.append("app.log", "newer\n");
    let mut reading = Reading::start(stage());
    reading.expect(&["new", "newer"]);
    reading.stop();
}

#[test]
fn without_follow_it_ends_after_the_last_line_and_remembers_that() {
    let folder = Folder::new();
    folder.append("a.log", "one\n");
    folder.append("b.log", "two, not ended");
    let stage = || {
        let mut stage = folder.stage(&["*.log"]);
        stage.follow = Some(false);
        stage
    };
    assert_eq!(Reading::start(stage()).end(), ["one", "two, not ended"]);
    assert_eq!(Reading::start(stage()).end(), [""; 0]);
}

#[test]
fn what_cannot_be_done_is_said_with_its_cure() {
    let folder = Folder::new();
    let mut stage = folder.stage(&["app.log"]);
    stage.checkpoint = Some("/no/such/folder/checkpoint".into());
    let error = build::source(&plan::Source::File(stage), &env()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "`checkpoint`: the folder of /no/such/folder/checkpoint does not exist; create it"
    );
    let stage = folder.stage(&[]);
    assert!(build::source(&plan::Source::File(stage), &env()).is_err());
    assert!(matches!(
        build::source(&plan::Source::File(folder.stage(&["x"])), &env()),
        Ok(Source::Blocking(_))
    ));
}

#[test]
fn what_is_not_there_to_be_read_to_its_end_is_said_before_anything_runs() {
    let folder = Folder::new();
    let open = |stage| match build::source(&plan::Source::File(stage), &env()) {
        Ok(mut source) => source.open().map_err(|failure| failure.to_string()),
        Err(error) => panic!("{error}"),
    };
    let not_followed = |names: &[&str]| {
        let mut stage = folder.stage(names);
        stage.follow = Some(false);
        stage
    };
    fs::create_dir(folder.path("folder")).unwrap();
    for (name, why) in [
        ("none.log", "none.log: it or its folder does not exist"),
        ("none/*.log", "none: it or its folder does not exist"),
        ("folder", "folder is no regular file"),
    ] {
        let error = open(not_followed(&[name])).unwrap_err();
        assert!(error.contains(why) && error.contains("leave `follow` out to wait for it"), "{error}");
    }
    folder.append("app.log", "one\n");
    assert_eq!(open(not_followed(&["app.log", "*.txt"])), Ok(()));
    assert_eq!(open(folder.stage(&["none.log"])), Ok(()), "what is followed may come");
    folder.append("checkpoint", "no checkpoint");
    assert!(open(folder.stage(&["app.log"])).unwrap_err().contains("remove it to begin anew"));
}
