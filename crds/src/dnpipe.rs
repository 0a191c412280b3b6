//! The `Dnpipe` resource: a durable named pipe, as a user writes it, and what the operator answers.
//!
//! What a rule or a group says is a struct of `sidestream-plan`; this file adds what joins them. A field enters here when it
//! works: until then it is an unknown key.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sidestream_plan::{
    Duration, Size,
    dnpipe::{AccessRule, Durability, GROUPS_MAX, Group, KeyRef, PARTITIONS_MAX, RULES_MAX, Retention},
};

/// A durable named pipe: an ordered log of records that stay until a reset. Participants push and pull; a pull removes
/// nothing.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sidestream.dev",
    version = "v1alpha1",
    kind = "Dnpipe",
    plural = "dnpipes",
    shortname = "dnp",
    category = "sidestream",
    namespaced,
    status = "DnpipeStatus",
    derive = "PartialEq",
    doc = "A durable named pipe: an ordered log of records that stay until a reset. Participants push and pull; a pull removes nothing.",
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name": "Partitions", "type": "integer", "jsonPath": ".status.partitions"}"#,
    printcolumn = r#"{"name": "Records", "type": "integer", "jsonPath": ".status.records"}"#,
    printcolumn = r#"{"name": "Size", "type": "string", "jsonPath": ".status.size"}"#,
    printcolumn = r#"{"name": "Lag", "type": "integer", "jsonPath": ".status.lag"}"#,
    printcolumn = r#"{"name": "Durable", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Durable\")].status"}"#,
    printcolumn = r#"{"name": "Epoch", "type": "integer", "priority": 1, "jsonPath": ".status.epoch"}"#,
    printcolumn = r#"{"name": "Pool", "type": "string", "priority": 1, "jsonPath": ".spec.pool"}"#,
    printcolumn = r#"{"name": "Server", "type": "string", "priority": 1, "jsonPath": ".status.server"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "priority": 1, "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.partitions) ? self.partitions : 1) == (has(oldSelf.partitions) ? oldSelf.partitions : 1)",
    "message": "`partitions` never changes: a key would move to another partition, and lose its order",
}, {
    "rule": "(has(self.pool) ? self.pool : 'default') == (has(oldSelf.pool) ? oldSelf.pool : 'default')",
    "message": "`pool` never changes: the records are on the volumes of the one it has",
}]))]
pub struct DnpipeSpec {
    /// Dnpipes of a namespace that name one pool share its servers and volumes; `default` by default. It never changes.
    /// `sidestream run` serves every pool itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 44), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub pool: Option<String>,
    /// How many servers its pool has: the largest number that any member asks for; 1 by default. Each dnpipe is whole with one of
    /// them, and goes to another by itself when there are more or fewer. Those that are joined by dead letters are with one.
    /// `sidestream run` is one server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = SERVERS_MAX))]
    pub servers: Option<i32>,
    /// How many partitions; 1 by default, so that all records are in one order. Records of one key meet in one partition.
    /// It never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = PARTITIONS_MAX))]
    pub partitions: Option<i32>,
    /// When a push is answered; Device by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// What is let go by itself. Absent: nothing is, until a reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// What it may take of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Encrypts the records on the disk, with a key of this dnpipe alone that a reset throws away. Absent: they are not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Refuses to store a record twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Dedupe>,
    /// What is said of groups of readers. A group that is not here is made by the first that joins it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = GROUPS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub groups: Vec<Group>,
    /// Who may do what: nobody but those it names. Absent: every service account of its namespace may do everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = RULES_MAX), extend("x-kubernetes-list-type" = "atomic"))]
    pub access: Option<Vec<AccessRule>>,
}

/// How records are encrypted on the disk: AES-256-GCM, each batch bound to its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// The key that the dnpipe's own key is wrapped with. Where it is named anew, that key is wrapped anew. While it is
    /// missing, or another one, the dnpipe is locked. Locally, the file `name/key` of the folder given with `--secrets`.
    pub key_ref: KeyRef,
}

/// What a dnpipe may take of the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// Bytes it may have, of all partitions together: `10Gi`. A push beyond it is refused, and nothing is dropped. Absent:
    /// only the disk bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// On a cluster: the class of the pool's volumes. Absent: what the other dnpipes of the pool say, or else the cluster's
    /// own default. A pool has its volumes for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// On a cluster: what becomes of the records when the Dnpipe is deleted; Retain by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<Reclaim>,
}

/// What becomes of the records of a Dnpipe that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reclaim {
    /// They stay on the volume, and nobody gets at them before a Dnpipe of this name and pool is made again: it goes on
    /// with them.
    #[default]
    Retain,
    /// They are removed. A Dnpipe of this name that is made later begins anew. The volume of the pool stays.
    Delete,
}

/// How a record that comes twice is known. One that its producer numbers is always known, with no need of this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dedupe {
    /// How long a record's header `message-id` is remembered: a second record with the same is not stored.
    pub window: Duration,
}

/// What became of a Dnpipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnpipeStatus {
    /// The generation of the spec this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many partitions are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = PARTITIONS_MAX))]
    pub partitions: Option<i32>,
    /// How often it was reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = u32::MAX))]
    pub epoch: Option<i64>,
    /// How many records there are, as of the last half minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = (1_u64 << 53) - 1))]
    pub records: Option<i64>,
    /// How much of the disk they have, as of the last half minute: `12Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// Records that the group which is furthest behind has not done, as of the last half minute; absent where it has no groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = (1_u64 << 53) - 1))]
    pub lag: Option<i64>,
    /// The server of its pool that has it, as its pod is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub server: Option<String>,
    /// `Accepted`: the spec compiles. `Ready`: every partition is served. `Durable`: an acknowledgement means what
    /// `spec.durability` says, as the disk was measured. `Placed`: it is with the server that is to have it. `Room`: less than
    /// 80 % of its quota and of the volume is in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

impl Dnpipe {
    /// `namespace/name`, the namespace being `default` where none is named.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace_or_default(), self.metadata.name.as_deref().unwrap_or_default())
    }

    /// The pool it is of.
    pub fn pool(&self) -> &str {
        self.spec.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }

    pub(crate) fn namespace_or_default(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("default")
    }
}

/// Servers of a pool: each has a volume of its own, and knows of all the others.
pub const SERVERS_MAX: i32 = 32;
/// The pool of a dnpipe that names none.
pub(crate) const DEFAULT_POOL: &str = "default";
