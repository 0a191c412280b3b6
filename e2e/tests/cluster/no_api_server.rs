//! The API server stands still.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use sidestream_e2e::eventually;

use crate::{
    flow::Flow,
    world::{Namespace, SOON},
};

/// How long it does.
const STANDSTILL: Duration = Duration::from_secs(120);

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_sidecar_container_that_is_killed_again_and_again_while_the_api_server_stands_still_loses_nothing() {
    let Some(flow) = Flow::lasting(150, Namespace::alone, "e2e-no-api") else { return };
    let hub = flow.shop.pods("flow", "hub").remove(0);
    let api_server =
        |process: &Process| process.says("cmdline", "kube-apiserver\0--etcd-servers\0http://127.0.0.1:2379");
    let sidecar = |process: &Process| {
        process.says("cmdline", "/sidestream-sidecar")
            && process.says("environ", &format!("POD_NAME={hub}\0"))
    };
    let (stopped, begun) = (Stopped::new(the_process(api_server)), Instant::now());
    flow.goes_on();
    for _ in 0..3 {
        signal("KILL", the_process(sidecar));
        flow.goes_on();
    }
    thread::sleep(STANDSTILL.saturating_sub(begun.elapsed()));
    flow.goes_on();
    drop(stopped);
    flow.shop.wait_ready("flow");
    flow.all_arrive();
}

/// A process that goes on when this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(process: u32) -> Stopped {
        signal("STOP", process);
        Stopped(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", self.0);
    }
}

pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
}

pub(crate) struct Process(PathBuf);

impl Process {
    pub(crate) fn says(&self, file: &str, what: &str) -> bool {
        let said = fs::read(self.0.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&said).contains(what)
    }
}

/// The one process that `is` says yes to, once there is one. Nodes are namespaces of this machine, so what runs in them is
/// seen here.
pub(crate) fn the_process(is: impl Fn(&Process) -> bool) -> u32 {
    eventually("there is one process", SOON, || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        let numbered =
            processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
        let found: Vec<u32> =
            numbered.filter(|(_, path)| is(&Process(path.clone()))).map(|(number, _)| number).collect();
        if let [one] = found[..] { Ok(one) } else { Err(format!("{found:?}")) }
    })
}
