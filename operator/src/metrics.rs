//! What the operator counts, and where it is asked how it is.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus::{Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use tokio::{net::TcpListener, sync::watch};

use crate::{control::Fleet, lease::Leadership};

/// The counters. Clones are the same ones.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    reconcile_seconds: Histogram,
    certificates: IntCounterVec,
    injections: IntCounterVec,
    api_requests: IntCounterVec,
    pipelines: IntGauge,
    sidecars: IntGauge,
    leads: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a fixed name")
        };
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a fixed name");
        let seconds = HistogramOpts::new(
            "sidestream_operator_reconcile_seconds",
            "How long a look at one Pipeline takes, with everything that is written.",
        )
        .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
        let own = Self {
            registry: Registry::new(),
            reconciles: counters(
                "sidestream_operator_reconciles_total",
                "Looks at a Pipeline, by how they ended.",
                &["result"],
            ),
            reconcile_seconds: Histogram::with_opts(seconds).expect("fixed buckets"),
            certificates: counters(
                "sidestream_operator_certificates_total",
                "Requests for a certificate, by how they ended.",
                &["result"],
            ),
            injections: counters(
                "sidestream_operator_injections_total",
                "Pods that asked for a sidecar, by what became of that: injected, present or refused.",
                &["result"],
            ),
            api_requests: counters(
                "sidestream_operator_api_requests_total",
                "Requests to the API server, by HTTP method; what is not GET is a write.",
                &["method"],
            ),
            pipelines: gauge("sidestream_operator_pipelines", "Pipelines that are looked after."),
            sidecars: gauge(
                "sidestream_operator_sidecars_connected",
                "Sidecars that are connected to this replica.",
            ),
            leads: gauge("sidestream_operator_leads", "Whether this replica leads: 1 or 0."),
        };
        let registered = [
            own.registry.register(Box::new(own.reconciles.clone())),
            own.registry.register(Box::new(own.reconcile_seconds.clone())),
            own.registry.register(Box::new(own.certificates.clone())),
            own.registry.register(Box::new(own.injections.clone())),
            own.registry.register(Box::new(own.api_requests.clone())),
            own.registry.register(Box::new(own.pipelines.clone())),
            own.registry.register(Box::new(own.sidecars.clone())),
            own.registry.register(Box::new(own.leads.clone())),
        ];
        // Reads /proc, which other systems do not have.
        #[cfg(target_os = "linux")]
        let registered = registered.into_iter().chain([own
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))]);
        registered.into_iter().for_each(|one| one.expect("names differ"));
        own
    }
}

impl Metrics {
    /// A look at a Pipeline ended: `ok`, or the name of the error.
    pub fn reconciled(&self, result: &str, took: Duration) {
        self.reconciles.with_label_values(&[result]).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// A request for a certificate ended.
    pub fn certificate(&self, is_issued: bool) {
        self.certificates.with_label_values(&[if is_issued { "issued" } else { "refused" }]).inc();
    }

    /// A pod has asked for a sidecar: `injected`, `present` or `refused`.
    pub fn injection(&self, result: &str) {
        self.injections.with_label_values(&[result]).inc();
    }

    /// A request goes to the API server.
    pub fn api_request(&self, method: &str) {
        self.api_requests.with_label_values(&[method]).inc();
    }

    /// How many Pipelines are looked after.
    pub fn pipelines(&self, count: usize) {
        self.pipelines.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// In the text format of Prometheus.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without a name.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What the server looks at when it is asked.
#[derive(Clone)]
pub struct Health {
    /// The counters.
    pub metrics: Metrics,
    /// The connected sidecars.
    pub fleet: Fleet,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// Whether `Certify` is served.
    pub is_serving: watch::Receiver<bool>,
}

/// Serves `/metrics`, `/livez` (the process answers) and `/readyz` (it certifies) until `stop` resolves.
///
/// # Errors
/// Where the address cannot be listened on.
pub async fn serve(
    listen: SocketAddr,
    health: Health,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Arc::new(health));
    axum::serve(TcpListener::bind(listen).await?, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(health): State<Arc<Health>>) -> impl IntoResponse {
    health.metrics.sidecars.set(i64::try_from(health.fleet.connected()).unwrap_or(i64::MAX));
    health.metrics.leads.set(i64::from(*health.leadership.borrow() == Leadership::Own));
    ([("content-type", prometheus::TEXT_FORMAT)], health.metrics.text())
}

async fn ready(State(health): State<Arc<Health>>) -> impl IntoResponse {
    if *health.is_serving.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the control server does not serve yet\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_names_only_metrics_of_the_operator_that_are_served() {
        let dashboard = include_str!("../../manifests/grafana/sidestream.json");
        let metrics = Metrics::default();
        metrics.reconciled("ok", Duration::ZERO);
        metrics.certificate(true);
        metrics.injection("injected");
        metrics.api_request("GET");
        let text = metrics.text();
        let served: Vec<&str> = text.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        let words = dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("sidestream_operator_")).collect();
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            assert!(served.contains(&name), "{name} is not served");
        }
    }
}
