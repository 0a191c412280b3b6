//! `sidestream run`, from its start to its end.

mod process;

use std::{
    net::TcpListener,
    process::{Command, Stdio},
};

use process::{folder, pipeline, run, run_unread, sidestream, text, wait_a_moment};

const TICK: &str = "name: tick, source: {generator: {rate: 100}}";
const SHOW: &str = "name: show, sink: {console: {format: JSON}}";

#[test]
fn hello_runs_and_prints() {
    let running = run(std::path::Path::new("../manifests/examples/hello.yaml"), &[]);
    running.until_out("tick  sequence=3 key=k0").until_err("pipelines=\"default/hello\" stages=2");
}

#[test]
fn a_pipeline_whose_sources_end_ends_the_process_well() {
    let folder = folder();
    let stages = ["name: tick, source: {generator: {count: 1000}}", SHOW];
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &stages)), &[]);
    assert!(running.end().success());
    assert_eq!(running.out().lines().count(), 1000);
    assert!(running.err().contains("accepted=1000 completed=1000"), "{}", running.err());
}

#[test]
fn the_end_of_the_standard_input_ends_the_process_and_every_line_is_out() {
    let folder = folder();
    let stages = ["name: lines, source: {stdin: {}}", "name: out, sink: {console: {format: JSON}}"];
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &stages)), &[]);
    let mut input = running.stdin.take().unwrap();
    for line in 0..500 {
        std::io::Write::write_all(&mut input, format!("line {line}\n").as_bytes()).unwrap();
    }
    drop(input);
    assert!(running.end().success());
    let out = running.out();
    assert_eq!((out.lines().count(), out.lines().last()), (500, Some("{\"body\":\"line 499\"}")));
}

#[test]
fn a_bad_file_is_told_with_all_its_mistakes_and_nothing_is_started() {
    let folder = folder();
    let good = folder.write("good.yaml", &pipeline("good", &[TICK, SHOW]));
    let stages =
        ["name: tik, source: {generator: {rats: 1}}", "name: show, from: [tick], sink: {consol: {}}"];
    let bad = folder.write("bad.yaml", &pipeline("bad", &stages));
    let ended = sidestream(&["run", good.to_str().unwrap(), bad.to_str().unwrap(), "/no/such/file.yaml"]);
    let err = text(&ended.stderr);
    assert_eq!((ended.status.code(), text(&ended.stdout).as_str()), (Some(2), ""));
    for told in ["unknown-field", "unknown-kind", "unreadable-file", "bad.yaml:6", "nothing was started"] {
        assert!(err.contains(told), "{told} in:\n{err}");
    }
    assert!(!err.contains("INFO ready"), "{err}");
}

#[test]
fn bad_usage_ends_with_2_and_says_what_to_write() {
    for bad in [
        &["run"][..],
        &["rum"],
        &["run", "x.yaml", "--grace", "soon"],
        &["run", "x.yaml", "--workers", "0"],
        &["run", "x.yaml", "--metrics", "foo"],
        &["run", "x.yaml", "--metrics", "127.0.0.1:70000"],
        &["run", "x.yaml", "--secrets", "/no/such/folder"],
        &["top", "nowhere"],
        &["top", "--json"],
        &["eval", "1", "--event", "@/no/such/file"],
    ] {
        let ended = sidestream(bad);
        assert_eq!(ended.status.code(), Some(2), "{bad:?}: {}", text(&ended.stderr));
    }
    assert!(
        text(&sidestream(&["run", "x", "--grace", "soon"]).stderr).contains("write a number with a unit")
    );
}

#[test]
fn a_dry_run_shows_the_plan_and_starts_nothing() {
    let folder = folder();
    let file = folder.write("a.yaml", &pipeline("a", &[TICK, SHOW]));
    let ended = sidestream(&["run", file.to_str().unwrap(), "--dry-run"]);
    let out = text(&ended.stdout);
    assert!(
        ended.status.success() && out.contains("╭─ run 1") && out.contains("nothing was started"),
        "{out}"
    );
}

#[test]
#[cfg(unix)]
fn sigterm_drains_and_ends_well() {
    let folder = folder();
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &[TICK, SHOW])), &[]);
    running.until_out("\"sequence\":20,");
    running.signal("TERM");
    assert!(running.end().success(), "{}", running.err());
    let delivered = running.out().lines().count();
    assert!(
        running.err().contains(&format!("accepted={delivered} completed={delivered}")),
        "{}",
        running.err()
    );
}

