//! How large the file system under a folder is, and how much of it is free.

use std::{io, path::Path};

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of them.
    pub bytes: u64,
    /// Those that a program may still have.
    pub free_bytes: u64,
}

/// The file system that holds `folder`.
///
/// # Errors
/// A folder that is not there; [`io::ErrorKind::Unsupported`] off Linux.
#[cfg(target_os = "linux")]
pub fn room(folder: &Path) -> io::Result<Room> {
    let found = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Room { bytes: bytes(found.f_blocks), free_bytes: bytes(found.f_bavail) })
}

/// The file system that holds `folder`.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`]: off Linux nobody asks.
#[cfg(not(target_os = "linux"))]
pub fn room(_: &Path) -> io::Result<Room> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_no_more_free_than_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let found = room(folder.path()).unwrap();
        assert!(found.bytes > 0 && found.free_bytes <= found.bytes, "{found:?}");
        assert_eq!(room(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
