//! What the operator is told when it starts: flags, or variables of the environment.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use sidestream_desired::Facts;

/// Runs Pipelines on a Kubernetes cluster: makes the pods they run in, tells the sidecars in them what to do, and
/// vouches for who they are.
#[derive(Clone, Debug, Parser)]
#[command(name = "sidestream-operator", version)]
pub struct Settings {
    /// The image of the sidecars: `sidestream.dev/sidecar:0.1.0`.
    #[arg(long, env = "SIDESTREAM_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// When nodes pull that image: Always, IfNotPresent or Never. Absent: as Kubernetes decides by its tag.
    #[arg(long, env = "SIDESTREAM_IMAGE_PULL_POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: Option<String>,
    /// The trust domain of every SPIFFE ID. A new one needs new certificates everywhere.
    #[arg(long, env = "SIDESTREAM_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// Where sidecars find the control server; absent: `<service>.<namespace>.svc:9443`.
    #[arg(long, env = "SIDESTREAM_CONTROL_ADDRESS")]
    pub control_address: Option<String>,
    /// The namespace of this pod, where the Lease and the authority's Secret live.
    #[arg(long, env = "POD_NAMESPACE", default_value = "sidestream-system")]
    pub namespace: String,
    /// The name of this pod: it holds the Lease by it.
    #[arg(long, env = "POD_NAME", default_value = "sidestream-operator")]
    pub pod_name: String,
    /// The address of this pod: where the other replicas send sidecars while it leads.
    #[arg(long, env = "POD_IP", default_value = "127.0.0.1")]
    pub pod_ip: std::net::IpAddr,
    /// The service account of this pod, part of the SPIFFE ID by which sidecars know it.
    #[arg(long, env = "POD_SERVICE_ACCOUNT", default_value = "sidestream-operator")]
    pub service_account: String,
    /// The Service in front of the control server.
    #[arg(long, env = "SIDESTREAM_SERVICE", default_value = "sidestream-operator")]
    pub service: String,
    /// Where the control server listens.
    #[arg(long, env = "SIDESTREAM_CONTROL_LISTEN", default_value = "0.0.0.0:9443")]
    pub control_listen: SocketAddr,
    /// Where the webhooks listen.
    #[arg(long, env = "SIDESTREAM_WEBHOOK_LISTEN", default_value = "0.0.0.0:8443")]
    pub webhook_listen: SocketAddr,
    /// The name of the ValidatingWebhookConfiguration and of the MutatingWebhookConfiguration that are told whom to trust.
    /// Absent: there are none.
    #[arg(long, env = "SIDESTREAM_WEBHOOK_CONFIGURATION")]
    pub webhook_configuration: Option<String>,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    #[arg(long, env = "SIDESTREAM_METRICS_LISTEN", default_value = "0.0.0.0:8080")]
    pub metrics_listen: SocketAddr,
    /// How long a sidecar's certificate is good for, in hours; it is renewed at 60 % of that.
    #[arg(long, env = "SIDESTREAM_LEAF_HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
    pub leaf_hours: u32,
    /// How long everything must have been ready for a step of a rotation of the roots before it is taken, in seconds: for
    /// what cannot say that it is, as the API server's caches and the other replicas.
    #[arg(long, env = "SIDESTREAM_ROTATION_DWELL_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub rotation_dwell_seconds: u32,
    /// How many Pipelines are worked on at once.
    #[arg(long, env = "SIDESTREAM_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// How logs are written.
    #[arg(long, env = "SIDESTREAM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: `info`, or `sidestream_operator=debug,info`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log: String,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line, for machines.
    Json,
}

impl Settings {
    /// What the objects of a pipeline say about the world.
    pub fn facts(&self) -> Facts {
        Facts {
            sidecar_image: self.sidecar_image.clone(),
            image_pull_policy: self.image_pull_policy.clone(),
            operator: self
                .control_address
                .clone()
                .unwrap_or_else(|| format!("{}:{}", self.host(), sidestream_control::CONTROL_PORT)),
            operator_id: format!(
                "spiffe://{}/ns/{}/sa/{}",
                self.trust_domain, self.namespace, self.service_account
            ),
        }
    }

    /// How long a sidecar's certificate is good for.
    pub fn leaf_lifetime(&self) -> Duration {
        Duration::from_secs(u64::from(self.leaf_hours) * 3600)
    }

    /// How long everything must have been ready for a step of a rotation.
    pub fn rotation_dwell(&self) -> Duration {
        Duration::from_secs(u64::from(self.rotation_dwell_seconds))
    }

    /// Where this replica itself is reached.
    pub fn own_address(&self) -> String {
        SocketAddr::new(self.pod_ip, self.control_listen.port()).to_string()
    }

    /// The DNS names of the control server.
    pub fn dns_names(&self) -> Vec<String> {
        vec![self.host(), format!("{}.{}", self.service, self.namespace)]
    }

    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_are_sent_to_the_service_of_the_namespace() {
        let settings = Settings::parse_from(["operator", "--sidecar-image", "i", "--namespace", "ops"]);
        assert_eq!(settings.facts().operator, "sidestream-operator.ops.svc:9443");
        assert_eq!(settings.facts().operator_id, "spiffe://cluster.local/ns/ops/sa/sidestream-operator");
        assert_eq!(settings.own_address(), "127.0.0.1:9443");
    }
}
