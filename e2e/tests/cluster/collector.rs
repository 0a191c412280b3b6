//! A web service on this machine that pods send events to, and that counts what it got: events of a `generator`, by their
//! `sequence`, and windows by their `count`.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;
use sidestream_e2e::eventually;

pub(crate) struct Collector {
    /// Where a webhook sends to.
    pub(crate) url: String,
    came: Arc<Mutex<Came>>,
}

#[derive(Default)]
struct Came {
    /// How often each event did, by its number.
    times: Vec<u32>,
    /// The last number of each key.
    last: HashMap<String, usize>,
    /// Events that came for the first time, behind a later one of their key.
    late: Vec<usize>,
    /// The sum of what windows have counted.
    counted: u64,
}

/// What became of the first events of a generator.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Account {
    pub(crate) arrived: usize,
    pub(crate) lost: usize,
    pub(crate) repeated: usize,
    /// Of all events that came, those that came for the first time behind a later one of their key.
    pub(crate) reordered: usize,
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
        let came = Arc::<Mutex<Came>>::default();
        let kept = came.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                thread::spawn(move || serve(stream, &kept));
            }
        });
        Some(Collector { url, came })
    }

    /// How many events were in the windows that came, where those count them.
    pub(crate) fn counted(&self) -> u64 {
        self.came.lock().expect("nobody panics with it").counted
    }

    /// What became of the first `count` events, once every one has arrived.
    pub(crate) fn all_arrive(&self, count: usize, limit: Duration) -> Account {
        eventually("every event arrives", limit, || match self.account(count) {
            account if account.lost == 0 => Ok(account),
            account => Err(format!("{account:?}")),
        })
    }

    /// What became of the first `count` events.
    pub(crate) fn account(&self, count: usize) -> Account {
        let came = self.came.lock().expect("nobody panics with it");
        let of_first = (0..count).map(|number| came.times.get(number).copied().unwrap_or(0));
        let account = Account { reordered: came.late.len(), ..Account::default() };
        of_first.fold(account, |account, times| Account {
            arrived: account.arrived + usize::from(times > 0),
            lost: account.lost + usize::from(times == 0),
            repeated: account.repeated + times.saturating_sub(1) as usize,
            ..account
        })
    }
}

impl Came {
    fn note(&mut self, number: usize, key: &str) {
        let length = self.times.len().max(number + 1);
        self.times.resize(length, 0);
        self.times[number] += 1;
        match self.last.get_mut(key) {
            Some(last) if *last > number && self.times[number] == 1 => self.late.push(number),
            Some(last) => *last = number.max(*last),
            None => {
                self.last.insert(key.to_owned(), number);
            }
        }
    }
}

/// Answers requests until the peer has no more.
fn serve(stream: TcpStream, came: &Mutex<Came>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let events: Vec<Value> = serde_json::from_slice(&read_body(&mut reader)?).ok()?;
        let mut came = came.lock().expect("nobody panics with it");
        for event in &events {
            came.counted += event["count"].as_u64().unwrap_or_default();
            if let (Some(number), Some(key)) = (event["sequence"].as_u64(), event["key"].as_str()) {
                came.note(usize::try_from(number).ok()?, key);
            }
        }
        drop(came);
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
