//! Files: lines read as they are written, and lines written as events come.
//!
//! ```text
//!   paths ──▶ place ──found──▶ tail ──lines──▶ source ──▶ Intake
//!                                ▲               │ sent: (number, file, offset)
//!                  resumed at    └── positions ◀─┘ committed ──▶ checkpoint file
//! ```
//!
//! There is no notification from the kernel: files are looked at every 10 to 250 ms, which works the same on every
//! file system, over a network and in a container.

mod claim;
mod identity;
mod place;
mod positions;
mod sink;
mod source;
mod tail;

pub(crate) use sink::FileSink;
pub(crate) use source::FileSource;

use std::{io, path::Path};

/// A failure of the file system, as a clause that names the path.
fn describe(what: &str, path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::StorageFull => "no space left on device".into(),
        io::ErrorKind::QuotaExceeded => "the quota is used up".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::NotFound => "it or its folder does not exist".into(),
        _ => error.to_string(),
    };
    format!("cannot {what} {}: {why}", path.display())
}

/// Makes the names in the folder of `path` last; only Unix lets a folder be synced.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    std::fs::File::open(folder_of(path))?.sync_all()?;
    let _ = path;
    Ok(())
}

/// The folder a file stands in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
