//! The API server stands still.

use std::{fs, path::PathBuf, process::Command};

use crate::{flow::Flow, world::Namespace};

#[test]
#[ignore = "needs a cluster: make e2e"]
fn a_killed_sidecar_container_starts_again_while_the_api_server_stands_still() {
    let Some(flow) = Flow::start(Namespace::alone, "e2e-no-api") else { return };
    let hub = flow.shop.pods("flow", "hub").remove(0);
    let stopped = Stopped::new(the_process(|process| {
        process.says("cmdline", "kube-apiserver\0--etcd-servers\0http://127.0.0.1:2379")
    }));
    flow.goes_on();
    let sidecar = the_process(|process| {
        process.says("cmdline", "/sidestream-sidecar")
            && process.says("environ", &format!("POD_NAME={hub}\0"))
    });
    signal("KILL", sidecar);
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

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
}

struct Process(PathBuf);

impl Process {
    fn says(&self, file: &str, what: &str) -> bool {
        let said = fs::read(self.0.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&said).contains(what)
    }
}

/// The one process that `is` says yes to. Nodes are namespaces of this machine, so what runs in them is seen here.
fn the_process(is: impl Fn(&Process) -> bool) -> u32 {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let numbered =
        processes.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())));
    let found: Vec<u32> =
        numbered.filter(|(_, path)| is(&Process(path.clone()))).map(|(number, _)| number).collect();
    assert_eq!(found.len(), 1, "processes: {found:?}");
    found[0]
}
