//! A pod: its folders, which outlive its containers, and a container, which is the program.

use std::{
    cell::Cell,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::operator::{Operator, TOKEN};

pub(crate) struct Pod {
    folders: TempDir,
    operator: Cell<SocketAddr>,
}

pub(crate) struct Container {
    process: Child,
    metrics: SocketAddr,
    log: PathBuf,
}

impl Pod {
    pub(crate) fn new(operator: &Operator) -> Pod {
        let folders = tempfile::tempdir().unwrap();
        for folder in ["identity", "cache", "secrets", "dnpipes"] {
            fs::create_dir(folders.path().join(folder)).unwrap();
        }
        fs::write(folders.path().join("token"), TOKEN).unwrap();
        let pod = Pod { folders, operator: Cell::new(operator.address) };
        pod.mount_anchors_of(operator);
        pod
    }

    /// The kubelet brings a new state of the ConfigMap.
    pub(crate) fn mount_anchors_of(&self, operator: &Operator) {
        let text = operator.authority.anchors().to_pem();
        fs::write(self.folders.path().join("anchors.pem"), text).unwrap();
    }

    /// The operator's name now leads to another.
    pub(crate) fn call(&self, operator: &Operator) {
        self.operator.set(operator.address);
    }

    /// Where its app has the door to dnpipes.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folders.path().join("dnpipes/sidestream.sock")
    }

    /// A file of its cache.
    pub(crate) fn cached(&self, name: &str) -> PathBuf {
        self.folders.path().join("cache").join(name)
    }

    /// What a request of the app's is answered.
    pub(crate) fn asked_by_app(&self, path: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut socket = UnixStream::connect(self.socket()).expect("it is there");
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
            let (sent, mut answer) = (socket.write_all(request.as_bytes()), String::new());
            // Where the greeting took too long, there is none.
            if sent.is_ok() && socket.read_to_string(&mut answer).is_ok_and(|count| count > 0) {
                return answer;
            }
            assert!(Instant::now() < end, "no answer");
        }
    }

    pub(crate) fn start(&self) -> Container {
        let path = |name: &str| self.folders.path().join(name);
        let metrics = free_address();
        let log = path("log");
        let process = Command::new(env!("CARGO_BIN_EXE_sidestream-sidecar"))
            .args(["--operator", &self.operator.get().to_string(), "--pod", "count-1", "--namespace", "shop"])
            .args(["--metrics", &metrics.to_string(), "--edges", "127.0.0.1:0", "--grace", "5s"])
            .args([&"--token".into(), &path("token"), &"--anchors".into(), &path("anchors.pem")])
            .args([&"--identity".into(), &path("identity"), &"--cache".into(), &path("cache")])
            .args([&"--secrets".into(), &path("secrets")])
            .args([&"--socket".into(), &self.socket()])
            .stderr(fs::File::create(&log).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Container { process, metrics, log }
    }
}

impl Container {
    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics").unwrap_or_default()
    }

    /// Whether the answer is a yes.
    pub(crate) fn answers(&self, path: &str) -> bool {
        self.get(path).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Events that `stage` has given.
    pub(crate) fn counted(&self, stage: &str) -> u64 {
        self.metric("sidestream_stage_events_out_total", stage)
    }

    /// A metric of a stage; 0 where there is none.
    pub(crate) fn metric(&self, name: &str, stage: &str) -> u64 {
        let wanted = format!("stage=\"{stage}\"");
        let text = self.metrics();
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(&wanted));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default() as u64
    }

    pub(crate) fn until_it_counts(&self, stage: &str, events: u64) {
        self.until(|container| container.counted(stage) >= events);
    }

    pub(crate) fn until(&self, so: impl Fn(&Container) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < end, "it never came to be; the log says\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends at once, as by the kernel.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends as the kubelet ends it; gives the exit status.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(self.metrics).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers every request at `address` with a yes, for as long as the test runs; keeps the numbers of the events in them.
pub(crate) fn take_all(address: SocketAddr) -> Arc<Mutex<Vec<u64>>> {
    let (listener, taken) = (TcpListener::bind(address).unwrap(), Arc::<Mutex<Vec<u64>>>::default());
    let keeps = taken.clone();
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let Some(request) = body(&mut socket) else { continue };
            let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
            let numbers =
                request.split("\"sequence\":").skip(1).filter_map(|rest| digits(rest).parse::<u64>().ok());
            keeps.lock().unwrap().extend(numbers);
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    taken
}

/// The body of the next request.
fn body(socket: &mut impl Read) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let length = head.split("content-length:").nth(1)?.lines().next()?.trim().parse().ok()?;
    let mut body = vec![0; length];
    socket.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(20);
