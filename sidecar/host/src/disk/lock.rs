//! One process at a time has a directory, and one user its files.

use std::{
    fs::{self, OpenOptions, TryLockError},
    io::{self, Read, Write},
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
    let mut file = private().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
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
    // Over what stood there, and only for who is refused to read: on a full disk there may be no room for it.
    let holder = format!("{}\n", std::process::id());
    let _ = file.write_all(holder.as_bytes()).and_then(|()| file.set_len(holder.len() as u64));
    Ok(file)
}

/// Options that make a file for its owner alone, where the system knows owners.
pub(super) fn private() -> OpenOptions {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "other systems have no modes"))]
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes `directory` for its owner alone, with those above it that are missing, each of them with a durable name. One that is
/// there stays as it is.
///
/// # Errors
/// Those of the file system.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = match directory.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make_directory(above)?;
    #[cfg_attr(not(unix), expect(unused_mut, reason = "other systems have no modes"))]
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        // Somebody else has made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        made => made?,
    }
    // On Windows a directory can't be flushed.
    if cfg!(unix) { fs::File::open(above)?.sync_all() } else { Ok(()) }
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

    /// The room of what was cut off may not be there at once.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_on_a_full_disk_has_an_owner_too() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/full", directory.path().join(LOCK)).unwrap();
        lock(directory.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn what_is_made_is_its_owners_alone_and_what_is_there_stays_as_it_is() {
        use std::os::unix::fs::PermissionsExt;

        use crate::disk::{Choice, open};

        let there = tempfile::tempdir().unwrap();
        fs::set_permissions(there.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (data, journal) = (there.path().join("data"), there.path().join("data/journal"));
        for choice in [Choice::File, Choice::Auto] {
            let disk = open(&journal, choice).unwrap();
            let name = format!("{choice:?}");
            disk.create(&name).unwrap();
            assert_eq!((mode(&data), mode(&journal), mode(there.path())), (0o700, 0o700, 0o755));
            assert_eq!((mode(&journal.join(name)), mode(&journal.join(LOCK))), (0o600, 0o600));
        }
        assert!(make_directory(&journal.join(LOCK)).is_err(), "a file is no directory");
    }
}
