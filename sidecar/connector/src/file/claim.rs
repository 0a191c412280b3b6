//! A checkpoint has one source at a time, in all pipelines of the process.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{describe, folder_of};

/// The right to write a checkpoint. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Claim(PathBuf);

impl Claim {
    /// Takes the right, or says who has it.
    pub(super) fn new(checkpoint: &Path) -> Result<Self, String> {
        // The file itself need not exist, and may be a link that a checkpoint replaces; its folder is what it is.
        let folder = folder_of(checkpoint);
        let folder = fs::canonicalize(folder).map_err(|error| describe("find", folder, &error))?;
        let path = folder.join(checkpoint.file_name().unwrap_or_default());
        if !claimed().insert(path.clone()) {
            return Err(format!(
                "checkpoint {} is in use by another source, or by the one before until its last lines are delivered; name another file, or wait",
                checkpoint.display()
            ));
        }
        Ok(Claim(path))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.0);
    }
}

fn claimed() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static CLAIMED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_claimed_once_however_it_is_written_and_again_when_it_was_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let claim = Claim::new(&path).unwrap();
        let same =
            folder.path().join(".").join("..").join(folder.path().file_name().unwrap()).join("checkpoint");
        let error = Claim::new(&same).unwrap_err();
        assert!(error.contains("is in use by another source"), "{error}");
        Claim::new(&folder.path().join("other")).unwrap();
        drop(claim);
        Claim::new(&same).unwrap();
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let error = Claim::new(Path::new("/no/such/folder/checkpoint")).unwrap_err();
        assert_eq!(error, "cannot find /no/such/folder: it or its folder does not exist");
    }
}
