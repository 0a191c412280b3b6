//! One process at a time has a directory.

use std::{
    fs::{self, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
    thread,
    time::Duration,
};

use super::OpenError;

/// The file whose lock says that the directory is in use. Never removed: two processes could then hold two of them.
pub(super) const LOCK: &str = "lock";
/// How often, and after how long, a directory that is in use is asked for again.
const LOCK_TRIES: u32 = 20;
const LOCK_WAIT: Duration = Duration::from_millis(10);

/// Locks `directory` for as long as the file lives that this gives.
pub(super) fn lock(directory: &Path) -> Result<fs::File, OpenError> {
    let io =
        |source| OpenError::Io { directory: directory.to_owned(), doing: "locking the lock file", source };
    let path = directory.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // A process that is just ending, or a child of it that has not called exec yet.
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                thread::sleep(LOCK_WAIT);
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(OpenError::InUse { directory: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let refused = lock(directory.path()).unwrap_err();
        assert!(
            matches!(&refused, OpenError::InUse { holder, .. } if *holder == std::process::id().to_string())
        );
        assert!(refused.to_string().contains("stop the other"), "{refused}");
        drop(first);
        lock(directory.path()).unwrap();
    }
}
