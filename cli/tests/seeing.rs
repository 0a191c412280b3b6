//! What a running process answers about itself.

mod process;

use std::{
    io::Write,
    process::{Command, Stdio},
};

use process::{Running, folder, get, pipeline, run, sidestream, text};
use serde_json::Value;

const STAGES: [&str; 4] = [
    "name: tick, source: {generator: {rate: 200, keys: 2}}",
    "name: odd, process: {filter: {keep: event.key == 'k1'}}",
    "name: bad, process: {map: {body: \"{'n': 1 / 0}\"}}",
    "name: show, from: [odd], sink: {console: {}}",
];

fn seen() -> (process::Folder, Running) {
    let folder = folder();
    let last = "name: hole, from: [bad], sink: {blackhole: {}}";
    let stages: Vec<_> = STAGES.into_iter().chain([last]).collect();
    let running = run(&folder.write("a.yaml", &pipeline("a", &stages)), &[]);
    running.until_out("sequence=21");
    (folder, running)
}

#[test]
fn metrics_say_what_every_stage_ring_and_source_does() {
    let (_folder, running) = seen();
    let (status, metrics) = running.get("/metrics");
    assert!(status.contains("200"), "{status}");
    let value = |series: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(series))
            .unwrap_or_else(|| panic!("{series}:\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let stage = |name: &str, stage: &str, kind: &str| {
        value(&format!("{name}{{pipeline=\"default/a\",stage=\"{stage}\",kind=\"{kind}\""))
    };
    let (taken, kept) = (
        stage("sidestream_stage_events_in_total", "odd", "process/filter"),
        stage("sidestream_stage_events_out_total", "odd", "process/filter"),
    );
    assert!(taken >= 20.0 && (kept - taken / 2.0).abs() <= 1.0, "{taken} {kept}");
    assert!(stage("sidestream_stage_errors_total", "bad", "process/map") >= 5.0);
    assert!(stage("sidestream_stage_dropped_events_total", "bad", "process/map") >= 5.0);
    assert!(stage("sidestream_stage_events_out_total", "show", "sink/console") >= 10.0);
    assert!(value("sidestream_ring_limit_events{pipeline=\"default/a\",from=\"odd\",to=\"show\"}") == 8192.0);
    assert!(value("sidestream_source_lag_events{pipeline=\"default/a\",stage=\"tick\"}") < 100.0);
    assert!(value("sidestream_build_info{version=") == 1.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
}

#[test]
fn the_reference_has_every_path_that_is_answered_and_every_figure() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/endpoints.md"))
            .unwrap();
    let (_folder, running) = seen();
    for path in running.get("/").1.split_whitespace().map(|path| path.split('?').next().unwrap()) {
        assert!(page.contains(&format!("| `{path}` | ")), "{path}");
    }
    let stages: Value = serde_json::from_str(&running.get("/stages").1).unwrap();
    let pipeline = &stages["pipelines"][0];
    for map in [&stages, pipeline, &pipeline["stages"][0], &pipeline["rings"][0], &pipeline["ledger"]] {
        for name in map.as_object().unwrap().keys() {
            assert!(page.contains(name.as_str()), "{name}");
        }
    }
}

#[test]
fn no_metric_has_a_name_that_is_not_written_down() {
    let (_folder, running) = seen();
    let written = sidestream::observe::metric_names();
    for line in running.get("/metrics").1.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(written.iter().any(|own| own == name), "{name}");
    }
}

#[test]
fn promtool_accepts_the_metrics() {
    let (_folder, running) = seen();
    promtool(&running.get("/metrics").1);
}

