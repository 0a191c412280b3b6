//! Dnpipes on this machine: served by `run`, used by `push`, `pull`, `reset` and the others.

mod process;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use process::{Folder, Running, folder, pipeline, run, text, wait_a_moment};
use sidestream_client::{GroupConfig, blocking::Client};

const ORDERS: &str = "kind: Dnpipe\nmetadata: {name: orders}\nspec: {}\n";

fn serve(folder: &Folder, yaml: &str) -> Running {
    let running = run(&folder.write("orders.yaml", yaml), &["--data-dir", data(folder).to_str().unwrap()]);
    running.until_err("INFO ready");
    running
}

fn data(folder: &Folder) -> PathBuf {
    folder.path("data")
}

/// `sidestream ARGUMENTS --data-dir DATA`, with `input` on its standard input.
fn ask(folder: &Folder, input: &str, arguments: &[&str]) -> Output {
    let data = data(folder);
    let more = ["--data-dir", data.to_str().unwrap()];
    feed(input, &[arguments, &more].concat())
}

fn feed(input: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Whoever does not read its input has reasons of its own.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The same, to the end it should have.
fn told(folder: &Folder, input: &str, arguments: &[&str]) -> String {
    let output = ask(folder, input, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The same, to its refusal: the exit status and what it said.
fn refused(folder: &Folder, input: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = ask(folder, input, arguments);
    (output.status.code(), text(&output.stderr))
}

#[test]
fn what_is_pushed_is_pulled_and_a_pull_removes_nothing() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    assert_eq!(told(&folder, "hello\n", &["push", "orders"]), "1 record, offset 0\n");
    assert_eq!(told(&folder, "a\nb\n\nc", &["push", "default/orders"]), "4 records, offsets 1 to 4\n");
    for _ in 0..2 {
        assert_eq!(told(&folder, "", &["pull", "orders"]), "hello\na\nb\n\nc\n");
    }
    assert_eq!(told(&folder, "", &["pull", "orders", "--last", "2"]), "\nc\n");
    assert_eq!(told(&folder, "", &["pull", "orders", "--from", "1", "-n", "2"]), "a\nb\n");
    assert_eq!(told(&folder, "", &["pull", "orders", "--from", "end"]), "");
    assert_eq!(told(&folder, "", &["pull", "orders", "--from", "1h"]), "hello\na\nb\n\nc\n");
    assert_eq!(told(&folder, "", &["pull", "orders", "--from", "2999-01-01T00:00:00Z"]), "");
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_offsets_go_on() {
    let folder = folder();
    let lines: String = (0..5000).map(|line| format!("line {line}\n")).collect();
    for round in 0..3 {
        let mut serving = serve(&folder, ORDERS);
        let first = round * 5000;
        let expected = format!("5000 records, offsets {first} to {}\n", first + 4999);
        assert_eq!(told(&folder, &lines, &["push", "orders"]), expected);
        serving.signal("KILL");
        assert!(!serving.end().success());
    }
    let _serving = serve(&folder, ORDERS);
    assert_eq!(told(&folder, "", &["pull", "orders"]), lines.repeat(3));
    let verified = told(&folder, "", &["dnpipe", "verify"]);
    assert!(verified.ends_with("all as they were written\n"), "{verified}");
}

/// Each kill comes while a push is on its way: whatever it had printed as stored is there, once, in its place.
#[test]
fn what_a_push_printed_before_its_server_was_killed_is_there_once_and_in_its_place() {
    let folder = folder();
    let (mut stored, mut killed_amid) = (Vec::new(), 0);
    for round in 0..10 {
        let mut serving = serve(&folder, ORDERS);
        let data = data(&folder);
        let mut push = Command::new(env!("CARGO_BIN_EXE_sidestream"))
            .args(["push", "orders", "--verbose", "--patience", "0s", "--data-dir", data.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = push.stdin.take().unwrap();
        let feeding = std::thread::spawn(move || {
            let mut line = 0;
            while writeln!(input, "{round}-{line}").is_ok() {
                line += 1;
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(60 + 17 * round));
        serving.signal("KILL");
        serving.end();
        let output = push.wait_with_output().unwrap();
        feeding.join().unwrap();
        killed_amid += u32::from(!output.status.success());
        let printed = text(&output.stdout);
        for (line, receipt) in printed.lines().enumerate() {
            let offset: usize = receipt.strip_prefix("0 ").unwrap().parse().unwrap();
            stored.push((offset, format!("{round}-{line}")));
        }
    }
    assert!(
        killed_amid > 0 && stored.len() > 100,
        "{killed_amid} of 10 killed amid, {} stored",
        stored.len()
    );
    let _serving = serve(&folder, ORDERS);
    let pulled = told(&folder, "", &["pull", "orders"]);
    let pulled: Vec<&str> = pulled.lines().collect();
    for (offset, value) in &stored {
        assert_eq!(pulled.get(*offset).copied(), Some(value.as_str()), "offset {offset}");
    }
    // What nobody was told of may be there or not, but nothing is there twice.
    let once: std::collections::BTreeSet<&&str> = pulled.iter().collect();
    assert_eq!(once.len(), pulled.len());
}

#[test]
fn keys_headers_files_and_partitions_come_back_as_they_went() {
    let folder = folder();
    let _serving = serve(&folder, "kind: Dnpipe\nmetadata: {name: orders}\nspec: {partitions: 4}\n");
    let (one, two) = (folder.write("one", "first\nline"), folder.path("two"));
    std::fs::write(&two, [0xff, 0x00]).unwrap();
    let files = [one.to_str().unwrap(), two.to_str().unwrap()];
    told(
        &folder,
        "",
        &["push", "orders", files[0], files[1], "--key", "k", "--header", "a=b=c", "--header", "d=e"],
    );
    let pulled = told(&folder, "", &["pull", "orders", "--format", "json"]);
    let records: Vec<serde_json::Value> =
        pulled.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records[0]["value"], "first\nline");
    assert_eq!(records[1]["value"], serde_json::json!([255, 0]));
    assert_eq!(records[0]["key"], "k");
    assert_eq!(records[0]["headers"], serde_json::json!({"a": "b=c", "d": "e"}));
    assert_eq!(records[0]["partition"], records[1]["partition"]);
    told(&folder, "p\n", &["push", "orders", "--partition", "3"]);
    let pulled = told(&folder, "", &["pull", "orders", "--partition", "3", "--last", "1"]);
    assert_eq!(pulled, "p\n");
}

#[test]
fn a_group_gets_each_record_once_and_remembers_across_a_kill() {
    let folder = folder();
    let mut serving = serve(&folder, ORDERS);
    told(&folder, "1\n2\n3\n4\n5\n", &["push", "orders"]);
    assert_eq!(told(&folder, "", &["pull", "orders", "--group", "billing", "-n", "2"]), "1\n2\n");
    serving.signal("KILL");
    serving.end();
    let _serving = serve(&folder, ORDERS);
    let list = told(&folder, "", &["group", "list", "orders"]);
    assert!(list.lines().nth(1).unwrap().starts_with("billing  0        3"), "{list}");
    assert_eq!(told(&folder, "", &["pull", "orders", "--group", "billing"]), "3\n4\n5\n");
    assert_eq!(told(&folder, "", &["pull", "orders", "--group", "billing"]), "");
    told(&folder, "", &["group", "seek", "orders", "billing", "start"]);
    assert_eq!(told(&folder, "", &["pull", "orders", "--group", "billing", "-n", "1"]), "1\n");
    assert!(told(&folder, "", &["group", "describe", "orders", "billing"]).contains("partition 0  cursor 1"));
}

#[test]
fn after_a_reset_nothing_older_comes_and_offsets_go_on() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    told(&folder, "old\nolder\n", &["push", "orders"]);
    assert_eq!(told(&folder, "", &["reset", "orders"]), "orders: epoch 1 has begun\n");
    assert_eq!(told(&folder, "", &["pull", "orders"]), "");
    assert_eq!(told(&folder, "new\n", &["push", "orders"]), "1 record, offset 2\n");
    assert_eq!(told(&folder, "", &["pull", "orders"]), "new\n");
    let described = told(&folder, "", &["dnpipe", "describe", "orders"]);
    assert!(
        described.contains("epoch       1") && described.contains("offsets 2 to before 3"),
        "{described}"
    );
}

#[test]
fn who_follows_sees_what_is_pushed_later_and_ends_with_its_reader() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    told(&folder, "before\n", &["push", "orders"]);
    let mut follow = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["pull", "orders", "--follow", "-n", "3", "--data-dir", data(&folder).to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_a_moment();
    told(&folder, "after\nlast\n", &["push", "orders"]);
    let output = follow.stdout.take().unwrap();
    assert!(follow.wait().unwrap().success());
    assert_eq!(std::io::read_to_string(output).unwrap(), "before\nafter\nlast\n");
}

#[test]
fn what_is_encrypted_needs_its_key() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    let (key, short) = (folder.write("key", &"k".repeat(32)), folder.write("short", "k"));
    let (key, short) = (key.to_str().unwrap(), short.to_str().unwrap());
    told(&folder, "secret\n", &["push", "orders", "--encrypt", key]);
    assert_eq!(told(&folder, "", &["pull", "orders", "--decrypt", key]), "secret\n");
    let (code, said) = refused(&folder, "", &["pull", "orders"]);
    assert!(code == Some(1) && said.contains("give the one it was pushed with"), "{said}");
    // What is around it comes.
    told(&folder, "plain\n", &["push", "orders"]);
    for group in [&[][..], &["--group", "billing"]] {
        let output = ask(&folder, "", &[&["pull", "orders"], group].concat());
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), "plain\n".to_owned()));
        assert!(
            text(&output.stderr).contains("offsets 0 to before 1 of partition 0"),
            "{}",
            text(&output.stderr)
        );
    }
    let (code, said) = refused(&folder, "", &["pull", "orders", "--decrypt", short]);
    assert!(code == Some(2) && said.contains("the key has 1 bytes, and AES-256 takes 32"), "{said}");
}

#[test]
fn what_cannot_be_done_is_said_with_its_cure() {
    let folder = folder();
    let serving = serve(&folder, ORDERS);
    let (code, said) = refused(&folder, "", &["pull", "none"]);
    assert!(
        code == Some(1) && said.contains("there is no dnpipe `default/none`; `sidestream dnpipe list`"),
        "{said}"
    );
    let (code, said) = refused(&folder, "", &["push", "Orders"]);
    assert!(code == Some(2) && said.contains("lower-case letters"), "{said}");
    let (code, said) = refused(&folder, "", &["pull", "orders", "--from", "7"]);
    assert!(code == Some(1) && said.contains("there is nothing at this offset"), "{said}");
    let (code, said) = refused(&folder, "", &["pull", "orders", "--from", "yesterday"]);
    assert!(code == Some(2) && said.contains("write `start`, `end`"), "{said}");
    let (code, said) = refused(&folder, "", &["group", "describe", "orders", "none"]);
    assert!(code == Some(1) && said.contains("there is no group \"none\""), "{said}");
    let large = folder.write("large", &"x".repeat(2 << 20));
    let (code, said) = refused(&folder, "", &["push", "orders", large.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("push it in parts"), "{said}");
    // A second process on the same directory.
    let mut second = run(&folder.path("orders.yaml"), &["--data-dir", data(&folder).to_str().unwrap()]);
    assert_eq!(second.end().code(), Some(1));
    assert!(second.err().contains("is in use by process"), "{}", second.err());
    drop(serving);
    let (code, said) = refused(&folder, "", &["pull", "orders", "--patience", "0s"]);
    assert!(
        code == Some(1) && said.contains("nobody answers at") && said.contains("start the server"),
        "{said}"
    );
}

#[test]
fn a_full_quota_refuses_and_drops_nothing() {
    let folder = folder();
    let _serving = serve(&folder, "kind: Dnpipe\nmetadata: {name: orders}\nspec: {storage: {size: 100k}}\n");
    let value = folder.write("value", &"x".repeat(30_000));
    let value = value.to_str().unwrap();
    let files = [value; 9];
    let (code, said) = refused(&folder, "", &[&["push", "orders"], &files[..]].concat());
    assert!(code == Some(1) && said.contains("quota of 100000 bytes is full"), "{said}");
    let kept = told(&folder, "", &["pull", "orders"]);
    let (code, _) = refused(&folder, "", &["push", "orders", value, value, value, value]);
    assert_eq!(code, Some(1));
    assert!(told(&folder, "", &["pull", "orders"]).starts_with(&kept));
    told(&folder, "", &["reset", "orders"]);
    told(&folder, "", &["push", "orders", value]);
}

#[test]
fn a_file_may_have_pipelines_and_dnpipes_and_a_reload_adds_one() {
    let folder = folder();
    let tick = ["name: tick, source: {generator: {count: 10}}", "name: out, sink: {console: {format: JSON}}"];
    let both = format!("{ORDERS}---\n{}", pipeline("ten", &tick));
    let serving = serve(&folder, &both);
    serving.until_out("\"sequence\":9");
    told(&folder, "still served\n", &["push", "orders"]);
    let checked = text(&process::sidestream(&["check", folder.path("orders.yaml").to_str().unwrap()]).stdout);
    assert!(
        checked.contains("default/orders: ok, 1 partition, Device") && checked.contains("default/ten: ok"),
        "{checked}"
    );
    folder.write("orders.yaml", &format!("{both}---\nkind: Dnpipe\nmetadata: {{name: more}}\nspec: {{}}\n"));
    serving.signal("HUP");
    for _ in 0..50 {
        if told(&folder, "", &["dnpipe", "list"]).contains("default/more") {
            break;
        }
        wait_a_moment();
    }
    told(&folder, "added\n", &["push", "more"]);
}

#[test]
fn over_tcp_both_ends_prove_who_they_are() {
    let folder = folder();
    std::fs::create_dir(folder.path("peers")).unwrap();
    std::fs::create_dir(folder.path("others")).unwrap();
    let access = "kind: Dnpipe\nmetadata: {name: orders, namespace: shop}\nspec:\n  access:\n  \
        - {allow: [push], from: {namespace: web, serviceAccount: front}}\n  - {allow: [pull], from: {}}\n";
    let file = folder.write("orders.yaml", access);
    let (peers, others) = (folder.path("peers"), folder.path("others"));
    let (peers, others) = (peers.to_str().unwrap(), others.to_str().unwrap());
    let data = data(&folder);
    let serving =
        run(&file, &["--data-dir", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--peers", peers]);
    serving.until_err("INFO ready");
    let err = serving.err();
    let address = err.split("address=\"").nth(1).unwrap().split('"').next().unwrap();
    let at = |verb: &str, peers: &str, account: &str| {
        feed(
            "x\n",
            &[verb, "shop/orders", "--at", address, "--peers", peers, "--as", account, "--patience", "0s"],
        )
    };
    let pushed = at("push", peers, "web/front");
    assert_eq!(text(&pushed.stdout), "1 record, offset 0\n", "{}", text(&pushed.stderr));
    assert_eq!(text(&at("pull", peers, "shop/till").stdout), "x\n");
    for (verb, account) in [("pull", "web/front"), ("push", "shop/till"), ("push", "web/frontend")] {
        let output = at(verb, peers, account);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("may not") && said.contains("`spec.access`"), "{said}");
    }
    // Who has certificates of another authority is nobody.
    let output = at("pull", others, "shop/till");
    assert!(
        output.status.code() == Some(1) && text(&output.stderr).contains("no trust"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn dead_letters_need_a_dnpipe_to_go_to() {
    let folder = folder();
    let groups = "kind: Dnpipe\nmetadata: {name: orders}\nspec:\n  groups:\n  \
        - {name: billing, maxDeliveries: 2, deadLetter: lost}\n";
    let file = folder.write("orders.yaml", groups);
    let output = process::sidestream(&["check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("unknown-dead-letter"), "{}", text(&output.stdout));
    let _serving =
        serve(&folder, &format!("{groups}---\nkind: Dnpipe\nmetadata: {{name: lost}}\nspec: {{}}\n"));
    assert!(told(&folder, "", &["group", "list", "orders"]).contains("default/lost"));
    assert_eq!(
        told(&folder, "", &["redrive", "orders", "billing"]),
        "billing: 0 records will be delivered again\n"
    );
}

#[test]
fn what_was_delivered_in_vain_is_a_dead_letter_and_is_redriven() {
    let folder = folder();
    let served = "kind: Dnpipe\nmetadata: {name: orders}\nspec:\n  groups:\n  \
        - {name: billing, maxDeliveries: 2, deadLetter: lost}\n---\n\
        kind: Dnpipe\nmetadata: {name: lost}\nspec: {}\n";
    let _serving = serve(&folder, served);
    told(&folder, "poison\nfine\nvenom\n", &["push", "orders"]);
    let client = Client::local(data(&folder).join("sidestream.sock")).unwrap();
    let mut member = client.join("orders", "billing", GroupConfig::default()).unwrap();
    let mut deliveries = Vec::new();
    while deliveries.len() < 5 {
        let delivery = member.next_delivery().unwrap();
        match &delivery.record.value[..] {
            b"fine" => member.ack(&delivery).unwrap(),
            _ => member.give_back(&delivery).unwrap(),
        }
        deliveries.push((delivery.record.offset, delivery.attempt));
    }
    deliveries.sort_unstable();
    assert_eq!(deliveries, [(0, 1), (0, 2), (1, 1), (2, 1), (2, 2)]);
    member.leave().unwrap();

    let mut letters = process::dnpipes::until(&folder, "lost", 2);
    letters.sort_unstable();
    assert_eq!(letters, ["poison", "venom"]);
    let all = told(&folder, "", &["pull", "lost", "--format", "json"]);
    let letter: serde_json::Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    let (from, times) =
        (&letter["headers"]["dead-letter-dnpipe"], &letter["headers"]["dead-letter-deliveries"]);
    assert_eq!((from.as_str(), times.as_str()), (Some("default/orders"), Some("2")));
    process::dnpipes::until_nothing_is_left(&folder, "orders", "billing");

    let redrive = || told(&folder, "", &["redrive", "orders", "billing"]);
    assert_eq!(redrive(), "billing: 2 records will be delivered again\n");
    let mut again: Vec<_> =
        told(&folder, "", &["pull", "orders", "--group", "billing"]).lines().map(str::to_owned).collect();
    again.sort_unstable();
    assert_eq!(again, ["poison", "venom"]);
    assert_eq!(redrive(), "billing: 0 records will be delivered again\n", "each letter is redriven once");
    assert_eq!(process::dnpipes::until(&folder, "lost", 2).len(), 2, "letters stay where they are");

    // What a reset removed cannot be delivered again.
    told(&folder, "spoiled\n", &["push", "orders"]);
    let mut member = client.join("orders", "billing", GroupConfig::default()).unwrap();
    for _ in 0..2 {
        let delivery = member.next_delivery().unwrap();
        member.give_back(&delivery).unwrap();
    }
    process::dnpipes::until(&folder, "lost", 3);
    told(&folder, "", &["reset", "orders"]);
    assert_eq!(redrive(), "billing: 0 records will be delivered again; 1 record no longer in orders\n");
}

#[test]
fn the_folder_of_data_is_that_of_the_environment_where_none_is_named() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    let listed = command.args(["dnpipe", "list"]).env("SIDESTREAM_DATA_DIR", data(&folder)).output().unwrap();
    assert!(text(&listed.stdout).contains("default/orders"), "{}", text(&listed.stderr));
    assert!(Path::new(&data(&folder)).join("sidestream.sock").exists());
}

#[test]
fn curl_pushes_and_pulls_at_the_local_socket() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("curl is not installed");
    }
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    let socket = data(&folder).join("sidestream.sock");
    let curl = |more: &[&str]| {
        let url = "http://localhost/v1/dnpipes/default/orders/records";
        let mut command = Command::new("curl");
        text(
            &command
                .args(["-sS", "--unix-socket", socket.to_str().unwrap(), url])
                .args(more)
                .output()
                .unwrap()
                .stdout,
        )
    };
    assert_eq!(curl(&["-d", "by curl"]), r#"{"partition":0,"offset":0,"epoch":0}"#);
    assert!(curl(&[]).contains(r#""value":"by curl""#));
    assert_eq!(told(&folder, "", &["pull", "orders"]), "by curl\n");
}

#[test]
fn what_is_too_long_for_a_record_is_refused_before_more_is_read() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    let (code, said) = refused(&folder, "", &["push", "orders", "/dev/zero"]);
    let expected = "/dev/zero has more than the 1048576 bytes that a record has at most; push it in parts";
    assert!(code == Some(1) && said.contains(expected), "{said}");
    let (code, said) = refused(&folder, "", &["push", "orders", "--encrypt", "/dev/zero"]);
    assert!(code == Some(2) && said.contains("a key has 32"), "{said}");
    // A line that does not end, in an input that does not end: what is before it is pushed.
    let mut push = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["push", "orders", "--data-dir", data(&folder).to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = push.stdin.take().unwrap();
    let line = [b"first\n", &vec![b'x'; (1 << 20) + 1][..]].concat();
    let writer = std::thread::spawn(move || input.write_all(&line).map(|()| input));
    let said = std::io::read_to_string(push.stderr.take().unwrap()).unwrap();
    let stored = std::io::read_to_string(push.stdout.take().unwrap()).unwrap();
    assert_eq!((push.wait().unwrap().code(), &*stored), (Some(1), "1 record, offset 0\n"), "{said}");
    assert!(said.contains("line 2 of the standard input has more than"), "{said}");
    drop(writer.join().unwrap());
    assert_eq!(told(&folder, "", &["pull", "orders"]), "first\n");
    // Where there is nothing before it, nothing is said of what is stored.
    let output = ask(&folder, &"x".repeat((1 << 20) + 1), &["push", "orders"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
}

#[test]
fn a_push_that_is_refused_ends_while_its_input_is_still_open() {
    let folder = folder();
    let _serving = serve(&folder, ORDERS);
    let mut push = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["push", "orders", "--partition", "7", "--data-dir", data(&folder).to_str().unwrap()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = push.stdin.take().unwrap();
    writeln!(input, "nowhere").unwrap();
    let said = std::io::read_to_string(push.stderr.take().unwrap()).unwrap();
    assert_eq!(push.wait().unwrap().code(), Some(1));
    assert!(said.contains("there is no partition 7"), "{said}");
    drop(input);
}
