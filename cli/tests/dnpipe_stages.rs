//! Pipelines between dnpipes: records are acknowledged when their results are stored, whatever ends meanwhile.

mod process;

use std::{collections::BTreeSet, path::PathBuf, thread, time::Duration};

use process::{
    dnpipes::{data, pull, push, serve, until, until_nothing_is_left},
    folder, pipeline, run, sidestream, text,
};

const EXAMPLE: &str = include_str!("../../manifests/examples/bill-orders.yaml");

fn order(n: usize) -> String {
    format!("{{\"id\":{n},\"customer\":\"c{}\",\"total\":{}.0}}\n", n % 7, 50 + n % 100)
}

#[test]
fn orders_of_the_example_become_bills_and_what_is_no_order_is_kept_with_the_reason() {
    let folder = folder();
    let mut serving = serve(&folder, EXAMPLE);
    let orders: String = (0..100).map(order).collect();
    push(&folder, "orders", &(orders + "no order\n"));
    let bills = until(&folder, "bills", 50);
    assert_eq!(bills.len(), 50);
    assert!(
        bills.contains(&"{\"id\":60,\"customer\":\"c4\",\"total\":110.0,\"due\":132.0}".to_owned()),
        "{bills:?}"
    );
    assert_eq!(until(&folder, "no-orders", 1), ["no order"]);
    let letter = pull(&folder, "no-orders", &["--format", "json"]);
    assert!(letter.contains("\"sidestream-stage\":\"fields\""), "{letter}");
    let keyed = pull(&folder, "bills", &["--format", "json"]);
    let partitions: BTreeSet<String> = keyed
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|record| format!("{} {}", record["key"], record["partition"]))
        .collect();
    assert_eq!(partitions.len(), 7, "a key is in one partition: {partitions:?}");
    // Stopped in order, it repeats nothing.
    serving.signal("TERM");
    assert!(serving.end().success(), "{}", serving.err());
    let _serving = serve(&folder, EXAMPLE);
    push(&folder, "orders", &order(50));
    until(&folder, "bills", 51);
    until_nothing_is_left(&folder, "orders", "billing");
    assert_eq!(pull(&folder, "bills", &[]).lines().count(), 51);
}

#[test]
fn nothing_is_lost_when_the_process_is_killed() {
    let folder = folder();
    let yaml = "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n---\nkind: Dnpipe\nmetadata: {name: bills}\nspec: {}\n---\n"
        .to_owned()
        + &pipeline(
            "copy",
            &[
                "name: orders, source: {dnpipe: {name: orders, group: copy}}",
                "name: slow, process: {throttle: {rate: 5000, burst: 100, mode: Block}}",
                "name: bills, sink: {dnpipe: {name: bills}}",
            ],
        );
    const RECORDS: usize = 20_000;
    let mut serving = serve(&folder, &yaml);
    push(&folder, "orders", &(0..RECORDS).map(|n| format!("{n}\n")).collect::<String>());
    for round in 0..4 {
        // Somewhere on its way, wherever that is on this machine.
        thread::sleep(Duration::from_millis(10 + 30 * round));
        serving.signal("KILL");
        serving.end();
        serving = serve(&folder, &yaml);
    }
    until(&folder, "bills", RECORDS);
    until_nothing_is_left(&folder, "orders", "copy");
    let pulled = pull(&folder, "bills", &[]);
    let once: BTreeSet<usize> = pulled.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(once, (0..RECORDS).collect());
}

/// It goes back to the group, and with that to the dead letters; what is around it is handled, once.
#[test]
fn a_record_that_cannot_be_decrypted_holds_up_no_other() {
    let folder = folder();
    let yaml = "kind: Dnpipe\nmetadata: {name: orders}\nspec: {groups: [{name: copy, maxDeliveries: 2, deadLetter: dead}]}\n---\n\
        kind: Dnpipe\nmetadata: {name: bills}\nspec: {}\n---\nkind: Dnpipe\nmetadata: {name: dead}\nspec: {}\n---\n"
        .to_owned()
        + &pipeline(
            "copy",
            &[
                "name: orders, source: {dnpipe: {name: orders, group: copy}}",
                "name: bills, sink: {dnpipe: {name: bills}}",
            ],
        );
    let serving = serve(&folder, "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n");
    push(&folder, "orders", "one\ntwo\n");
    let (key, secret) = (folder.write("key", &"k".repeat(32)), folder.write("secret", "secret"));
    let (key, secret, data) = (key.display().to_string(), secret.display().to_string(), data(&folder));
    let pushed = sidestream(&["push", "orders", &secret, "--encrypt", &key, "--data-dir", &data]);
    assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    push(&folder, "orders", "three\n");
    drop(serving);
    let _serving = serve(&folder, &yaml);
    let mut bills = until(&folder, "bills", 3);
    bills.sort();
    assert_eq!(bills, ["one", "three", "two"]);
    until_nothing_is_left(&folder, "orders", "copy");
    let letters = pull(&folder, "dead", &["--format", "json"]);
    assert!(letters.lines().count() == 1 && letters.contains("\"dead-letter-offset\":\"2\""), "{letters}");
    assert_eq!(until(&folder, "bills", 3).len(), 3, "nothing comes twice");
}

#[test]
fn a_pipeline_uses_the_dnpipes_of_another_process_and_waits_for_it() {
    let folder = folder();
    let dnpipes = "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n";
    let stages =
        ["name: in, source: {generator: {count: 100}}", "name: orders, sink: {dnpipe: {name: orders}}"];
    let file = folder.write("fill.yaml", &pipeline("fill", &stages));
    let data = data(&folder);
    let mut filling = run(&file, &["--dnpipes", &data]);
    filling.until_err("not delivered: cannot push to dnpipe default/orders: nobody answers");
    let _serving = serve(&folder, dnpipes);
    assert!(filling.end().success(), "{}", filling.err());
    assert_eq!(pull(&folder, "orders", &[]).lines().count(), 100);
    let file = folder.write(
        "show.yaml",
        &pipeline(
            "show",
            &[
                "name: orders, source: {dnpipe: {name: orders, group: show}}",
                "name: show, sink: {console: {}}",
            ],
        ),
    );
    let showing = run(&file, &["--dnpipes", &data]);
    showing.until_out("\"sequence\":99");
    until_nothing_is_left(&folder, "orders", "show");
}

#[test]
fn a_dnpipe_that_nobody_serves_is_told_before_anything_starts() {
    let folder = folder();
    let stages = ["name: in, source: {generator: {}}", "name: out, sink: {dnpipe: {name: out}}"];
    let file: PathBuf = folder.write("none.yaml", &pipeline("none", &stages));
    let said = sidestream(&["run", file.to_str().unwrap(), "--metrics", "off"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(
        text(&said.stderr).contains("stage `out`: `name`: is a dnpipe, and this process serves none"),
        "{}",
        text(&said.stderr)
    );
    let both = "kind: Dnpipe\nmetadata: {name: out}\nspec: {}\n---\n".to_owned() + &pipeline("both", &stages);
    let file = folder.write("two.yaml", &both);
    let said = sidestream(&["run", file.to_str().unwrap(), "--metrics", "off", "--dnpipes", "elsewhere"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(
        text(&said.stderr).contains("--dnpipes says that another process serves it"),
        "{}",
        text(&said.stderr)
    );
}
