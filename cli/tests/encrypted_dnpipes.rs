//! Dnpipes that are encrypted on the disk, from outside: what lies there, and what becomes of them and of the others where
//! their key is missing or another one.

mod process;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use process::{
    Folder, Running,
    dnpipes::{data, pull, push},
    folder, run, sidestream, text, wait_a_moment,
};

/// Made by nobody who has anything to hide.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
const OTHER: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// One that is encrypted, with `more` in its spec, and one that is not.
fn served(more: &str) -> String {
    let encryption = "encryption: {keyRef: {name: orders-key, key: key}}";
    format!(
        "kind: Dnpipe\nmetadata: {{name: orders}}\nspec: {{{encryption}{more}}}\n---\n\
         kind: Dnpipe\nmetadata: {{name: plain}}\nspec: {{}}\n"
    )
}

/// `sidestream run YAML --data-dir data --secrets secrets`, ready.
fn serve(folder: &Folder, yaml: &str) -> Running {
    let secrets = folder.path("secrets");
    let more = ["--data-dir", &data(folder), "--secrets", secrets.to_str().unwrap()];
    let running = run(&folder.write("served.yaml", yaml), &more);
    running.until_err("INFO ready");
    running
}

fn stop(mut serving: Running) {
    serving.signal("TERM");
    assert!(serving.end().success(), "{}", serving.err());
}

/// The key is this one from now on; none is missing.
fn put_key(folder: &Folder, key: Option<&str>) {
    let secret = folder.path("secrets/orders-key");
    fs::create_dir_all(&secret).unwrap();
    match key {
        Some(key) => {
            let fresh = folder.write("fresh-key", key);
            fs::rename(fresh, secret.join("key")).unwrap();
        }
        None => fs::remove_file(secret.join("key")).unwrap(),
    }
}

/// What is said where `orders` is not served, by every door and to everybody.
fn refusals(folder: &Folder) -> Vec<String> {
    let (data, input) = (data(folder), folder.write("input", "not stored"));
    let ask = |arguments: &[&str]| {
        let asked = sidestream(&[arguments, &["--patience", "0s", "--data-dir", &data]].concat());
        assert_eq!(asked.status.code(), Some(1), "{arguments:?}: {}", text(&asked.stdout));
        text(&asked.stderr)
    };
    let mut said = vec![ask(&["push", "orders", input.to_str().unwrap()]), ask(&["pull", "orders"])];
    said.push(ask(&["pull", "orders", "--group", "billing", "-n", "1"]));
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("curl is not installed");
        return said;
    }
    for more in [&["-d", "not stored"][..], &[]] {
        let url = "http://localhost/v1/dnpipes/default/orders/records";
        let socket = format!("{data}/sidestream.sock");
        let mut command = Command::new("curl");
        command.args(["-sS", "-w", " %{http_code}", "--unix-socket", &socket, url]).args(more);
        let answer = text(&command.output().unwrap().stdout);
        assert!(answer.contains(r#""code":"locked""#) && answer.ends_with(" 503"), "{answer}");
        said.push(answer);
    }
    said
}

/// All files of a folder and of those in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.symlink_metadata().unwrap() {
            found if found.is_dir() => files(&path),
            found if found.is_file() => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

fn lies_in(folder: &Path, secret: &str) -> bool {
    files(folder).iter().any(|path| text(&fs::read(path).unwrap()).contains(secret))
}

/// Waits until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        wait_a_moment();
    }
    panic!("{what} did not come");
}

#[test]
fn what_is_encrypted_is_nowhere_on_the_disk_and_locked_without_its_key_while_the_others_are_served() {
    let folder = folder();
    put_key(&folder, Some(KEY));
    let serving = serve(&folder, &served(""));
    let lines: String = (0..200).map(|n| format!("secret-value-{n}\n")).collect();
    push(&folder, "orders", &lines);
    push(&folder, "plain", "open-value\n");
    let value = folder.write("value", "secret-value-with-more");
    let value = value.to_str().unwrap();
    let more =
        ["--key", "secret-key", "--header", "secret-name=secret-content", "--data-dir", &data(&folder)];
    assert!(sidestream(&[&["push", "orders", value], &more[..]].concat()).status.success());
    let all = format!("{lines}secret-value-with-more\n");
    assert_eq!(pull(&folder, "orders", &[]), all);
    stop(serving);
    let lies_there = |text: &str| lies_in(Path::new(&data(&folder)), text);
    assert!(lies_there("open-value"), "this finds what is not encrypted");
    for secret in ["secret-value", "secret-key", "secret-name", "secret-content", KEY.trim()] {
        assert!(!lies_there(secret), "{secret}");
    }

    put_key(&folder, None);
    let serving = serve(&folder, &served(", storage: {size: 1Gi}"));
    serving.until_err("dnpipe=default/orders");
    for said in refusals(&folder) {
        let parts =
            ["the dnpipe is locked", "`key` of Secret `orders-key` is missing", "put ", "orders-key/key"];
        assert!(parts.iter().all(|part| said.contains(part)) && !said.contains("disk failed"), "{said}");
    }
    push(&folder, "plain", "also without that key\n");
    assert_eq!(pull(&folder, "plain", &[]), "open-value\nalso without that key\n");

    put_key(&folder, Some(OTHER));
    serving.until_err("a dnpipe is still locked");
    let are_refused = || {
        for said in refusals(&folder) {
            assert!(
                said.contains("`orders-key` is not the one that its data key was wrapped with"),
                "{said}"
            );
        }
    };
    are_refused();
    stop(serving);
    let serving = serve(&folder, &served(", storage: {size: 1Gi}"));
    serving.until_err("a dnpipe is locked").until_err("is not the one");
    are_refused();
    push(&folder, "plain", "nor by another\n");

    put_key(&folder, Some(KEY));
    // Whoever has patience needs to do nothing.
    push(&folder, "orders", "it goes on\n");
    assert_eq!(pull(&folder, "orders", &[]), format!("{all}it goes on\n"));
    until("what its file says of it", || {
        let described = sidestream(&["dnpipe", "describe", "orders", "--data-dir", &data(&folder)]);
        text(&described.stdout).contains("1Gi")
    });
    stop(serving);
    assert!(!lies_there("it goes on"));
}

#[test]
fn one_that_is_not_there_yet_is_made_when_its_key_is() {
    let folder = folder();
    fs::create_dir_all(folder.path("secrets")).unwrap();
    let serving = serve(&folder, &served(""));
    serving.until_err("a dnpipe waits for its key").until_err("dnpipe=default/orders");
    push(&folder, "plain", "served\n");
    put_key(&folder, Some(KEY));
    until("the dnpipe", || {
        let listed = sidestream(&["dnpipe", "list", "--data-dir", &data(&folder)]);
        text(&listed.stdout).contains("default/orders")
    });
    push(&folder, "orders", "a-secret\n");
    assert_eq!(pull(&folder, "orders", &[]), "a-secret\n");
    stop(serving);
    assert!(!lies_in(Path::new(&data(&folder)), "a-secret"));
}
