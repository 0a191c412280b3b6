//! The operator as a process, and what it and the system say about it.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command},
    time::Duration,
};

use crate::api_server::ApiServer;

/// Where it serves. The API server is there as well, so nothing else is.
pub(crate) const CONTROL: &str = "127.0.0.11:9443";
const WEBHOOK: &str = "127.0.0.11:8443";
const METRICS: &str = "127.0.0.11:8080";

pub(crate) struct Operator(Child);

/// How long looks took: of each bucket its upper bound, in seconds, and how many were no longer.
pub(crate) struct Reconciles(Vec<(f64, f64)>);

impl Operator {
    /// It leads and answers.
    pub(crate) fn start(server: &ApiServer) -> Operator {
        let program = env::var_os("SIDESTREAM_OPERATOR");
        let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_sidestream-operator").into());
        eprintln!("measured: {}", program.display());
        let child = Command::new(program)
            .args(["--sidecar-image=none", "--control-listen", CONTROL, "--webhook-listen", WEBHOOK])
            .args(["--metrics-listen", METRICS])
            .env("KUBECONFIG", server.kubeconfig_of_operator())
            .env("POD_NAME", "bench")
            .env("POD_IP", "127.0.0.11")
            .stderr(server.log("operator.log"))
            .spawn();
        let operator = Operator(child.expect("the operator"));
        while operator.sum("sidestream_operator_leads") != 1.0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        operator
    }

    /// Waits until it knows at least so many Pipelines and has looked at none for three seconds.
    pub(crate) async fn settles(&self, pipelines: usize) {
        let (mut before, mut quiet) = (0.0, 0);
        while quiet < 3 || self.sum("sidestream_operator_pipelines") < pipelines as f64 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.sum("sidestream_operator_reconciles_total");
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }

    pub(crate) fn reconciles(&self) -> Reconciles {
        let metrics = self.metrics();
        let lines = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix("sidestream_operator_reconcile_seconds_bucket{le=\"")?;
            let (bound, count) = rest.split_once("\"} ")?;
            Some((bound.replace("+Inf", "inf").parse().ok()?, count.parse().ok()?))
        });
        Reconciles(lines.collect())
    }

    pub(crate) fn resident_bytes(&self) -> i64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<i64>().expect("a number") * 1024
    }

    /// Over all labels; 0 where it does not answer yet.
    fn sum(&self, metric: &str) -> f64 {
        let metrics = self.metrics();
        let samples = metrics.lines().filter(|line| line.starts_with(metric));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn metrics(&self) -> String {
        let mut answer = String::new();
        if let Ok(mut socket) = TcpStream::connect(METRICS) {
            let asked = socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
            let _ = asked.and_then(|()| socket.read_to_string(&mut answer));
        }
        answer
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Reconciles {
    pub(crate) fn since(&self, before: &Reconciles) -> Reconciles {
        let earlier =
            |bound: f64| before.0.iter().find(|(other, _)| *other == bound).map_or(0.0, |(_, count)| *count);
        Reconciles(self.0.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect())
    }

    /// As Prometheus' `histogram_quantile`: linear within a bucket; the last finite bound where it is beyond.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        let rank = quantile * self.0.last().expect("a bucket").1;
        let (mut lower, mut below) = (0.0, 0.0);
        for &(bound, count) in &self.0 {
            if count >= rank && bound.is_finite() {
                return lower + (bound - lower) * (rank - below) / (count - below);
            }
            if bound.is_finite() {
                (lower, below) = (bound, count);
            }
        }
        lower
    }
}
