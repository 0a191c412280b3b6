//! etcd and an API server from the cluster's programs, ended with this process, with the definitions and the rights that
//! the chart installs.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Deserialize;
use serde_json::{Value, json};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// What of the install manifest has a meaning where nothing runs.
const INSTALLED: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
];
const OPERATOR: &str = "system:serviceaccount:sidestream-system:sidestream-operator";

pub(crate) struct ApiServer {
    /// Ends when its standard input does.
    process: Child,
    state: PathBuf,
}

/// Writes of the operator, as the audit log has them.
pub(crate) struct Writes {
    all: usize,
    of_lease: usize,
}

impl Writes {
    /// Other writes than renewals of the Lease, and those.
    pub(crate) fn since(&self, before: &Writes) -> (usize, usize) {
        let of_lease = self.of_lease - before.of_lease;
        (self.all - before.all - of_lease, of_lease)
    }
}

impl ApiServer {
    /// `None` where its programs are not there.
    pub(crate) fn start() -> Option<ApiServer> {
        let script = Path::new(ROOT).join("e2e/cluster/api-server.sh");
        if !shell("[ -x \"$CLUSTER_CACHE/bin/kube\" ]", &[]).status().ok()?.success() {
            return None;
        }
        let started = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = started.expect("bash");
        let mut state = String::new();
        let mut says = BufReader::new(process.stdout.take().expect("a pipe"));
        says.read_line(&mut state).expect("a folder");
        let server = ApiServer { process, state: PathBuf::from(state.trim()) };
        let manifest =
            fs::read_to_string(Path::new(ROOT).join("manifests/install.yaml")).expect("the manifest");
        let objects = serde_yaml::Deserializer::from_str(&manifest)
            .map(|object| Value::deserialize(object).expect("YAML"))
            .filter(|object| INSTALLED.iter().any(|kind| object["kind"] == *kind));
        // What definitions define comes after them.
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects.collect::<Vec<_>>()});
        server.kubectl(&["apply", "--server-side", "-f", "-"], &list.to_string());
        server.kubectl(&["wait", "--for=condition=Established", "crd/pipelines.sidestream.dev"], "");
        Some(server)
    }

    pub(crate) async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a cluster")).expect("a client")
    }

    /// The kubeconfig of the operator's own account, with the rights of the chart.
    pub(crate) fn kubeconfig_of_operator(&self) -> PathBuf {
        let token =
            ["--namespace", "sidestream-system", "create", "token", "sidestream-operator", "--duration=24h"];
        let token = self.kubectl(&token, "");
        let own = self.state.join("operator.kubeconfig");
        fs::copy(self.kubeconfig(), &own).expect("copied");
        let own_config = format!("--kubeconfig={}", own.display());
        let token = format!("--token={}", token.trim());
        self.kubectl(&[&own_config, "config", "set-credentials", "operator", &token], "");
        self.kubectl(&[&own_config, "config", "set-context", "--current", "--user=operator"], "");
        own
    }

    /// A file of its own for what a program says.
    pub(crate) fn log(&self, name: &str) -> fs::File {
        fs::File::create(self.state.join("log").join(name)).expect("a log")
    }

    pub(crate) fn make_namespaces<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let object =
            |name: &&str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let items: Vec<Value> = names.collect::<BTreeSet<_>>().iter().map(object).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.kubectl(&["apply", "-f", "-"], &list.to_string());
    }

    /// Says of a Deployment what its controller would, once it is there.
    pub(crate) async fn pods_are_ready(&self, namespace: &str, deployment: &str, pods: usize) {
        let api: Api<Deployment> = Api::namespaced(self.client().await, namespace);
        let made = loop {
            match api.get_opt(deployment).await.expect("an answer") {
                Some(made) => break made,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let status = json!({"status": {
            "replicas": pods, "updatedReplicas": pods, "readyReplicas": pods, "availableReplicas": pods,
            "observedGeneration": made.metadata.generation,
        }});
        api.patch_status(deployment, &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
    }

    /// What the operator has written so far.
    pub(crate) fn writes(&self) -> Writes {
        let log = fs::read_to_string(self.state.join("log/audit.log")).expect("an audit log");
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event a line"));
        let is_write = |event: &Value| {
            event["user"]["username"] == OPERATOR
                && ["create", "update", "patch", "delete"].iter().any(|verb| event["verb"] == *verb)
        };
        let writes = events.filter(is_write);
        writes.fold(Writes { all: 0, of_lease: 0 }, |writes, event| Writes {
            all: writes.all + 1,
            of_lease: writes.of_lease + usize::from(event["objectRef"]["resource"] == "leases"),
        })
    }

    fn kubeconfig(&self) -> PathBuf {
        self.state.join("pki/admin.kubeconfig")
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut kubectl = shell("exec kubectl \"$@\"", arguments);
        kubectl.env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut kubectl = kubectl.spawn().expect("kubectl");
        kubectl.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        let said = kubectl.wait_with_output().expect("it ends");
        assert!(said.status.success(), "kubectl {arguments:?}: see above");
        String::from_utf8(said.stdout).expect("text")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A line of bash with the settings of the cluster.
fn shell(line: &str, arguments: &[&str]) -> Command {
    let mut bash = Command::new("bash");
    let line = format!(". e2e/cluster/env.sh && {line}");
    bash.current_dir(ROOT).args(["-c", &line, "bash"]).args(arguments);
    bash
}
