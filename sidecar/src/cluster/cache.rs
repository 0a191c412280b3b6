//! The plans of a pod, kept for its next container.
//!
//! ```text
//!   plans      the last orders, as they came
//!   spilling   the plans at work that spill, with the queues of earlier ones beside them: an array of JSON
//! ```
//!
//! The orders are kept before they are obeyed, the others after: whatever a container is doing when it dies, the next one knows
//! the stages for which there may be something on the disk.

use std::{fs, io, path::PathBuf};

use prost::Message;
use sidestream_control::Plans;
use sidestream_plan::Plan;

use super::whole::write_whole;

/// A folder that holds the last plans that were heard of.
pub struct PlanCache(PathBuf);

impl PlanCache {
    /// The cache in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> PlanCache {
        PlanCache(folder.into())
    }

    /// What was kept; none where nothing was, or it cannot be read.
    pub fn load(&self) -> Option<Plans> {
        // No bytes would say: nothing is to run. A machine that lost its power leaves such a file as well.
        let bytes = fs::read(self.0.join(PLANS)).ok().filter(|bytes| !bytes.is_empty())?;
        match Plans::decode(bytes.as_slice()) {
            Ok(plans) => Some(plans),
            Err(error) => {
                let path = self.0.join(PLANS).display().to_string();
                tracing::warn!(path, "the kept plans cannot be read, and are not used: {error}");
                None
            }
        }
    }

    /// Keeps `plans`, whole or not at all.
    pub fn keep(&self, plans: &Plans) -> io::Result<()> {
        write_whole(&self.0.join(PLANS), &plans.encode_to_vec())
    }

    /// The plans that spilled when they were last kept; none where they cannot be read.
    pub fn load_spilling(&self) -> Vec<Plan> {
        let path = self.0.join(SPILLING);
        let Ok(bytes) = fs::read(&path) else { return Vec::new() };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            let path = path.display().to_string();
            tracing::warn!(path, "the kept plans that spilled cannot be read, and are not used: {error}");
            Vec::new()
        })
    }

    /// Keeps the plans that spill, whole or not at all. Where there never were any, there is no file.
    pub fn keep_spilling(&self, plans: &[Plan]) -> io::Result<()> {
        let path = self.0.join(SPILLING);
        match plans.is_empty() && !path.exists() {
            true => Ok(()),
            false => write_whole(&path, &serde_json::to_vec(plans)?),
        }
    }
}

const PLANS: &str = "plans";
const SPILLING: &str = "spilling";

#[cfg(test)]
mod tests {
    use sidestream_control::Plan;

    use super::*;

    #[test]
    fn what_is_kept_is_there_for_the_next_container() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PlanCache::at(folder.path());
        assert!(cache.load().is_none());
        let plans = Plans { plans: vec![Plan { pipeline: "shop/a".into(), ..Plan::default() }] };
        cache.keep(&plans).unwrap();
        assert_eq!(cache.load(), Some(plans));
    }

    #[test]
    fn a_cache_that_is_no_cache_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plans"), [0xff; 64]).unwrap();
        assert!(PlanCache::at(folder.path()).load().is_none());
        fs::write(folder.path().join("plans"), []).unwrap();
        assert!(PlanCache::at(folder.path()).load().is_none());
    }
}
