//! The plans of a pod, kept for its next container.

use std::{fs, io, path::PathBuf};

use prost::Message;
use sidestream_control::Plans;

use super::whole::write_whole;

/// A file that holds the last plans that were heard of, as they came.
pub struct PlanCache(PathBuf);

impl PlanCache {
    /// The cache in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> PlanCache {
        PlanCache(folder.into().join("plans"))
    }

    /// What was kept; none where nothing was, or it cannot be read.
    pub fn load(&self) -> Option<Plans> {
        // No bytes would say: nothing is to run. A machine that lost its power leaves such a file as well.
        let bytes = fs::read(&self.0).ok().filter(|bytes| !bytes.is_empty())?;
        match Plans::decode(bytes.as_slice()) {
            Ok(plans) => Some(plans),
            Err(error) => {
                let path = self.0.display().to_string();
                tracing::warn!(path, "the kept plans cannot be read, and are not used: {error}");
                None
            }
        }
    }

    /// Keeps `plans`, whole or not at all.
    pub fn keep(&self, plans: &Plans) -> io::Result<()> {
        write_whole(&self.0, &plans.encode_to_vec())
    }
}

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
