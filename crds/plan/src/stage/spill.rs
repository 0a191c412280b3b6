//! The two ends of a queue that goes to disk: what the compiler puts before a stage whose input spills.
//!
//! ```text
//!   … ─▶ sink `bill:spill` ┄┄ in memory, or in the journal ┄┄ source `bill:spilled` ─▶ bill ─▶ …
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Size;

/// One end of a queue that goes to disk when it is full; the other one has the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spill {
    /// The stage whose input it is: with the pipeline, the name by which a restart finds what waits for it.
    pub stage: String,
    /// How many events may wait in memory; absent means 8192.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
}

/// What a pod may spill, and the volume for it.
///
/// ```text
///   volume    journal, and 16 MiB for plans and the file system
///   journal   what is spilled, and half as much: what was delivered is freed a segment at a time
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodSpill(Size);

impl PodSpill {
    /// Where nobody says: 32 MiB, in a volume of 64 MiB.
    pub const DEFAULT: PodSpill = PodSpill(Size::from_bytes(32 << 20));
    /// The least: in a journal of less no segment can be freed before the next is full.
    pub const MIN: Size = Size::from_bytes(16 << 20);

    /// A pod that may spill so many bytes.
    ///
    /// # Errors
    /// What is less than [`PodSpill::MIN`].
    pub fn new(spilled: Size) -> Result<PodSpill, String> {
        match spilled >= PodSpill::MIN {
            true => Ok(PodSpill(spilled)),
            false => Err(format!("{spilled} is too little to spill to; {} is the least", PodSpill::MIN)),
        }
    }

    /// Bytes of spilled events; then the stages before them wait.
    pub const fn spilled(self) -> Size {
        self.0
    }

    /// Bytes of the files they are in.
    pub const fn journal(self) -> Size {
        Size::from_bytes(self.0.bytes().saturating_add(self.0.bytes() / 2))
    }

    /// Bytes of the volume: a pod that takes more is evicted.
    pub const fn volume(self) -> Size {
        Size::from_bytes(self.journal().bytes().saturating_add(16 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_spills_fits_into_its_journal_and_that_into_its_volume() {
        let pod = PodSpill::DEFAULT;
        assert_eq!(
            [pod.spilled(), pod.journal(), pod.volume()].map(|size| size.to_string()),
            ["32Mi", "48Mi", "64Mi"]
        );
        let pod = PodSpill::new("4Gi".parse().unwrap()).unwrap();
        assert_eq!([pod.journal(), pod.volume()].map(|size| size.to_string()), ["6Gi", "6160Mi"]);
        assert_eq!(
            PodSpill::new("15Mi".parse().unwrap()),
            Err("15Mi is too little to spill to; 16Mi is the least".to_owned())
        );
        let pod = PodSpill::new(Size::from_bytes(u64::MAX)).unwrap();
        assert_eq!(pod.volume().bytes(), u64::MAX);
    }
}
