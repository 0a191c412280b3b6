//! A small world of real programs, each on a port of its own, ended with the test whatever happens.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::Value;

/// Programs that run until the world is dropped, and the folder they write to.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    programs: Vec<(String, Child)>,
}

impl World {
    pub(crate) fn new() -> Self {
        World { folder: tempfile::tempdir().expect("a folder for the test"), programs: Vec::new() }
    }

    /// Writes a file that appears whole, as the node exporter's text files must.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let part = path.with_extension("part");
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder can be made");
        fs::write(&part, text).expect("the test's folder can be written");
        fs::rename(&part, &path).expect("a file can be renamed in its folder");
        path
    }

    /// Starts a program; what it says goes to `NAME.log`.
    pub(crate) fn start(&mut self, name: &str, program: &Path, arguments: &[&str]) {
        let log = fs::File::create(self.folder.path().join(format!("{name}.log"))).expect("a log file");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        self.programs.push((name.to_owned(), child));
    }

    /// Asks a program to end with SIGTERM and gives its exit code.
    pub(crate) fn stop(&mut self, name: &str) -> Option<i32> {
        let index = self.programs.iter().position(|(own, _)| own == name).expect("a program of this world");
        let (_, mut child) = self.programs.remove(index);
        let ended = Command::new("kill").arg(child.id().to_string()).status();
        assert!(ended.is_ok_and(|status| status.success()), "{name} could not be asked to end");
        child.wait().expect("it ends").code()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (name, child) in &mut self.programs {
            let _ = child.kill();
            let _ = child.wait();
            if thread::panicking() {
                let log =
                    fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(30).collect();
                eprintln!("--- {name} said last:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// The body of a GET, or why there is none.
pub(crate) fn get(port: u16, path: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status == "200" { Ok(body.to_owned()) } else { Err(format!("{status}: {body}")) }
}

pub(crate) fn get_json(port: u16, path: &str) -> Result<Value, String> {
    serde_json::from_str(&get(port, path)?).map_err(|error| error.to_string())
}

/// An HTTP server that keeps the JSON bodies it is sent: the one an Alertmanager notifies.
pub(crate) struct Notified {
    pub(crate) port: u16,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Notified {
    pub(crate) fn listen() -> Notified {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let bodies: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = bodies.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(body) = read_request(stream) {
                    kept.lock().expect("nobody panics with it").push(body);
                }
            }
        });
        Notified { port, bodies }
    }

    pub(crate) fn with_status(&self, status: &str) -> Option<Value> {
        let bodies = self.bodies.lock().expect("nobody panics with it");
        bodies.iter().find(|body| body["status"] == status).cloned()
    }
}

fn read_request(stream: TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    serde_json::from_slice(&body).ok()
}
