//! A dnpipe as a file, and back.

mod process;

use std::fs;

use process::{dnpipes, folder, sidestream, text};
use serde_json::Value;

const SERVED: &str = "
kind: Dnpipe
metadata: {name: orders}
spec: {partitions: 2}
---
kind: Dnpipe
metadata: {name: copy}
spec: {partitions: 2}
---
kind: Dnpipe
metadata: {name: other}
spec: {partitions: 2}
---
kind: Dnpipe
metadata: {name: narrow}
spec: {partitions: 1}
";

/// What is not where it is stored: partition, time, key and value of each record, in its order.
fn content(folder: &process::Folder, dnpipe: &str) -> Vec<Value> {
    let lines = dnpipes::pull(folder, dnpipe, &["--format", "json"]);
    let mut records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.sort_by_key(|record| (record["partition"].as_u64(), record["offset"].as_u64()));
    for record in &mut records {
        record.as_object_mut().unwrap().retain(|field, _| field != "offset" && field != "epoch");
    }
    records
}

#[test]
fn what_is_exported_is_there_once_after_any_number_of_imports_whole_or_cut() {
    let folder = folder();
    let _running = dnpipes::serve(&folder, SERVED);
    let data = dnpipes::data(&folder);
    let dnpipe = |arguments: &[&str]| {
        let said =
            sidestream(&[&["dnpipe"], arguments, &["--data-dir", &data, "--patience", "60s"]].concat());
        (said.status.code().unwrap(), text(&said.stderr))
    };
    for key in ["ann", "bob", "eve"] {
        let file = folder.write(key, &format!("order of {key}\n")).display().to_string();
        let pushed =
            sidestream(&["push", "orders", &file, "--key", key, "--header", "by=till", "--data-dir", &data]);
        assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    }
    dnpipes::push(&folder, "orders", "one\ntwo\nthree\n");
    let before = content(&folder, "orders");
    assert_eq!(before.len(), 6);

    let file = folder.path("orders.export").display().to_string();
    let (code, said) = dnpipe(&["export", "orders", "--file", &file]);
    assert!(code == 0 && said.contains("6 records"), "{said}");
    let (code, said) = dnpipe(&["import", "copy", "--file", &file]);
    assert!(code == 0 && said.contains("6 records"), "{said}");
    assert_eq!(content(&folder, "copy"), before);

    let (code, said) = dnpipe(&["import", "copy", "--file", &file]);
    assert!(code == 2 && said.contains("6 records already") && said.contains("--append"), "{said}");
    let (code, said) = dnpipe(&["import", "copy", "--append", "--file", &file]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(content(&folder, "copy"), before, "what is there already is stored once");
    let (code, said) = dnpipe(&["import", "narrow", "--file", &file]);
    assert!(code == 2 && said.contains("2 partitions") && said.contains("has 1"), "{said}");

    let whole = fs::read(&file).unwrap();
    let cut = folder.path("cut.export").display().to_string();
    for length in [0, 10, whole.len() / 2, whole.len() - 20, whole.len() - 1] {
        fs::write(&cut, &whole[..length]).unwrap();
        let (code, said) = dnpipe(&["import", "other", "--append", "--file", &cut]);
        // 2 says that nothing was begun.
        assert!(code == 1 + i32::from(length <= 10) && said.contains("not whole"), "{length}: {said}");
        assert_eq!(said.contains("before that are imported"), code == 1, "{length}: {said}");
        assert_eq!(content(&folder, "other").is_empty(), code == 2, "{length}: {said}");
    }
    let (code, said) = dnpipe(&["import", "other", "--append", "--file", &file]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(content(&folder, "other"), before, "what was cut is gone on with");

    // Behind the first line is the partition of the first batch.
    let line = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for place in [line, whole.len() / 2, whole.len() - 30, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        fs::write(&cut, &damaged).unwrap();
        let (code, said) = dnpipe(&["import", "other", "--append", "--file", &cut]);
        assert!(code == 1 + i32::from(place == line) && said.contains("sum"), "{place}: {said}");
        assert_eq!(said.contains("before that are imported"), code == 1, "{place}: {said}");
    }
    assert_eq!(content(&folder, "other"), before);
    // A restore after a reset brings all of it back.
    let reset = sidestream(&["reset", "other", "--data-dir", &data]);
    assert!(reset.status.success(), "{}", text(&reset.stderr));
    let (code, said) = dnpipe(&["import", "other", "--file", &file]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(content(&folder, "other"), before);
    // What was encrypted by its pusher is not made useless, and the export before stays.
    fs::write(folder.path("key"), [7; 32]).unwrap();
    let key = folder.path("key").display().to_string();
    let secret = folder.write("secret", "a secret\n").display().to_string();
    let pushed = sidestream(&["push", "orders", &secret, "--encrypt", &key, "--data-dir", &data]);
    assert!(pushed.status.success(), "{}", text(&pushed.stderr));
    let (code, said) = dnpipe(&["export", "orders", "--file", &file]);
    assert!(code == 1 && said.contains("encrypted") && said.contains("data directory"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), whole);

    fs::write(&cut, b"{\"kind\": \"Pipeline\"}\n").unwrap();
    let (code, said) = dnpipe(&["import", "other", "--append", "--file", &cut]);
    assert!(code == 2 && said.contains("does not begin as an export does"), "{said}");
}
