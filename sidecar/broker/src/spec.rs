//! What a dnpipe is to be, as its owner states it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sidestream_event::native::DnpipeName;

use crate::{access::Rule, error::ApplyError, keys::KeyRef, limits};

/// What a dnpipe is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnpipeSpec {
    /// Its name.
    pub name: DnpipeName,
    /// How many partitions: 1 to 1024, never changed once it is made.
    pub partitions: u32,
    /// When a push is answered.
    #[serde(default)]
    pub durability: Durability,
    /// How long records are kept; until a reset where nothing else is said.
    #[serde(default)]
    pub retention: Retention,
    /// Bytes that all its partitions may have on the disk together.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// For how long the ids of messages are remembered; absent, nobody looks for any.
    #[serde(default)]
    pub dedupe_window: Option<Duration>,
    /// What the key is wrapped with that its records are encrypted with on the disk; absent, they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<KeyRef>,
    /// Groups that are there from the start.
    #[serde(default)]
    pub groups: Vec<GroupSpec>,
    /// Who may; see [`crate::access::allowed`].
    #[serde(default)]
    pub access: Vec<Rule>,
}

impl DnpipeSpec {
    /// One partition, durable, kept until reset, private to its namespace.
    pub fn new(name: DnpipeName) -> Self {
        Self {
            name,
            partitions: 1,
            durability: Durability::Device,
            retention: Retention::default(),
            quota_bytes: None,
            dedupe_window: None,
            encryption: None,
            groups: Vec::new(),
            access: Vec::new(),
        }
    }

    /// Whether it can be, whatever is there already.
    pub(crate) fn check(&self) -> Result<(), ApplyError> {
        if !(1..=limits::PARTITIONS_MAX).contains(&self.partitions) {
            return Err(ApplyError::PartitionCount { found: self.partitions });
        }
        if self.groups.len() > limits::GROUPS_MAX {
            return Err(ApplyError::TooManyGroups { found: self.groups.len() });
        }
        for (at, group) in self.groups.iter().enumerate() {
            let name = group.name.clone();
            if !is_group_name(&name) {
                return Err(ApplyError::GroupName { name });
            }
            if self.groups[..at].iter().any(|other| other.name == name) {
                return Err(ApplyError::GroupTwice { name });
            }
            match (group.max_deliveries, &group.dead_letter) {
                (Some(_), None) => return Err(ApplyError::NoDeadLetter { group: name }),
                (Some(0), _) => return Err(ApplyError::NoDeliveries { group: name }),
                (_, Some(target)) if *target == self.name => {
                    return Err(ApplyError::OwnDeadLetter { group: name });
                }
                _ => (),
            }
        }
        Ok(())
    }
}

/// When a push is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// When the device has it: it survives a power cut.
    #[default]
    Device,
    /// When the kernel has it, and within a second the device: it survives the end of the process.
    PageCache,
    /// When the kernel has it, which may take its time with the device.
    Memory,
}

impl From<Durability> for sidestream_log::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Device => Self::Device,
            Durability::PageCache => Self::PageCache,
            Durability::Memory => Self::Memory,
        }
    }
}

/// How long records are kept. A reset ends them all; without a bound nothing else does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Older ones may go.
    #[serde(default)]
    pub time: Option<Duration>,
    /// The oldest may go while a partition has more bytes than this.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// What a group of readers is to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupSpec {
    /// Unique in the dnpipe: 1 to 128 visible ASCII characters.
    pub name: String,
    /// How often a record is delivered before it goes to the dead letters; absent, for ever.
    #[serde(default)]
    pub max_deliveries: Option<u32>,
    /// The dnpipe that takes the dead letters.
    #[serde(default)]
    pub dead_letter: Option<DnpipeName>,
    /// How long a record that was given back, or not acknowledged in time, waits for its second delivery; each later wait
    /// is twice the one before, up to a minute.
    #[serde(default = "backoff")]
    pub backoff: Duration,
}

impl GroupSpec {
    /// A group that delivers for ever.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), max_deliveries: None, dead_letter: None, backoff: backoff() }
    }
}

pub(crate) fn is_group_name(name: &str) -> bool {
    (1..=limits::GROUP_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn backoff() -> Duration {
    Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> DnpipeSpec {
        DnpipeSpec::new("shop/orders".parse().unwrap())
    }

    #[test]
    fn a_spec_is_checked_before_anything_is_made() {
        assert_eq!(spec().check(), Ok(()));
        for partitions in [0, limits::PARTITIONS_MAX + 1] {
            let found = DnpipeSpec { partitions, ..spec() }.check();
            assert_eq!(found, Err(ApplyError::PartitionCount { found: partitions }));
        }
        let with = |group: GroupSpec| DnpipeSpec { groups: vec![group], ..spec() }.check();
        assert_eq!(with(GroupSpec::new("billing")), Ok(()));
        assert_eq!(with(GroupSpec::new("a b")), Err(ApplyError::GroupName { name: "a b".into() }));
        let poisoned = GroupSpec { max_deliveries: Some(5), ..GroupSpec::new("billing") };
        assert_eq!(with(poisoned.clone()), Err(ApplyError::NoDeadLetter { group: "billing".into() }));
        let own = GroupSpec { dead_letter: Some("shop/orders".parse().unwrap()), ..poisoned };
        assert_eq!(with(own), Err(ApplyError::OwnDeadLetter { group: "billing".into() }));
        let twice = DnpipeSpec { groups: vec![GroupSpec::new("a"), GroupSpec::new("a")], ..spec() };
        assert_eq!(twice.check(), Err(ApplyError::GroupTwice { name: "a".into() }));
    }

    #[test]
    fn a_spec_without_details_is_read_with_the_defaults() {
        let read: DnpipeSpec = serde_json::from_str(r#"{"name":["shop","orders"],"partitions":1}"#).unwrap();
        assert_eq!(read, spec());
    }
}
