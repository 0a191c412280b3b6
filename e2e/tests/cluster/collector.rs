//! A web service on this machine that pods send events to, and that counts what it got: events of a `generator`, by their
//! `sequence`.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

/// How often each event came, by its number.
type Times = Arc<Mutex<Vec<u32>>>;

pub(crate) struct Collector {
    /// Where a webhook sends to.
    pub(crate) url: String,
    times: Times,
}

/// What became of the first events of a generator.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Account {
    pub(crate) arrived: usize,
    pub(crate) lost: usize,
    pub(crate) repeated: usize,
}

impl Collector {
    /// Listens where pods reach this machine; `None` where they do not, on a cluster that was not raised here.
    pub(crate) fn listen() -> Option<Collector> {
        let Ok(host) = env::var("SIDESTREAM_E2E_HOST") else {
            println!("skipped: pods of this cluster do not reach this machine");
            return None;
        };
        let listener = TcpListener::bind((host.as_str(), 0)).expect("a free port");
        let url = format!("http://{}/events", listener.local_addr().expect("a bound port"));
        let times = Times::default();
        let kept = times.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                thread::spawn(move || serve(stream, &kept));
            }
        });
        Some(Collector { url, times })
    }

    /// What became of the first `count` events.
    pub(crate) fn account(&self, count: usize) -> Account {
        let times = self.times.lock().expect("nobody panics with it");
        let of_first = (0..count).map(|number| times.get(number).copied().unwrap_or(0));
        of_first.fold(Account::default(), |account, times| Account {
            arrived: account.arrived + usize::from(times > 0),
            lost: account.lost + usize::from(times == 0),
            repeated: account.repeated + times.saturating_sub(1) as usize,
        })
    }
}

/// Answers requests until the peer has no more.
fn serve(stream: TcpStream, times: &Times) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let events: Vec<Value> = serde_json::from_slice(&read_body(&mut reader)?).ok()?;
        let mut times = times.lock().expect("nobody panics with it");
        for number in events.iter().filter_map(|event| event["sequence"].as_u64()) {
            let number = usize::try_from(number).ok()?;
            let length = times.len().max(number + 1);
            times.resize(length, 0);
            times[number] += 1;
        }
        drop(times);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
    }
}

fn read_body(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
    let mut body = vec![0; length?];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}