#[test]
#[cfg(unix)]
fn what_could_not_be_delivered_in_time_is_said_and_the_process_ends_with_1() {
    let folder = folder();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let send = format!("name: send, sink: {{webhook: {{url: \"http://{address}/\"}}}}");
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &[TICK, &send])), &["--grace", "300ms"]);
    running.until_err("ready");
    wait_a_moment();
    running.signal("INT");
    assert_eq!(running.end().code(), Some(1));
    let err = running.err();
    assert!(
        err.contains("not delivered") && err.contains("stage=\"send\"") && err.contains("in_flight="),
        "{err}"
    );
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_at_once() {
    let folder = folder();
    let send = "name: send, sink: {webhook: {url: \"http://127.0.0.1:1/\"}}";
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &[TICK, send])), &["--grace", "1h"]);
    running.until_err("ready");
    wait_a_moment();
    running.signal("TERM");
    running.until_err("draining");
    assert!(running.is_running());
    running.signal("TERM");
    assert_eq!(running.end().code(), Some(1));
}

#[test]
fn a_watched_file_that_changes_is_taken_over() {
    let folder = folder();
    let file = folder.write("a.yaml", &pipeline("a", &[TICK, SHOW]));
    let running = run(&file, &["--watch"]);
    running.until_out("\"sequence\":5,");
    let mark = "name: mark, process: {set: {fields: {marked: \"true\"}}}";
    folder.write("a.yaml", &pipeline("a", &[TICK, mark, SHOW]));
    running.until_err("reloaded").until_out("\"marked\":true");
    // The source was kept, so its numbers go on, with none left out and none twice.
    let out = running.out();
    for (line, expected) in out.lines().zip(0..) {
        assert!(line.starts_with(&format!("{{\"sequence\":{expected},")), "{line} is not number {expected}");
    }
    let more =
        pipeline("a", &[TICK, SHOW]) + "---\n" + &pipeline("b", &[TICK, "name: hole, sink: {blackhole: {}}"]);
    folder.write("a.yaml", &more);
    running.until_err("started pipeline=\"default/b\"");
    assert!(running.get("/metrics").1.contains("pipeline=\"default/b\""));
    folder.write("a.yaml", &pipeline("a", &[TICK, SHOW]));
    running.until_err("stopped pipeline=\"default/b\"");
    assert!(!running.get("/metrics").1.contains("pipeline=\"default/b\""));
}

#[test]
#[cfg(unix)]
fn a_bad_reload_keeps_the_old_plan_and_says_why() {
    let folder = folder();
    let file = folder.write("a.yaml", &pipeline("a", &[TICK, SHOW]));
    let mut running = run(&file, &[]);
    running.until_out("\"sequence\":5,");
    folder.write("a.yaml", &pipeline("a", &["name: tick, source: {generator: {rate: fast}}", SHOW]));
    running.signal("HUP");
    running.until_err("wrong-type").until_err("what was running goes on");
    let seen = running.out().lines().count();
    running.until_out(&format!("\"sequence\":{},", seen + 20));
    assert!(running.is_running());
    // And one that compiles but cannot be made: nobody gave it secrets.
    let send = "name: show, sink: {webhook: {url: \"http://127.0.0.1:1/\", credentials: {secretRef: {name: a, key: b}}}}";
    folder.write("a.yaml", &pipeline("a", &[TICK, send]));
    running.signal("HUP");
    running.until_err("not reloaded").until_err("--secrets DIR");
    let seen = running.out().lines().count();
    running.until_out(&format!("\"sequence\":{},", seen + 20));
}

#[test]
fn a_port_in_use_is_said_with_the_cure_and_nothing_is_started() {
    let folder = folder();
    let file = folder.write("a.yaml", &pipeline("a", &[TICK, SHOW]));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let ended = sidestream(&["run", file.to_str().unwrap(), "--metrics", &address]);
    let err = text(&ended.stderr);
    assert_eq!((ended.status.code(), text(&ended.stdout).as_str()), (Some(1), ""));
    assert!(err.contains(&address) && err.contains("in use") && err.contains("--metrics off"), "{err}");
}

