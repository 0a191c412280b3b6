//! The real program, driven from outside: start it, read what it says, ask it, signal it.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod dnpipes;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// A folder of files of one test.
pub(crate) struct Folder(tempfile::TempDir);

pub(crate) fn folder() -> Folder {
    Folder(tempfile::tempdir().unwrap())
}

impl Folder {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file as an editor does: a new one in place of the old.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, fresh) = (self.path(name), self.path("fresh"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path
    }
}

/// The YAML of a pipeline of these stages, one a line.
pub(crate) fn pipeline(name: &str, stages: &[&str]) -> String {
    let stages: String = stages.iter().map(|stage| format!("  - {{{stage}}}\n")).collect();
    format!(
        "apiVersion: sidestream.dev/v1alpha1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  stages:\n{stages}"
    )
}

/// Runs the program to its end.
pub(crate) fn sidestream(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidestream")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The program at work; killed where the test ends before it does.
pub(crate) struct Running {
    child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

/// `sidestream run FILE --metrics 127.0.0.1:0 ...`
pub(crate) fn run(file: &Path, more: &[&str]) -> Running {
    Running::of(begin(file, more))
}

/// Like [`run`], and nobody reads what it prints.
pub(crate) fn run_unread(file: &Path, more: &[&str]) -> Running {
    let mut child = begin(file, more);
    drop(child.stdout.take());
    Running::of(child)
}

fn begin(file: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.arg("run").arg(file).args(more);
    if !more.contains(&"--metrics") {
        command.args(["--metrics", "127.0.0.1:0"]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

impl Running {
    fn of(mut child: Child) -> Running {
        let (out, err) = (Arc::default(), Arc::default());
        let printed = child.stdout.take().map(|from| keep(from, Arc::clone(&out)));
        let said = child.stderr.take().map(|from| keep(from, Arc::clone(&err)));
        let readers = printed.into_iter().chain(said).collect();
        Running { stdin: child.stdin.take(), child, out, err, readers }
    }

    pub(crate) fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits until the standard output holds `text`.
    pub(crate) fn until_out(&self, text: &str) -> &Self {
        self.until(text, |own| own.out());
        self
    }

    /// Waits until the standard error holds `text`.
    pub(crate) fn until_err(&self, text: &str) -> &Self {
        self.until(text, |own| own.err());
        self
    }

    fn until(&self, text: &str, read: impl Fn(&Self) -> String) {
        for _ in 0..PATIENCE_TIMES {
            if read(self).contains(text) {
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
        panic!("`{text}` did not come\n--- out\n{}\n--- err\n{}", self.out(), self.err());
    }

    /// Where it serves its metrics, once it is ready.
    pub(crate) fn address(&self) -> String {
        self.until_err("ready pipelines");
        let err = self.err();
        let after = err.split("metrics=\"http://").nth(1).expect("the ready line names the address");
        after.split('/').next().unwrap().to_owned()
    }

    /// What a path answers: the status line and the rest.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        get(&self.address(), path)
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for its end; everything it said is there then.
    pub(crate) fn end(&mut self) -> ExitStatus {
        for _ in 0..PATIENCE_TIMES {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.readers.drain(..).for_each(|reader| reader.join().unwrap());
                return status;
            }
            thread::sleep(LOOK_AGAIN);
        }
        panic!("it did not end\n--- out\n{}\n--- err\n{}", self.out(), self.err());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn keep(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            to.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

pub(crate) fn wait_a_moment() {
    thread::sleep(Duration::from_millis(300));
}

const LOOK_AGAIN: Duration = Duration::from_millis(10);
const PATIENCE_TIMES: usize = 12_000;
