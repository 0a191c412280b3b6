//! A pipeline from dnpipe to dnpipes that is killed again and again: each result is there once, and none is missing.
//!
//! `SIDESTREAM_PROVE_N` says how many kills (4 by default), `SIDESTREAM_PROVE_SEED` when: `make prove PROOF=exactly-once`.

mod process;

use std::{thread, time::Duration};

use process::{
    Folder, Running,
    dnpipes::{data, lag, pull, push, serve, until, until_nothing_is_left},
    folder, run,
};

const DNPIPES: &str = "\
kind: Dnpipe
metadata: {name: orders}
spec: {partitions: 3}
---
kind: Dnpipe
metadata: {name: bills}
spec: {partitions: 2}
---
kind: Dnpipe
metadata: {name: small}
spec: {}
";

/// Two thirds of the orders become bills, half of which are small. It is slow, so that a kill finds it at work.
const PIPELINE: &str = "\
kind: Pipeline
metadata: {name: bill-once}
spec:
  delivery: ExactlyOnce
  stages:
  - {name: orders, source: {dnpipe: {name: orders, group: billing}}}
  - {name: fields, process: {parse: {json: {}}}}
  - {name: some, process: {filter: {keep: event.n % 3 != 0}}}
  - {name: bill, process: {map: {body: \"{'n': event.n, 'customer': event.customer, 'due': event.n * 2}\"}}}
  - {name: slow, process: {throttle: {rate: 400, burst: 20, mode: Block}}}
  - {name: bills, when: event.n % 2 == 0, sink: {dnpipe: {name: bills, key: event.customer}}}
  - {name: small, from: [slow], otherwise: true, sink: {dnpipe: {name: small}}}
";

const ORDERS_A_ROUND: u64 = 300;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// What becomes of an order.
fn bill(n: u64) -> String {
    format!("{{\"n\":{n},\"customer\":\"c{}\",\"due\":{}}}", n % 7, n * 2)
}

/// The orders, and how far they are.
struct Shop {
    folder: Folder,
    pushed: u64,
    kills: u64,
    /// Kills before which not everything was acknowledged.
    amid: u64,
}

impl Shop {
    fn new() -> Shop {
        Shop { folder: folder(), pushed: 0, kills: 0, amid: 0 }
    }

    fn push(&mut self) {
        let end = self.pushed + ORDERS_A_ROUND;
        let line = |n| format!("{{\"n\":{n},\"customer\":\"c{}\"}}\n", n % 7);
        push(&self.folder, "orders", &(self.pushed..end).map(line).collect::<String>());
        self.pushed = end;
    }

    fn results(&self) -> usize {
        ["bills", "small"].iter().map(|dnpipe| pull(&self.folder, dnpipe, &[]).lines().count()).sum()
    }

    /// More orders, and when some of them are done, or a moment later, the time to kill.
    fn work(&mut self) {
        let before = self.results();
        // What piles up while nobody works is to be done in the end.
        if lag(&self.folder, "orders", "billing").is_none_or(|lag| lag < 5 * ORDERS_A_ROUND) {
            self.push();
        }
        for _ in 0..600 {
            if self.results() > before {
                // Another moment each time.
                let moment = setting("SIDESTREAM_PROVE_SEED", 1) * 31 + self.kills * 61;
                thread::sleep(Duration::from_millis(moment % 97));
                self.amid += u64::from(lag(&self.folder, "orders", "billing").is_some_and(|lag| lag > 0));
                self.kills += 1;
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("nothing goes on");
    }

    /// Waits until everything is done, and compares.
    fn check(&self) {
        let done = |is_small: bool| {
            let orders = (0..self.pushed).filter(move |n| n % 3 != 0 && (n % 2 == 1) == is_small);
            let mut bills: Vec<String> = orders.map(bill).collect();
            bills.sort();
            bills
        };
        for (dnpipe, expected) in [("bills", done(false)), ("small", done(true))] {
            until(&self.folder, dnpipe, expected.len());
            until_nothing_is_left(&self.folder, "orders", "billing");
            let mut found: Vec<String> = pull(&self.folder, dnpipe, &[]).lines().map(str::to_owned).collect();
            found.sort();
            let twice = found.windows(2).find(|pair| pair[0] == pair[1]);
            assert_eq!(twice, None, "{dnpipe}: {} records, {} results", found.len(), expected.len());
            assert!(found == expected, "{dnpipe}: {} records, {} results", found.len(), expected.len());
        }
        println!(
            "{} kills, {} of them with orders on their way; {} orders, each result there once, none missing",
            self.kills, self.amid, self.pushed
        );
        // A machine that is busy with others may be done before it is killed; not again and again.
        assert!(self.kills < 25 || self.amid * 2 > self.kills);
    }
}

fn kill(running: &mut Running) {
    running.signal("KILL");
    running.end();
}

#[test]
fn each_result_is_there_once_though_the_pipeline_is_killed_with_its_server() {
    let mut shop = Shop::new();
    let yaml = format!("{DNPIPES}---\n{PIPELINE}");
    let mut both = serve(&shop.folder, &yaml);
    for _ in 0..setting("SIDESTREAM_PROVE_N", 4) {
        shop.work();
        kill(&mut both);
        both = serve(&shop.folder, &yaml);
    }
    shop.check();
}

#[test]
fn each_result_is_there_once_though_the_pipeline_and_its_server_are_killed_in_turns() {
    let mut shop = Shop::new();
    let file = shop.folder.write("once.yaml", PIPELINE);
    let begin = |folder: &Folder| run(&file, &["--dnpipes", &data(folder)]);
    let mut server = serve(&shop.folder, DNPIPES);
    let mut pipeline = begin(&shop.folder);
    for round in 0..setting("SIDESTREAM_PROVE_N", 4) {
        shop.work();
        if round % 2 == 0 {
            kill(&mut pipeline);
            pipeline = begin(&shop.folder);
        } else {
            kill(&mut server);
            server = serve(&shop.folder, DNPIPES);
        }
    }
    shop.check();
}

#[test]
#[cfg(unix)]
fn a_pipeline_that_is_edited_begins_anew_and_has_each_result_once_all_the_same() {
    let mut shop = Shop::new();
    let yaml = format!("{DNPIPES}---\n{PIPELINE}");
    let running = serve(&shop.folder, &yaml);
    shop.work();
    // What can't be proved is not taken.
    let unproven = yaml.replace("mode: Block", "mode: Drop");
    shop.folder.write("served.yaml", &unproven);
    running.signal("HUP");
    running.until_err("unproven-delivery").until_err("what was running goes on");
    shop.work();
    // What is done from now on says so.
    shop.folder.write("served.yaml", &yaml.replace("'n': event.n,", "'n': event.n, 'edited': true,"));
    running.signal("HUP");
    running.until_err("INFO started");
    shop.work();
    let expected: Vec<u64> = (0..shop.pushed).filter(|n| n % 3 != 0).collect();
    for _ in 0..600 {
        if shop.results() >= expected.len() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    until_nothing_is_left(&shop.folder, "orders", "billing");
    let all = pull(&shop.folder, "bills", &[]) + &pull(&shop.folder, "small", &[]);
    let number = |line: &str| line.split([':', ',']).nth(1).unwrap().parse().unwrap();
    let mut found: Vec<u64> = all.lines().map(number).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    let edited = all.lines().filter(|line| line.contains("edited")).count();
    assert!(edited > 0 && edited < found.len(), "{edited}");
}
