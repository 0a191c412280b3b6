//! What stands in `manifests/` is true: examples compile, rules and dashboard name metrics that exist.

mod process;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests");

#[test]
fn every_example_compiles() {
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(MANIFESTS).join("examples")).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let compiled = sidestream_crds::compile(&fs::read(&path).unwrap(), &path.display().to_string());
        let worse: Vec<_> = compiled
            .diagnostics
            .iter()
            .filter(|own| own.severity != sidestream_crds::Severity::Note)
            .collect();
        assert!(compiled.is_ok() && worse.is_empty(), "{worse:#?}");
        assert!(compiled.pipelines.iter().all(|own| own.plan.is_some()), "{}", path.display());
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(compiled.pipelines[0].resource.metadata.name.as_deref(), Some(stem.as_str()));
        names.push(stem);
    }
    for name in ["hello", "this-machine", "latency-watch", "tail-logs", "http-in"] {
        assert!(names.iter().any(|own| own == name), "{name}");
    }
}

#[test]
fn the_order_of_the_http_example_is_taken_as_its_comment_sends_it() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("curl is not installed");
    }
    let text = fs::read_to_string(Path::new(MANIFESTS).join("examples/http-in.yaml")).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let text = text.replace("127.0.0.1:8080", &address);
    let folder = process::folder();
    let running = process::run(&folder.write("http-in.yaml", &text), &[]);
    running.until_err("ready");
    let typed = text.lines().find_map(|line| line.strip_prefix("#   curl")).expect("a line to type");
    let curl = |command: &str| {
        let said = Command::new("bash").args(["-c", command]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let said = curl(&format!("curl -s {typed}"));
    assert!(said.starts_with("HTTP/1.1 202"), "{said}");
    running.until_out("\"id\":1,\"total\":120,\"class\":\"big\"");
    // As it is typed by those who know curl's defaults, and by those who think they do.
    let said = curl(&format!("curl -s {}", typed.replace("-H 'content-type: application/json'", "")));
    assert!(said.starts_with("HTTP/1.1 415") && said.contains("send `content-type"), "{said}");
    let said = curl(&format!("curl -s {}", typed.replace("application/json", "text/plain")));
    assert!(said.starts_with("HTTP/1.1 422") && said.contains("taken as text"), "{said}");
    let said = curl(&format!("curl -s {}", typed.replace("\"id\"", "\"no\"")));
    assert!(said.starts_with("HTTP/1.1 422") && said.contains("says which stage"), "{said}");
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_are_served() {
    let served = sidestream::observe::metric_names();
    for file in ["prometheus/alerts.yaml", "prometheus/alerts.test.yaml", "grafana/sidestream.json"] {
        let text = fs::read_to_string(Path::new(MANIFESTS).join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> =
            words.filter(|word| word.starts_with("sidestream_") || word.starts_with("process_")).collect();
        assert!(named.len() > 10, "{file}");
        // Those of the operator are compared where it is.
        for name in named.into_iter().filter(|name| !name.starts_with("sidestream_operator_")) {
            assert!(served.iter().any(|own| own == name), "{file} names {name}, which is not served");
        }
    }
}

#[test]
fn the_dashboard_shows_every_thing_that_is_measured() {
    let text = fs::read_to_string(Path::new(MANIFESTS).join("grafana/sidestream.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(dashboard["uid"], "sidestream");
    for thing in [
        "sidestream_stage_",
        "sidestream_ring_",
        "sidestream_source_",
        "sidestream_ledger_",
        "sidestream_dnpipe_",
        "process_",
    ] {
        assert!(text.contains(thing), "{thing}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_they_fire_when_they_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return eprintln!("promtool is not installed: `apt install prometheus` brings it");
    }
    let folder = Path::new(MANIFESTS).join("prometheus");
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let said = Command::new("promtool").args(arguments).current_dir(&folder).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{out}{err}");
    }
}
