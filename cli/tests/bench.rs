//! `sidestream bench`: its figures add up, on the terminal, in the file for programs and on the page.

mod process;

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use process::{Folder, folder, run, sidestream, text};
use serde_json::Value;

/// `sidestream bench ARGUMENTS`, with a folder to serve from, and where the figures go.
fn bench(folder: &Folder, arguments: &[&str]) -> Output {
    let [json, html, data] = ["figures.json", "page.html", "data"].map(|name| path(folder, name));
    let more = ["--json", &json, "--html", &html, "--serve", &data];
    sidestream(&[&["bench"], arguments, &more].concat())
}

fn path(folder: &Folder, name: &str) -> String {
    folder.path(name).display().to_string()
}

fn figures(folder: &Folder) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.path("figures.json")).unwrap()).unwrap()
}

/// The figures of a bench that did what it was asked.
fn measured(folder: &Folder, arguments: &[&str]) -> Value {
    let output = bench(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let figures = figures(folder);
    assert_eq!(figures["ended"], "done");
    figures
}

fn records(side: &Value) -> u64 {
    side["records"].as_u64().unwrap() + side["warmUpRecords"].as_u64().unwrap()
}

/// How many records a folder holds that nobody serves any more.
fn stored(folder: &Folder, dnpipe: &str) -> u64 {
    let counted = measured(folder, &["pull", dnpipe]);
    records(&counted["pull"])
}

#[test]
fn every_record_that_is_pushed_is_counted_once_and_there() {
    let folder = folder();
    let closed = measured(&folder, &["push", "orders", "--records", "5000"]);
    assert_eq!(records(&closed["push"]), 5000);
    assert_eq!(closed["push"]["bytes"], 5000 * 1024);
    assert!(closed["push"]["recordsPerBatch"].as_f64().unwrap() >= 1.0);
    let exact =
        ["push", "orders", "--records", "1001", "--batch", "10", "--in-flight", "40", "--size", "100"];
    let exact = measured(&folder, &exact);
    assert_eq!((records(&exact["push"]), &exact["push"]["bytes"]), (1001, &Value::from(100_100)));
    assert!((9.0..=10.0).contains(&exact["push"]["recordsPerBatch"].as_f64().unwrap()), "{exact}");
    let open = ["push", "orders", "--records", "300", "--rate", "1000", "--producers", "3", "--batch", "1"];
    let open = measured(&folder, &open);
    assert_eq!((records(&open["push"]), &open["push"]["unsent"]), (300, &Value::from(0)));
    assert!(open["push"]["late"]["p50"].as_f64().unwrap() >= 0.0);
    assert_eq!(stored(&folder, "orders"), 6301);
}

#[test]
fn the_figures_have_the_fields_that_are_documented_and_agree_with_each_other() {
    let folder = folder();
    let output = bench(
        &folder,
        &["push", "shop/orders", "--records", "2000", "--durability", "PageCache", "--partitions", "2"],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (figures, said) = (figures(&folder), text(&output.stdout));
    assert_eq!(figures["kind"], "push");
    assert_eq!(figures["dnpipe"], "shop/orders");
    assert_eq!(
        (&figures["partitions"], &figures["durability"]),
        (&Value::from(2), &Value::from("PageCache"))
    );
    assert!(figures["pull"].is_null());
    for field in ["bandwidthBytesPerSecond", "flushMicros"] {
        assert!(figures["disk"][field].as_f64().unwrap() > 0.0, "{field}: {figures}");
    }
    let push = &figures["push"];
    let latency = &push["latency"];
    let quantiles = ["p50", "p90", "p99", "p999", "p9999", "max"].map(|name| latency[name].as_f64().unwrap());
    assert!(quantiles.is_sorted(), "{quantiles:?}");
    let (rate, seconds) = (push["recordsPerSecond"].as_f64().unwrap(), push["seconds"].as_f64().unwrap());
    assert!((rate * seconds - 2000.0).abs() < 1.0, "{push}");
    assert!(!push["everySecond"].as_array().unwrap().is_empty());
    assert!(said.contains("push shop/orders: PageCache") && said.contains("2,000 records"), "{said}");
    assert!(said.contains("disk    B ") && said.contains("   L "), "{said}");

    let how_to = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/how-to/measure-a-dnpipe.md");
    let how_to = std::fs::read_to_string(how_to).unwrap();
    let documented = |name: &String| how_to.contains(&format!("`{name}`"));
    let objects = [&figures, &figures["disk"], push, latency, &push["everySecond"][0]];
    let names = objects.iter().flat_map(|object| object.as_object().unwrap().keys());
    let missing: Vec<_> = names.filter(|name| !documented(name)).collect();
    assert!(missing.is_empty(), "docs/how-to/measure-a-dnpipe.md does not say what these are: {missing:?}");
}

#[test]
fn what_is_pushed_is_pulled_by_every_consumer_and_timed_from_when_it_was_due() {
    let folder = folder();
    measured(&folder, &["push", "orders", "--records", "50", "--partitions", "2"]);
    let arguments = ["end-to-end", "orders", "--records", "700", "--consumers", "3", "--size", "64"];
    let end_to_end = measured(&folder, &arguments);
    assert_eq!(end_to_end["partitions"], 2);
    assert_eq!((records(&end_to_end["push"]), records(&end_to_end["pull"])), (700, 2100));
    let latency = |side: &str, name: &str| end_to_end[side]["latency"][name].as_f64().unwrap();
    assert!(latency("pull", "p50") > 0.0);
    // What was there before is read too where that is asked for.
    let both = measured(&folder, &["both", "orders", "--records", "250"]);
    assert_eq!((records(&both["push"]), records(&both["pull"])), (250, 1000));
}

#[test]
fn the_page_has_the_figures_and_needs_nothing_else() {
    let folder = folder();
    let output = bench(&folder, &["push", "orders", "--records", "3000"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = std::fs::read_to_string(folder.path("page.html")).unwrap();
    for line in text(&output.stdout).lines() {
        assert!(page.contains(line), "{line}: {page}");
    }
    assert_eq!((page.matches("<svg").count(), page.matches("</svg>").count()), (3, 3));
    assert!(
        page.contains("prefers-color-scheme: dark")
            && page.contains("<table>")
            && page.contains("aria-label")
    );
    for foreign in ["http://", "https://", "<script", "NaN"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

#[test]
fn several_dnpipes_take_turns() {
    let folder = folder();
    let figures = measured(&folder, &["push", "one", "two", "--records", "100", "--batch", "1"]);
    assert_eq!((records(&figures["push"]), &figures["dnpipes"]), (100, &Value::from(2)));
    assert_eq!([stored(&folder, "one"), stored(&folder, "two")], [50, 50]);
}

#[test]
fn a_bench_of_a_server_that_runs_finds_it_where_push_and_pull_do() {
    let folder = folder();
    let yaml = "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n";
    let data = path(&folder, "data");
    let serving = run(&folder.write("orders.yaml", yaml), &["--data-dir", &data]);
    serving.until_err("INFO ready");
    let asked = ["bench", "push", "orders", "--records", "10", "--data-dir", &data];
    let output = sidestream(&asked);
    assert!(
        output.status.success() && text(&output.stdout).contains("10 records"),
        "{}",
        text(&output.stderr)
    );
    assert!(text(&output.stdout).contains("disk    B "), "{}", text(&output.stdout));
    let list = text(&sidestream(&["dnpipe", "list", "--data-dir", &data]).stdout);
    assert!(list.lines().nth(1).unwrap().contains(" 10 "), "{list}");
}

/// It is asked to end when it has said the first line of figures, so that there is something.
#[test]
fn interrupted_it_says_what_it_has() {
    let folder = folder();
    let [json, data] = ["figures.json", "data"].map(|name| path(&folder, name));
    let mut child = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["bench", "push", "orders", "--for", "1h", "--rate", "50", "--json", &json, "--serve", &data])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let has_figures = |line: &String| line.contains("pushed") && !line.contains("pushed 0/s");
    lines.find(|line| line.as_ref().is_ok_and(has_figures)).unwrap().unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    let output = child.wait_with_output().unwrap();
    rest.join().unwrap();
    assert!(
        output.status.success() && text(&output.stdout).contains("interrupted"),
        "{}",
        text(&output.stdout)
    );
    let figures = figures(&folder);
    assert_eq!(figures["ended"], "interrupted");
    assert!(figures["push"]["records"].as_u64().unwrap() > 0);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_pushed() {
    let folder = folder();
    let refused = |arguments: &[&str], code: i32, reason: &str| {
        let output = bench(&folder, arguments);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(reason), "{arguments:?}: {said}");
    };
    refused(&["push", "Orders"], 2, "lower-case letters");
    refused(&["push", "orders", "--size", "2Mi"], 2, "a record of this bench has 1 to");
    refused(&["end-to-end", "orders", "--size", "8"], 2, "a record of this bench has 16 to");
    refused(&["push", "orders", "--batch", "5000", "--size", "10Ki"], 2, "a batch has");
    refused(&["push", "orders", "--for", "0s"], 2, "--for");
    refused(&["push", "orders", "--partitions", "0"], 2, "orders: ");
    measured(&folder, &["push", "orders", "--records", "10"]);
    refused(&["push", "orders", "--partitions", "4"], 2, "orders is in");
    let output =
        sidestream(&["bench", "push", "orders", "--data-dir", &path(&folder, "none"), "--patience", "0s"]);
    assert!(text(&output.stderr).contains("nobody answers at"), "{}", text(&output.stderr));
    let nowhere: PathBuf = folder.path("none").join("figures.json");
    let output = sidestream(&["bench", "push", "orders", "--json", nowhere.to_str().unwrap()]);
    assert!(text(&output.stderr).contains("cannot write"), "{}", text(&output.stderr));
}