#[test]
fn a_reader_that_goes_away_is_the_end_and_no_error() {
    let folder = folder();
    // Without an end of its own: who is left to read it?
    let stages = ["name: tick, source: {generator: {rate: 1000}}", SHOW];
    let file = folder.write("a.yaml", &pipeline("a", &stages));
    let program = env!("CARGO_BIN_EXE_sidestream");
    for command in [
        format!("{program} run {} --metrics off | head -1", file.display()),
        format!("{program} plan {} | head -1", file.display()),
        format!("{program} check {} | true", file.display()),
        format!("{program} eval 1 | true"),
    ] {
        let shell = Command::new("bash")
            .args(["-o", "pipefail", "-c", &command])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let err = text(&shell.stderr);
        assert!(shell.status.success() && !err.contains("panicked"), "{command}: {err}");
        assert!(!command.contains(" run ") || err.contains("the standard output has gone"), "{err}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_also_a_source_that_waits_in_a_read() {
    let folder = folder();
    let stages = ["name: lines, source: {stdin: {}}", "name: out, sink: {console: {}}"];
    let mut running = run_unread(&folder.write("a.yaml", &pipeline("a", &stages)), &[]);
    let mut input = running.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"nobody reads this\n").unwrap();
    // The input stays open: only the standard output has gone.
    assert!(running.end().success(), "{}", running.err());
    assert!(running.err().contains("dropped=1"), "{}", running.err());
}

#[test]
fn a_file_that_is_not_there_to_be_read_to_its_end_ends_the_start_with_its_cure() {
    let folder = folder();
    let source =
        format!("name: log, source: {{file: {{paths: [{:?}], follow: false}}}}", folder.path("none.log"));
    let file = folder.write("a.yaml", &pipeline("a", &[&source, SHOW]));
    let ended = sidestream(&["run", file.to_str().unwrap(), "--metrics", "off"]);
    let err = text(&ended.stderr);
    assert_eq!((ended.status.code(), text(&ended.stdout).as_str()), (Some(1), ""));
    assert!(err.contains("stage `log`: cannot read") && err.contains("leave `follow` out"), "{err}");
    assert!(!err.contains("INFO ready"), "{err}");
}

#[test]
fn a_pattern_that_matches_nothing_and_is_not_followed_ends_and_says_so() {
    let folder = folder();
    let source =
        format!("name: log, source: {{file: {{paths: [{:?}], follow: false}}}}", folder.path("*.log"));
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &[&source, SHOW])), &[]);
    assert!(running.end().success());
    assert!(running.err().contains("no file matches `paths`"), "{}", running.err());
}

#[test]
fn a_port_of_a_source_that_is_in_use_ends_the_start_with_its_cure() {
    let folder = folder();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let hook = format!("name: hook, source: {{http: {{listen: \"{address}\"}}}}");
    let file = folder.write("a.yaml", &pipeline("a", &[&hook, SHOW]));
    let ended = sidestream(&["run", file.to_str().unwrap(), "--metrics", "off"]);
    let err = text(&ended.stderr);
    assert_eq!((ended.status.code(), text(&ended.stdout).as_str()), (Some(1), ""));
    for told in ["stage `hook`", &address.to_string(), "in use", "write another in `listen`"] {
        assert!(err.contains(told), "{told}: {err}");
    }
    assert!(!err.contains("INFO ready"), "{err}");
}

#[test]
fn a_dead_letter_shows_on_the_console_which_stage_failed_and_why() {
    let folder = folder();
    let stages = [
        "name: lines, source: {stdin: {}}",
        "name: fields, process: {parse: {json: {}}}, onError: {deadLetter: odd}",
        "name: out, sink: {blackhole: {}}",
        "name: odd, from: [], sink: {console: {}}",
    ];
    let mut running = run(&folder.write("a.yaml", &pipeline("a", &stages)), &[]);
    let mut input = running.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"{\"a\":1}\nno JSON\n").unwrap();
    drop(input);
    assert!(running.end().success());
    let out = running.out();
    assert!(out.trim_end().contains("lines  no JSON  -- fields: not JSON: "), "{out}");
    assert_eq!(out.lines().count(), 1);
}

#[test]
fn logs_can_be_json_from_the_first_line_to_the_last() {
    let folder = folder();
    let stages = ["name: tick, source: {generator: {count: 5}}", SHOW];
    let file = folder.write("a.yaml", &pipeline("a", &stages));
    let ended = sidestream(&["run", file.to_str().unwrap(), "--metrics", "off", "--log-format", "json"]);
    let err = text(&ended.stderr);
    let lines: Vec<serde_json::Value> =
        err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines[0]["message"], "ready");
    assert_eq!(lines.last().unwrap()["accepted"], 5);
}
