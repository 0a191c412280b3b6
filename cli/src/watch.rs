//! Files that may change while they run.
//!
//! A look at the time and the length of each file is cheap and enough to suspect a change; only then is the content
//! read, and only when it is another is the change told. An editor writes in steps, so a change is told when the file
//! has been the same for a moment.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::files::read;

/// Files and how they were when they were last looked at.
pub(crate) struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
    content: u64,
}

/// When a file was written, and how long it is.
type Stamp = (SystemTime, u64);

impl Watch {
    /// Remembers how `files` are now.
    pub(crate) fn new(files: &[PathBuf]) -> Watch {
        let files: Vec<_> = files.iter().map(|file| (file.clone(), stamp(file))).collect();
        let content = content(&files);
        Watch { files, content }
    }

    /// Waits until their content is another.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !self.look() {
                continue;
            }
            loop {
                tokio::time::sleep(SETTLED_FOR).await;
                if !self.look() {
                    break;
                }
            }
            let now = content(&self.files);
            if std::mem::replace(&mut self.content, now) != now {
                return;
            }
        }
    }

    /// Whether any stamp is another than at the last look.
    fn look(&mut self) -> bool {
        let mut differs = false;
        for (file, last) in &mut self.files {
            let now = stamp(file);
            differs |= std::mem::replace(last, now) != now;
        }
        differs
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let about = fs::metadata(file).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn content(files: &[(PathBuf, Option<Stamp>)]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (file, _) in files {
        read(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

const LOOK_EVERY: Duration = Duration::from_millis(500);
const SETTLED_FOR: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_content_is_told_and_a_touch_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(std::slice::from_ref(&file));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            fs::write(&file, "one").unwrap();
            let waited = tokio::time::timeout(LOOK_EVERY * 3, watch.changed()).await;
            assert!(waited.is_err(), "a touch was told");
            fs::write(&file, "two").unwrap();
            tokio::time::timeout(LOOK_EVERY * 10, watch.changed()).await.expect("a change was not told");
        });
    }
}
