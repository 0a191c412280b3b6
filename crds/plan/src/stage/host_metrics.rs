//! Figures of this machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Figures of this machine, as samples `{name, labels, value}` named like the node exporter's: `node_load1`,
/// `node_memory_MemAvailable_bytes`, `node_cpu_busy_ratio` (since the sample before).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostMetrics {
    /// How often; `10s` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Which groups; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub groups: Option<Vec<HostMetricsGroup>>,
}

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HostMetricsGroup {
    /// Load averages.
    Load,
    /// Busy share of every processor, label `cpu` its number, and of all, `cpu` being `all`.
    Cpu,
    /// Memory in bytes.
    Memory,
    /// Bytes and operations of block devices.
    Disk,
    /// Size and free bytes of mounted file systems.
    Filesystem,
    /// Bytes, packets and errors of network interfaces.
    Network,
}
