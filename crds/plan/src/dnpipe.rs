//! What a server of dnpipes keeps: the checked, resolved form of a Dnpipe, and the parts it shares with the resource.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Size};

/// The most partitions a dnpipe has.
pub const PARTITIONS_MAX: u32 = 1024;
/// The most groups that a Dnpipe names.
pub const GROUPS_MAX: usize = 64;
/// The most access rules of a dnpipe.
pub const RULES_MAX: usize = 64;

/// Everything a server needs to keep one dnpipe. Made by the compiler, so every default is filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dnpipe {
    /// The namespace it lives in.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Whose servers keep it.
    pub pool: String,
    /// How many partitions it has, from 1.
    pub partitions: u32,
    /// When a push is answered.
    pub durability: Durability,
    /// What is let go, and when.
    pub retention: Retention,
    /// Bytes it may have on the disk; absent: only the disk bounds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Size>,
    /// How long a message id is remembered; absent: ids are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Duration>,
    /// What the key is wrapped with that its records are encrypted with on the disk; absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<KeyRef>,
    /// What is said of groups; others may be made by joining them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Who may do what.
    pub access: Vec<AccessRule>,
}

/// One key of one Secret of the Dnpipe's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data: 32 bytes, or 64 hexadecimal digits, such as of `openssl rand -hex 32`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// When a push is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// When the device has it: it survives a power cut.
    #[default]
    Device,
    /// When the kernel has it, and within a second the device: it survives the end of the process, not that of the machine.
    PageCache,
    /// When the kernel has it, which may take its time with the device.
    Memory,
}

/// What is let go by itself, oldest first. A record that either bound says so goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// How long a record is kept at least: `7d`. Absent: until a reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Duration>,
    /// How many bytes of records each partition keeps: `100Gi`. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Size>,
}

/// What is said of a group of readers that share the partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.maxDeliveries) == has(self.deadLetter)",
    "message": "a group has both `maxDeliveries` and `deadLetter`, or neither",
}]))]
pub struct Group {
    /// Its name, unique in the dnpipe: lower-case letters, digits and `-`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// How often a record is delivered to a member that does not acknowledge it, before it goes to `deadLetter`. Absent:
    /// without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_deliveries: Option<u32>,
    /// The dnpipe of the same namespace that takes what was delivered in vain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 59), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub dead_letter: Option<String>,
}

/// Lets somebody do something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// What is allowed.
    #[schemars(length(min = 1, max = 3))]
    pub allow: Vec<Permission>,
    /// Whom.
    pub from: Participant,
}

/// What a participant may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Permission {
    /// Append records.
    Push,
    /// Read records, alone or in a group.
    Pull,
    /// Remove all records.
    Reset,
}

/// Whoever proves to be one of some service accounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Participant {
    /// Its namespace. Absent: that of the dnpipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Its name. Absent: every one of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account: Option<String>,
}

impl Permission {
    /// All of them.
    pub const ALL: [Permission; 3] = [Permission::Push, Permission::Pull, Permission::Reset];

    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Permission::Push => "push",
            Permission::Pull => "pull",
            Permission::Reset => "reset",
        }
    }
}

impl Dnpipe {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether the service account `account` of `namespace` may do `what`.
    pub fn allows(&self, what: Permission, namespace: &str, account: &str) -> bool {
        self.access.iter().any(|rule| {
            let own_namespace = rule.from.namespace.as_deref().unwrap_or(&self.namespace);
            let is_named = rule.from.service_account.as_deref().is_none_or(|named| named == account);
            rule.allow.contains(&what) && own_namespace == namespace && is_named
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dnpipe(access: Vec<AccessRule>) -> Dnpipe {
        Dnpipe {
            namespace: "shop".into(),
            name: "orders".into(),
            pool: "default".into(),
            partitions: 1,
            durability: Durability::Device,
            retention: Retention::default(),
            quota: None,
            dedupe: None,
            encryption: None,
            groups: Vec::new(),
            access,
        }
    }

    #[test]
    fn a_rule_names_the_account_exactly_and_its_namespace_where_it_is_another() {
        let web = Participant { namespace: Some("web".into()), service_account: Some("front".into()) };
        let own = Participant::default();
        let dnpipe = dnpipe(vec![
            AccessRule { allow: vec![Permission::Push], from: web },
            AccessRule { allow: vec![Permission::Pull], from: own },
        ]);
        assert!(dnpipe.allows(Permission::Push, "web", "front"));
        assert!(!dnpipe.allows(Permission::Push, "web", "frontend"));
        assert!(!dnpipe.allows(Permission::Push, "shop", "front"));
        assert!(!dnpipe.allows(Permission::Pull, "web", "front"));
        assert!(dnpipe.allows(Permission::Pull, "shop", "anybody"));
        assert!(!dnpipe.allows(Permission::Reset, "shop", "anybody"));
    }
}