/// Has promtool check them, where it is installed.
fn promtool(metrics: &str) {
    if Command::new("promtool").arg("--version").output().is_err() {
        return eprintln!("promtool is not installed: `apt install prometheus` brings it");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(said.status.success(), "{}{}", text(&said.stdout), text(&said.stderr));
}

#[test]
fn the_ledger_balances_while_events_flow() {
    let (_folder, running) = seen();
    for _ in 0..20 {
        let ledger: Value = serde_json::from_str(&running.get("/ledger").1).unwrap();
        assert_eq!(ledger["balanced"], true, "{ledger}");
        let own = &ledger["pipelines"][0]["ledger"];
        let sum: u64 = ["completed", "deadLettered", "expired", "dropped", "inFlight"]
            .iter()
            .map(|key| own[key].as_u64().unwrap())
            .sum();
        assert_eq!(own["accepted"].as_u64(), Some(sum), "{ledger}");
    }
}

#[test]
fn the_plan_that_runs_is_the_plan_that_is_shown() {
    let (folder, running) = seen();
    let shown = sidestream(&["plan", folder.path("a.yaml").to_str().unwrap(), "--format", "json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let runs: Value = serde_json::from_str(&running.get("/plan").1).unwrap();
    assert_eq!(shown, runs);
}

#[test]
fn a_tap_shows_live_events_to_one_looker_at_a_time() {
    let (_folder, running) = seen();
    for stage in ["tick", "odd", "show"] {
        let (status, lines) = running.get(&format!("/tap/{stage}?limit=3&seconds=20"));
        assert!(status.contains("200"), "{status}");
        let events: Vec<&str> = lines.lines().filter(|line| line.starts_with("{\"time\"")).collect();
        assert_eq!(events.len(), 3, "{stage}: {lines}");
        let event: Value = serde_json::from_str(events[0]).unwrap();
        assert_eq!(event["source"], "tick", "{lines}");
        assert!(event["body"]["sequence"].as_u64().unwrap() > 0, "{lines}");
    }
    let address = running.address();
    let long = std::thread::spawn(move || get(&address, "/tap/tick?limit=100000&seconds=1"));
    process::wait_a_moment();
    assert!(running.get("/tap/tick").0.contains("409"));
    assert!(long.join().unwrap().0.contains("200"));
    assert!(running.get("/tap/tick?limit=1").0.contains("200"));
    assert!(running.get("/tap/nobody").0.contains("404"));
    assert!(running.get("/tap/tick?seconds=-1").0.contains("400"));
}

#[test]
fn it_is_live_and_ready_and_not_ready_any_more_while_it_drains() {
    let folder = folder();
    let send = "name: send, sink: {webhook: {url: \"http://127.0.0.1:1/\"}}";
    let stages = ["name: tick, source: {generator: {rate: 100}}", send];
    let running = run(&folder.write("a.yaml", &pipeline("a", &stages)), &["--grace", "1h"]);
    assert!(running.get("/livez").0.contains("200") && running.get("/readyz").0.contains("200"));
    if cfg!(unix) {
        process::wait_a_moment();
        running.signal("TERM");
        running.until_err("draining");
        let (status, reason) = running.get("/readyz");
        assert!(status.contains("503") && reason.contains("draining"), "{status} {reason}");
        assert!(running.get("/livez").0.contains("200"));
    }
}

#[test]
fn top_prints_a_table_and_the_same_as_json() {
    let (_folder, running) = seen();
    let address = running.address();
    let table = text(&sidestream(&["top", &address, "--once", "--interval", "200ms"]).stdout);
    assert!(
        table.contains("STAGE") && table.contains("process/filter") && table.contains("in flight"),
        "{table}"
    );
    let json = sidestream(&["top", &address, "--once", "--json", "--interval", "500ms"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    let rate = json["pipelines"][0]["stages"][0]["inPerSecond"].as_f64().unwrap();
    assert!((50.0..800.0).contains(&rate), "{rate}");
}

#[test]
fn top_says_so_when_nobody_answers() {
    let ended = sidestream(&["top", "127.0.0.1:1", "--once"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("is `sidestream run` running"), "{}", text(&ended.stderr));
}

/// Also those of the journal, with promtool's opinion of them.
#[test]
fn metrics_say_how_dnpipes_and_their_groups_stand() {
    let folder = folder();
    let running = process::dnpipes::serve(
        &folder,
        "kind: Dnpipe\nmetadata: {name: orders}\nspec: {partitions: 2, storage: {size: 1Gi}, groups: [{name: billing}]}\n",
    );
    process::dnpipes::push(&folder, "orders", "one\ntwo\nthree\n");
    let metrics = running.get("/metrics").1;
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(series));
        line.unwrap_or_else(|| panic!("{series}:\n{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    let end = |partition: u8| {
        value(&format!("sidestream_dnpipe_end_offset{{dnpipe=\"default/orders\",partition=\"{partition}\"}}"))
    };
    assert_eq!(end(0) + end(1), 3.0);
    assert_eq!(value("sidestream_dnpipe_quota_bytes{dnpipe=\"default/orders\"}"), f64::from(1 << 30));
    assert!(value("sidestream_dnpipe_size_bytes{dnpipe=\"default/orders\"}") > 0.0);
    assert_eq!(
        value("sidestream_dnpipe_group_lag_records{dnpipe=\"default/orders\",group=\"billing\"}"),
        3.0
    );
    assert_eq!(value("sidestream_dnpipe_group_members{dnpipe=\"default/orders\",group=\"billing\"}"), 0.0);
    let (reserve, left) =
        (value("sidestream_journal_reserve_bytes"), value("sidestream_journal_reserve_left_bytes"));
    assert!(reserve > 0.0 && left == reserve, "{left} of {reserve}");
    assert!(value("sidestream_journal_barriers_total") >= 1.0);
    promtool(&metrics);
}
