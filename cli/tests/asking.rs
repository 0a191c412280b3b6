//! `check`, `plan` and `eval`: questions that start nothing.

mod process;

use process::{folder, pipeline, sidestream, text};
use serde_json::Value;

const TICK: &str = "name: tick, source: {generator: {rate: 100}}";
const SHOW: &str = "name: show, sink: {console: {}}";

#[test]
fn check_says_ok_or_everything_that_is_wrong() {
    let folder = folder();
    let good = folder.write("good.yaml", &pipeline("good", &[TICK, SHOW]));
    let ended = sidestream(&["check", good.to_str().unwrap()]);
    assert_eq!(
        (ended.status.code(), text(&ended.stdout).as_str()),
        (Some(0), "default/good: ok, 2 stages in 2 runs\n")
    );

    let stages = [TICK, "name: tick, process: {filter: {keep: event.}}", SHOW];
    let bad = folder.write("bad.yaml", &pipeline("bad", &stages));
    let ended = sidestream(&["check", bad.to_str().unwrap(), good.to_str().unwrap()]);
    let out = text(&ended.stdout);
    assert_eq!(ended.status.code(), Some(2));
    assert!(out.contains("error[duplicate-stage]") && out.contains("error[bad-expression]"), "{out}");
    assert!(out.contains("bad.yaml:7:") && out.contains("2 errors"), "{out}");
}

#[test]
fn check_tells_programs_the_same_as_json() {
    let folder = folder();
    let bad = folder.write("bad.yaml", &pipeline("bad", &[TICK, "name: show, sink: {consol: {}}"]));
    let ended = sidestream(&["check", bad.to_str().unwrap(), "/no/such.yaml", "--format", "json"]);
    let json: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((ended.status.code(), &json["ok"]), (Some(2), &Value::Bool(false)));
    let codes: Vec<_> =
        json["diagnostics"].as_array().unwrap().iter().map(|own| own["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["unreadable-file", "unknown-kind"]);
}

#[test]
fn a_plan_shows_the_edges_between_sidecars_and_who_owns_what_they_carry() {
    let folder = folder();
    let file = folder.write(
        "keyed.yaml",
        "kind: Pipeline
metadata: {name: keyed}
spec:
  sidecars: [{name: app, workload: {}}, {name: hub, workload: {replicas: 3}, transport: Quic}, {name: end, workload: {}}]
  stages:
  - {name: tick, sidecar: app, source: {generator: {}}}
  - {name: once, sidecar: hub, process: {dedupe: {by: event.key, window: 1m}}}
  - {name: show, sidecar: end, sink: {console: {}}}
",
    );
    let out = text(&sidestream(&["plan", file.to_str().unwrap()]).stdout);
    assert!(out.contains("│  tick->once  app ═▶ hub, 3 pods share the keys of event.key, Quic\n"), "{out}");
    assert!(out.contains("│  once->show  hub ═▶ end\n"), "{out}");
}

#[test]
fn a_plan_shows_what_is_fused_and_where_rings_are() {
    let folder = folder();
    let stages = [
        TICK,
        "name: keep, process: {filter: {keep: event.value > 1.0}}",
        "name: big, when: event.value > 50.0, sink: {console: {}}",
        "name: rest, from: [keep], otherwise: true, input: {capacity: 64, overflow: DropOldest}, sink: {blackhole: {}}",
    ];
    let file = folder.write("a.yaml", &pipeline("a", &stages));
    let out = text(&sidestream(&["plan", file.to_str().unwrap()]).stdout);
    let expected = "\
default/a: 4 stages in 3 runs, 2 rings
╭─ run 1
│  tick  source/generator  {rate: 100.0}
│  keep  process/filter    {keep: event.value > 1.0}
╰─
╭─ run 2
│  ◀═ keep, ring of 8192 events, Block, when event.value > 50.0
│  big   sink/console      {}
╰─
╭─ run 3
│  ◀═ keep, ring of 64 events, DropOldest, otherwise
│  rest  sink/blackhole    {}
╰─
";
    assert_eq!(out, expected);

    let out = text(&sidestream(&["plan", file.to_str().unwrap(), "--format", "mermaid"]).stdout);
    assert!(out.contains("subgraph run1") && out.contains("s0 --> s1"), "{out}");
    assert!(out.contains("s1 ==>|\"ring of 64 events, DropOldest, otherwise\"| s3"), "{out}");
}

#[test]
fn eval_gives_the_value_to_be_piped_on_and_its_type_beside_it() {
    let eval = |arguments: &[&str]| {
        let ended = sidestream(&[&["eval"], arguments].concat());
        (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
    };
    let event = r#"{"status": 503, "path": "/cart"}"#;
    assert_eq!(
        eval(&["event.status >= 500", "--event", event]),
        (Some(0), "true\n".into(), "type: bool\n".into())
    );
    let made = eval(&["{'p': event.path, 'n': event.status / 100}", "--event", event]);
    assert_eq!((made.1.as_str(), made.2.as_str()), ("{\"p\":\"/cart\",\"n\":5}\n", "type: map\n"));

    let (code, _, err) = eval(&["event.status >="]);
    assert!(code == Some(2) && err.contains("1 | event.status >=\n") && err.contains('^'), "{err}");
    let (code, _, err) = eval(&["event.statu", "--event", event]);
    assert!(code == Some(1) && err.contains("there are status, path"), "{err}");
    let (code, _, err) = eval(&["event", "--event", "{"]);
    assert!(code == Some(2) && err.contains("not JSON"), "{err}");
}
