//! A volume without room for another record: every door says so, in its words, and what was acknowledged is there.
#![cfg(target_os = "linux")]

mod process;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use process::{Folder, dnpipes, folder, sidestream, text};
use sidestream_client::{Batch, ClientError, From, Record, Refusal, blocking::Client};

const SERVED: &str = "
kind: Dnpipe
metadata: {name: orders}
spec: {}
";

/// A small file system in memory at the folder `data`.
struct Volume(PathBuf);

impl Volume {
    /// None where this user may mount none.
    fn of(folder: &Folder) -> Option<Volume> {
        let at = folder.path("data");
        std::fs::create_dir(&at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"]).arg(&at).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Volume(at))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The server may not quite have ended: it goes when nobody uses it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What the door answers to a push by HTTP.
fn post(folder: &Folder, value: &str) -> String {
    let mut stream = UnixStream::connect(folder.path("data").join("sidestream.sock")).unwrap();
    let length = value.len();
    write!(
        stream,
        "POST /v1/dnpipes/default/orders/records HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{value}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_full_volume_refuses_pushes_at_every_door_and_a_reset_makes_room() {
    let folder = folder();
    let Some(_volume) = Volume::of(&folder) else {
        println!("no root here: not tested");
        return;
    };
    let _running = dnpipes::serve(&folder, SERVED);
    let client = Client::local(folder.path("data").join("sidestream.sock")).unwrap();
    let large = "x".repeat(500_000);
    let push = || {
        let batch = Batch { records: vec![Record::new(large.clone())], ..Batch::default() };
        client.push_together("orders", 0, &batch)
    };
    let mut pushed = 0;
    let refused = loop {
        match push() {
            Ok(_) => pushed += 1,
            Err(error) => break error,
        }
    };
    let is_full = |error: &ClientError| matches!(error, ClientError::Refused(Refusal::Full { what, .. }) if what == "disk");
    assert!(is_full(&refused) && pushed > 20, "{pushed}: {refused}");
    let by_http = post(&folder, &large);
    assert!(by_http.starts_with("HTTP/1.1 507") && by_http.contains(r#""code":"full""#), "{by_http}");
    let data = dnpipes::data(&folder);
    let file = folder.write("large", &large).display().to_string();
    let by_verb = sidestream(&["push", "orders", &file, "--data-dir", &data, "--patience", "60s"]);
    let said = text(&by_verb.stderr);
    assert!(!by_verb.status.success() && said.contains("reset the dnpipe"), "{said}");

    // Whoever reads gets all of it, and may say so.
    for offset in 0..pushed {
        let page = client.pull("orders", 0, From::Offset(offset), 1, Duration::ZERO).unwrap();
        assert_eq!((page.records[0].offset, page.records[0].value.len()), (offset, large.len()));
    }
    assert_eq!(client.reset("orders").unwrap(), 1);
    // What was let go comes back within moments.
    let again = (0..600).find_map(|_| match push() {
        Err(error) if is_full(&error) => {
            thread::sleep(Duration::from_millis(100));
            None
        }
        pushed => Some(pushed.unwrap()),
    });
    assert_eq!(again.map(|receipts| (receipts[0].offset, receipts[0].epoch)), Some((pushed, 1)));
}
