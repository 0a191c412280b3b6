//! A namespace of the cluster, and short verbs for what a user does in it.

use std::{
    env, fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long the cluster may take for something that is no question of speed.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Who uses the cluster: many tests together, or one that disturbs it all.
static CLUSTER: RwLock<()> = RwLock::new(());

/// A test's part of the cluster.
#[expect(dead_code, reason = "held, not read")]
enum Part {
    Shared(RwLockReadGuard<'static, ()>),
    Whole(RwLockWriteGuard<'static, ()>),
}

/// A namespace under the strictest Pod Security, gone with the test.
pub(crate) struct Namespace {
    pub(crate) name: String,
    _part: Option<Part>,
}

impl Namespace {
    pub(crate) fn new(name: &str) -> Namespace {
        let part = Part::Shared(CLUSTER.read().unwrap_or_else(PoisonError::into_inner));
        Namespace::make(name, Some(part))
    }

    /// For a test that disturbs the whole cluster: no other one runs meanwhile.
    pub(crate) fn alone(name: &str) -> Namespace {
        let part = Part::Whole(CLUSTER.write().unwrap_or_else(PoisonError::into_inner));
        Namespace::make(name, Some(part))
    }

    /// A second one of the same test.
    pub(crate) fn and_another(&self, name: &str) -> Namespace {
        Namespace::make(name, None)
    }

    fn make(name: &str, part: Option<Part>) -> Namespace {
        let enforced = "pod-security.kubernetes.io/enforce: restricted";
        let yaml = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{enforced}}}}}}}"
        );
        kubectl(&["apply", "-f", "-"], &yaml).expect("a namespace");
        Namespace { name: name.to_owned(), _part: part }
    }

    /// Runs `kubectl` in this namespace and gives what it printed, or what it complained of.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        kubectl(&[&["--namespace", &self.name], arguments].concat(), "")
    }

    /// `kubectl apply`, of an example in `manifests/examples/`.
    pub(crate) fn apply_example(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples").join(name);
        self.apply(&fs::read_to_string(path).expect("an example"));
    }

    pub(crate) fn apply(&self, yaml: &str) {
        kubectl(&["--namespace", &self.name, "apply", "-f", "-"], yaml).expect("applied");
    }

    /// An object, or a list of them with `{"items": [..]}`.
    pub(crate) fn get(&self, what: &[&str]) -> Result<Value, String> {
        let json = self.kubectl(&[&["get", "-o", "json"], what].concat())?;
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }

    /// Waits until the condition `Ready` of a pipeline is true, as its user would.
    pub(crate) fn wait_ready(&self, pipeline: &str) {
        let (pipeline, begun) = (format!("pipeline/{pipeline}"), Instant::now());
        if let Err(reason) = self.kubectl(&["wait", "--for=condition=Ready", &pipeline, "--timeout=60s"]) {
            let status = self.kubectl(&["get", &pipeline, "-o", "jsonpath={.status}"]).unwrap_or_default();
            let pods = self.kubectl(&["get", "pods", "-o", "wide"]).unwrap_or_default();
            panic!("{pipeline}: {reason}\nstatus: {status}\n{pods}");
        }
        println!("{pipeline} was Ready after {} ms", begun.elapsed().as_millis());
    }

    /// The names of the living pods of one sidecar.
    pub(crate) fn pods(&self, pipeline: &str, sidecar: &str) -> Vec<String> {
        let selector = format!("sidestream.dev/pipeline={pipeline},sidestream.dev/sidecar={sidecar}");
        let pods = self.get(&["pods", "--selector", &selector]).expect("pods can be listed");
        let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().expect("a pod has a name").to_owned();
        pods["items"].as_array().expect("a list").iter().filter(living).map(name).collect()
    }

    /// The pods that have these labels, each with how often its containers have started again, those of its sidecar among
    /// them.
    pub(crate) fn who_runs(&self, labels: &str) -> Vec<(String, Vec<i64>)> {
        let pods = self.get(&["pods", "--selector", labels]).expect("pods can be listed");
        let started = |pod: &Value| {
            let all =
                ["initContainerStatuses", "containerStatuses"].map(|field| pod["status"][field].clone());
            let all = all.iter().filter_map(|list| list.as_array().cloned()).flatten();
            all.map(|container| container["restartCount"].as_i64().expect("a count")).collect()
        };
        let pods = pods["items"].as_array().expect("a list");
        pods.iter().map(|pod| (pod["metadata"]["uid"].to_string(), started(pod))).collect()
    }

    /// The sum of the samples of `metric` with `label` over the pods of one sidecar.
    pub(crate) fn metric(
        &self,
        pipeline: &str,
        sidecar: &str,
        metric: &str,
        label: &str,
    ) -> Result<f64, String> {
        self.metric_of(&self.pods(pipeline, sidecar), metric, label)
    }

    /// The same over `pods`. Metrics go through the API server's proxy, which works where pods' addresses are not reached
    /// from here.
    pub(crate) fn metric_of(&self, pods: &[String], metric: &str, label: &str) -> Result<f64, String> {
        let mut sum = 0.0;
        for pod in pods {
            let path = format!("/api/v1/namespaces/{}/pods/{pod}:9464/proxy/metrics", self.name);
            let text = kubectl(&["get", "--raw", &path], "")?;
            let samples = text.lines().filter(|line| line.starts_with(metric) && line.contains(label));
            sum += samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(sum)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if thread::panicking() {
            for arguments in [
                &["get", "all,pipelines,dnpipes,pvc,events"][..],
                &["logs", "--prefix", "--tail=30", "-l", "sidestream.dev/pipeline"],
                &["logs", "--prefix", "--tail=30", "-l", "sidestream.dev/pool"],
            ] {
                eprintln!(
                    "--- kubectl {}\n{}",
                    arguments.join(" "),
                    self.kubectl(arguments).unwrap_or_else(|error| error)
                );
            }
        }
        // Not waited for: names are each test's own.
        let _ = kubectl(&["delete", "namespace", &self.name, "--wait=false"], "");
    }
}

/// Runs `kubectl` on the cluster that `make e2e` names.
pub(crate) fn kubectl(arguments: &[&str], input: &str) -> Result<String, String> {
    let config =
        env::var("SIDESTREAM_E2E_KUBECONFIG").expect("a cluster: `make e2e` raises one and runs these tests");
    let mut child = Command::new("kubectl")
        .args(["--kubeconfig", &config])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("kubectl reads");
    let output = child.wait_with_output().expect("kubectl ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
