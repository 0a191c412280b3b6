//! Files for the next container of this pod.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Writes a file whole or not at all, also where the machine loses its power, for this user's eyes only.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(bytes)?;
    // Before the name changes hands: a name that points to bytes that are not there yet is a file torn in half.
    file.sync_all()?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leaf.pem");
        write_whole(&path, b"long ago").unwrap();
        write_whole(&path, b"now").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"now");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leaf.pem");
        write_whole(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leaf.pem");
        write_whole(&path, b"before").unwrap();
        // A folder in the place of the file that would be renamed.
        fs::create_dir(folder.path().join("leaf.pem.new")).unwrap();
        assert!(write_whole(&path, b"after").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"before");
    }
}
