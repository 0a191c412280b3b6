//! What somebody reads who listens on the wire.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use sidestream_e2e::eventually;

use crate::{
    collector::Collector,
    world::{Namespace, SOON},
};

/// Stands in every event.
const CANARY: &str = "canary-8e1f0c7a";
/// Makes it. The text of the pipeline passes in the clear between the API server and its etcd, so it must not be in there.
const MAKES_CANARY: &str = "'canary-' + '8e1f0c7a'";
const EVENTS: f64 = 10_000.0;

#[test]
#[ignore = "needs a cluster: make e2e"]
fn nothing_of_an_event_is_read_off_an_edge_and_everything_off_plain_http() {
    let Some(collector) = Collector::listen() else { return };
    let shop = Namespace::new("e2e-wire");
    assert_eq!(seen_while(&shop, "edge", "", "blackhole: {}").canaries, 0, "in the clear on an edge");
    let plain = format!("webhook: {{url: \"{}\"}}", collector.url);
    assert!(seen_while(&shop, "http", "", &plain).canaries > 0, "a capture that sees nothing proves nothing");
    // The only edge of all tests that goes that way.
    let by_quic = seen_while(&shop, "quic", ", transport: Quic", "blackhole: {}");
    assert_eq!(by_quic.canaries, 0, "in the clear on an edge by QUIC");
    assert!(by_quic.datagrams > 100, "{} datagrams to and from port 7443", by_quic.datagrams);
}

/// What tcpdump saw of all nodes while the events of a pipeline passed.
struct Seen {
    /// How often the canary was there.
    canaries: usize,
    /// By QUIC.
    datagrams: usize,
}

/// `transport` is more of the sidecar that receives.
fn seen_while(shop: &Namespace, name: &str, transport: &str, sink: &str) -> Seen {
    let captures: Vec<Capture> = nodes().iter().map(|node| Capture::start(node, name)).collect();
    shop.apply(&format!(
        "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  sidecars: [{{name: field, workload: {{}}}}, {{name: hub, workload: {{}}{transport}}}]
  stages:
  - {{name: numbers, sidecar: field, source: {{generator: {{rate: 1000, count: {EVENTS}}}}}}}
  - {{name: mark, process: {{set: {{fields: {{canary: \"{MAKES_CANARY}\"}}}}}}}}
  - {{name: out, sidecar: hub, sink: {{{sink}}}}}
"
    ));
    shop.wait_ready(name);
    eventually("every event crosses the edge", SOON, || {
        match shop.metric(name, "hub", "sidestream_stage_events_in_total", "stage=\"out\"")? {
            EVENTS => Ok(()),
            some => Err(format!("{some} did")),
        }
    });
    let seen: Vec<Seen> = captures.into_iter().map(Capture::end).collect();
    let (canaries, datagrams) =
        (seen.iter().map(|own| own.canaries).sum(), seen.iter().map(|own| own.datagrams).sum());
    println!(
        "{EVENTS} events over {name}: the canary was seen {canaries} times, {datagrams} datagrams of edges"
    );
    Seen { canaries, datagrams }
}

/// tcpdump on every interface of a node.
struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    fn start(node: &str, name: &str) -> Capture {
        let file = env::temp_dir().join(format!("sidestream-e2e-{name}-{node}.pcap"));
        let _ = fs::remove_file(&file);
        let tcpdump = Command::new("nsenter")
            .arg(format!("--net=/proc/{node}/ns/net"))
            .args(["tcpdump", "-i", "any", "-U", "-w"])
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .expect("tcpdump starts");
        // The file has its head once the capture runs.
        eventually("the capture runs", SOON, || match fs::metadata(&file) {
            Ok(file) if file.len() > 0 => Ok(()),
            _ => Err("no file".into()),
        });
        Capture { tcpdump, file }
    }

    fn end(mut self) -> Seen {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
        let seen = fs::read(&self.file).expect("a capture");
        let mut reading = Command::new("tcpdump");
        reading.arg("-nr").arg(&self.file).args(["udp", "port", "7443"]).stderr(Stdio::null());
        let shown = reading.output().expect("tcpdump reads").stdout;
        let datagrams = shown.iter().filter(|byte| **byte == b'\n').count();
        let _ = fs::remove_file(&self.file);
        assert!(seen.len() > 1_000_000, "{} bytes were captured", seen.len());
        let canaries = seen.windows(CANARY.len()).filter(|window| *window == CANARY.as_bytes()).count();
        Seen { canaries, datagrams }
    }
}

/// The first process of each node of the raised cluster.
fn nodes() -> Vec<String> {
    let state = env::var("CLUSTER_STATE").expect("the folder of the raised cluster");
    let files = fs::read_dir(Path::new(&state).join("run")).expect("a cluster that runs").flatten();
    let first = files.filter(|file| file.path().extension().is_some_and(|end| end == "first"));
    first.map(|file| fs::read_to_string(file.path()).expect("a number").trim().to_owned()).collect()
}
