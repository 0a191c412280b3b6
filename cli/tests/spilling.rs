//! Inputs that spill: what waits for a sink that is away is on the disk, and survives the process.

mod process;

use std::{
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use process::{
    Folder, Running,
    dnpipes::{self, data, serve},
    folder, get, pipeline, run, sidestream, text,
};

/// A web server that can be away; it keeps the numbers it was sent, in order.
struct Hub {
    address: String,
    came: Arc<Mutex<Vec<u64>>>,
}

/// An address that nobody listens at, for now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Hub {
    fn open(address: &str) -> Hub {
        let listener = TcpListener::bind(address).unwrap();
        let came = Arc::<Mutex<Vec<u64>>>::default();
        let keeps = came.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, came) = (stream.unwrap(), keeps.clone());
                thread::spawn(move || {
                    while let Some(body) = request(&mut stream) {
                        let numbers = body.split("\"sequence\":").skip(1);
                        let numbers = numbers.map(|rest| {
                            rest.chars()
                                .take_while(char::is_ascii_digit)
                                .collect::<String>()
                                .parse::<u64>()
                                .unwrap()
                        });
                        came.lock().unwrap().extend(numbers);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Hub { address: address.to_owned(), came }
    }

    /// Waits until the events before `count` have all come, and checks that each came in its order, if some more than once.
    fn until(&self, count: u64) {
        for _ in 0..12_000 {
            if self.next() >= count {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{} of {count} events came to {}", self.next(), self.address);
    }

    fn next(&self) -> u64 {
        let mut next = 0;
        for number in self.came.lock().unwrap().iter() {
            assert!(*number <= next, "event {number} came before {next}");
            next = next.max(number + 1);
        }
        next
    }
}

/// The body of the next request.
fn request(stream: &mut impl std::io::Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length:").nth(1)?.lines().next()?.trim().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(String::from_utf8(body).unwrap())
}

/// A source that cannot repeat, and a sink that may be away.
fn meter(folder: &Folder, address: &str, count: u64, overflow: &str) -> PathBuf {
    let (tick, tell) = (
        format!("name: tick, source: {{generator: {{count: {count}, rate: 20000}}}}"),
        format!(
            "name: tell, input: {{capacity: 500, overflow: {overflow}}}, sink: {{webhook: {{url: \"http://{address}/\"}}}}, \
             onError: {{retry: {{max: 200ms}}}}"
        ),
    );
    folder.write("meter.yaml", &pipeline("meter", &[&tick, &tell]))
}

fn start(folder: &Folder, file: &Path) -> Running {
    run(file, &["--data-dir", &data(folder)])
}

/// Waits until a metric of the queue is as it should be.
fn until_metric(running: &Running, name: &str, is_so: impl Fn(f64) -> bool) {
    let address = running.address();
    let mut last = String::new();
    for _ in 0..6_000 {
        last = get(&address, "/metrics").1;
        let line = last.lines().find(|line| line.starts_with(name) && line.contains("stage=\"tell\""));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        if value.is_some_and(&is_so) {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{name} is not so:\n{last}");
}

/// Waits until the books of the process say that, and gives them.
fn until_ledger(running: &Running, said: &str) -> String {
    let address = running.address();
    for _ in 0..6_000 {
        let ledger = get(&address, "/ledger").1;
        if ledger.contains(said) {
            return ledger;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{said} is not so:\n{}", get(&address, "/ledger").1);
}

#[test]
fn what_waits_for_a_sink_that_is_away_survives_kill_and_comes_in_its_order_when_that_is_back() {
    let (folder, address) = (folder(), free_address());
    let file = meter(&folder, &address, 20_000, "Spill");
    let mut running = start(&folder, &file);
    // Everything the source had is taken, though nobody takes it: its books are closed.
    until_metric(&running, "sidestream_spilled_events_total", |events| events >= 20_000.0);
    let ledger = until_ledger(&running, "\"completed\":20000");
    assert!(ledger.contains("\"balanced\":true") && !ledger.contains("\"balanced\":false"), "{ledger}");
    running.signal("KILL");
    running.end();
    // The next ones make an event of their own each, which comes behind.
    let file = meter(&folder, &address, 1, "Spill");
    for _ in 0..2 {
        let mut running = start(&folder, &file);
        running.until_err("not delivered");
        running.signal("KILL");
        running.end();
    }
    let running = start(&folder, &file);
    running.until_err("spilled events are on the disk");
    let hub = Hub::open(&address);
    hub.until(20_000);
    until_metric(&running, "sidestream_spill_stored_events", |events| events == 0.0);
    until_metric(&running, "sidestream_spill_lost_events_total", |events| events == 0.0);
}

/// A run that was told to stop when it had taken so many events, and has ended well.
fn stopped(folder: &Folder, file: &Path, events: u32) -> Running {
    let mut running = run(file, &["--data-dir", &data(folder), "--grace", "5s"]);
    until_ledger(&running, &format!("\"accepted\":{events}"));
    running.signal("TERM");
    assert!(running.end().success(), "{}", running.err());
    running
}

#[test]
fn a_process_that_is_told_to_stop_leaves_what_was_not_delivered_to_the_next_and_says_so() {
    let (folder, address) = (folder(), free_address());
    let file = meter(&folder, &address, 300, "Spill");
    let err = stopped(&folder, &file, 300).err();
    assert!(err.contains("completed=300") && err.contains("spilled=300"), "{err}");
    // The stage is gone: what waits for it is named, and stays.
    let other = pipeline(
        "meter",
        &["name: tick, source: {generator: {rate: 1}}", "name: none, sink: {blackhole: {}}"],
    );
    folder.write("meter.yaml", &other);
    let mut running = start(&folder, &file);
    running.until_err("spilled events wait for a stage that is not here");
    assert!(running.err().contains("stage=\"default/meter/tell\" events=300"), "{}", running.err());
    running.signal("TERM");
    assert!(running.end().success(), "{}", running.err());
    // Back again, it gets all of it.
    let hub = Hub::open(&address);
    let file = meter(&folder, &address, 1, "Spill");
    let running = start(&folder, &file);
    hub.until(300);
    until_metric(&running, "sidestream_spill_stored_events", |events| events == 0.0);
}

#[test]
fn what_was_spilled_for_a_stage_that_is_no_more_can_be_dropped_by_its_name_and_nothing_else_can() {
    let (folder, address) = (folder(), free_address());
    let file = meter(&folder, &address, 300, "Spill");
    stopped(&folder, &file, 300);
    let file = meter(&folder, &address, 1, "Block");
    let drop = |name: &str| {
        let more = ["run", file.to_str().unwrap(), "--metrics", "off", "--drop-spilled", name];
        let data = data(&folder);
        let arguments = [&more[..], &["--data-dir", &data]].concat();
        run_until_it_says(&arguments)
    };
    let said = drop("default/meter/other");
    assert!(
        said.contains("nothing is spilled for `default/meter/other`; there: default/meter/tell"),
        "{said}"
    );
    let mut running = run(&file, &["--data-dir", &data(&folder), "--drop-spilled", "default/meter/tell"]);
    running.until_err("INFO ready");
    assert!(running.err().contains("dropped what was spilled for it"), "{}", running.err());
    running.signal("KILL");
    running.end();
    let said = drop("default/meter/tell");
    assert!(said.contains("there: nothing is"), "{said}");
}

/// What a run that is refused says.
fn run_until_it_says(arguments: &[&str]) -> String {
    let ended = sidestream(arguments);
    assert_eq!(ended.status.code(), Some(1));
    text(&ended.stderr)
}

#[test]
fn a_window_behind_the_queue_that_a_kill_takes_gets_its_events_again() {
    let (folder, address) = (folder(), free_address());
    let file = meter(&folder, &address, 2_000, "Spill");
    let running = stopped(&folder, &file, 2_000);
    assert!(running.err().contains("spilled=2000"), "{}", running.err());
    // Its source goes on for ever, so the window is open.
    let counts = pipeline(
        "meter",
        &[
            "name: tick, source: {generator: {rate: 1}}",
            "name: tell, input: {overflow: Spill}, process: {window: {tumbling: 24h, emit: {count: \"true\"}}}",
            "name: show, sink: {console: {format: JSON}}",
        ],
    );
    folder.write("meter.yaml", &counts);
    let taken = |running: &Running| {
        until_metric(running, "sidestream_spill_stored_events", |events| events == 0.0);
    };
    let mut running = start(&folder, &file);
    running.until_err("spilled events are on the disk");
    taken(&running);
    assert_eq!(running.out(), "", "the window is open");
    running.signal("KILL");
    running.end();
    let mut running = start(&folder, &file);
    running.until_err("spilled events are on the disk");
    taken(&running);
    running.signal("TERM");
    assert!(running.end().success(), "{}", running.err());
    // A day may have ended meanwhile.
    let counted = running.out();
    let counted = counted.split("\"count\":").skip(1).map(|rest| {
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap()
    });
    let counted: u64 = counted.sum();
    assert!(counted >= 2_000, "{counted} of 2000, and some of its own: {}", running.out());
}

#[test]
fn a_process_without_a_disk_refuses_to_spill_and_says_what_to_write_instead() {
    let (folder, address) = (folder(), free_address());
    let file = meter(&folder, &address, 300, "Spill");
    let said = run_until_it_says(&["run", file.to_str().unwrap(), "--metrics", "off"]);
    assert!(
        said.contains("stage `tell:spill`: `input.overflow`: Spill needs a disk, and this process has none"),
        "{said}"
    );
    assert!(said.contains("--data-dir DIR, or write `overflow: Block`"), "{said}");
}

#[test]
fn what_waits_for_a_dnpipe_of_another_process_is_spilled_to_a_folder_of_its_own() {
    let folder = folder();
    let (tick, orders) = (
        "name: tick, source: {generator: {count: 5000, rate: 20000}}",
        "name: orders, sink: {dnpipe: {name: orders}}",
    );
    let orders = orders.replace("sink", "input: {capacity: 500, overflow: Spill}, sink");
    let file = folder.write("fill.yaml", &pipeline("fill", &[tick, &orders]));
    let (theirs, own) = (data(&folder), folder.path("own").display().to_string());
    let filling = run(&file, &["--dnpipes", &theirs, "--data-dir", &own]);
    until_ledger(&filling, "\"completed\":5000");
    let _serving = serve(&folder, "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n");
    let records = dnpipes::until(&folder, "orders", 5_000);
    let numbers = records.iter().map(|record| {
        let rest = record.split("\"sequence\":").nth(1).unwrap();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap()
    });
    let mut next = 0;
    for number in numbers {
        assert!(number <= next, "event {number} came before {next}");
        next = next.max(number + 1);
    }
    assert_eq!(next, 5_000);
}

#[test]
fn a_folder_that_another_process_serves_is_not_spilled_to_and_the_error_says_what_to_write_instead() {
    let folder = folder();
    let file = meter(&folder, &free_address(), 300, "Spill");
    let data = data(&folder);
    let _serving = serve(&folder, "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n");
    let (run, off) = (["run", file.to_str().unwrap()], ["--metrics", "off", "--dnpipes", data.as_str()]);
    let said = run_until_it_says(&[&run[..], &off, &["--data-dir", &format!("{data}/.")]].concat());
    assert!(said.contains("--data-dir and --dnpipes are the same folder"), "{said}");
    assert!(said.contains("give this process a --data-dir of its own"), "{said}");
    let said = run_until_it_says(&[&run[..], &off].concat());
    assert!(said.contains("run it with --data-dir DIR, or write `overflow: Block`"), "{said}");
}

#[test]
fn a_full_quota_makes_the_source_wait_and_loses_nothing() {
    let (folder, address) = (folder(), free_address());
    let file = meter(&folder, &address, 40_000, "Spill");
    let running = run(&file, &["--data-dir", &data(&folder), "--spill-max", "256Ki"]);
    running.until_err("no room to spill, so its sources wait");
    until_metric(&running, "sidestream_spill_full", |full| full == 1.0);
    let hub = Hub::open(&address);
    hub.until(40_000);
    until_metric(&running, "sidestream_spill_full", |full| full == 0.0);
}

/// Two sidecars: the queue of the edge is at its beginning.
const EDGE: &str = "
apiVersion: sidestream.dev/v1alpha1
kind: Pipeline
metadata: {name: two, namespace: plant}
spec:
  sidecars:
  - {name: site, inject: {podSelector: {matchLabels: {app: meter}}}}
  - {name: centre, workload: {}}
  stages:
  - {name: tick, sidecar: site, source: {generator: {count: 5000, rate: 20000}}}
  - {name: show, sidecar: centre, input: {capacity: 500, overflow: Spill}, sink: {console: {format: JSON}}}
";

#[test]
fn an_edge_whose_peer_is_away_stores_and_forwards_also_after_a_kill() {
    let folder = folder();
    let file = folder.write("two.yaml", EDGE);
    let peers = folder.path("");
    let site = |data: &str| {
        run(&file, &["--sidecar", "site", "--peers", peers.to_str().unwrap(), "--data-dir", data])
    };
    let data = data(&folder);
    let mut first = site(&data);
    let stored = |running: &Running| {
        let address = running.address();
        for _ in 0..6_000 {
            let text = get(&address, "/metrics").1;
            let lines = text.lines().filter(|line| line.starts_with("sidestream_spilled_events_total"));
            let stored: f64 = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
            if stored >= 5000.0 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("not stored:\n{}", running.err());
    };
    stored(&first);
    first.signal("KILL");
    first.end();
    folder.write("two.yaml", &EDGE.replace("count: 5000", "count: 1"));
    let _second = site(&data);
    let centre = run(&file, &["--sidecar", "centre", "--peers", peers.to_str().unwrap()]);
    centre.until_out("\"sequence\":4999");
    let mut next = 0;
    for line in centre.out().lines() {
        let number = line.split("\"sequence\":").nth(1).unwrap();
        let number: u64 =
            number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        assert!(number <= next, "event {number} came before {next}");
        next = next.max(number + 1);
    }
    assert!(next >= 5000, "{next}");
}
