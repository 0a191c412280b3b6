//! Where files are looked for: paths, and folders with a pattern.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{describe, folder_of, identity::Identity};
use crate::BuildError;

/// Every place a source reads.
pub(super) struct Places {
    places: Vec<Place>,
    /// Files that a pattern does not mean: the source's own.
    own: Vec<PathBuf>,
    /// Paths whose trouble was reported.
    reported: HashSet<PathBuf>,
}

/// A regular file that is there.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) length: u64,
}

impl Places {
    pub(super) fn parse(paths: &[String]) -> Result<Self, BuildError> {
        if paths.is_empty() {
            return Err(BuildError { field: "paths", reason: "names no file; name at least one".into() });
        }
        let places = paths.iter().map(|path| Place::parse(path)).collect::<Result<_, _>>()?;
        Ok(Self { places, own: Vec::new(), reported: HashSet::new() })
    }

    /// Says that the source writes these files itself: reading them would go on for ever.
    pub(super) fn without(self, own: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { own: own.into_iter().collect(), ..self }
    }

    /// Whether there can be more than one file.
    pub(super) fn are_many(&self) -> bool {
        self.places.len() > 1 || self.have_patterns()
    }

    /// Whether folders have to be listed.
    pub(super) fn have_patterns(&self) -> bool {
        self.places.iter().any(|place| matches!(place, Place::Pattern { .. }))
    }

    /// Whether two paths belong to one place.
    pub(super) fn are_together(&self, one: &Path, other: &Path) -> bool {
        self.places.iter().any(|place| place.holds(one) && place.holds(other))
    }

    /// Whether a file at `path` is meant.
    pub(super) fn hold(&self, path: &Path) -> bool {
        self.places.iter().any(|place| place.holds(path))
    }

    /// An error where a file that is named, or the folder of those that are matched, is not there to be read.
    pub(super) fn must_exist(&self) -> Result<(), String> {
        self.places.iter().try_for_each(Place::must_exist).map_err(|reason| {
            format!("{reason}; with `follow: false` it must be there at the start: mend the path, or leave `follow` out to wait for it")
        })
    }

    /// The regular files there are now, each once. What cannot be read is reported once.
    pub(super) fn find(&mut self) -> Vec<Found> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for place in &self.places {
            let listed = match place.list() {
                Ok(listed) => listed,
                Err((folder, error)) => {
                    report(&mut self.reported, folder, &describe("list", folder, &error));
                    continue;
                }
            };
            // Of what a pattern matches, folders are not meant, and what has just gone is gone.
            let is_named = matches!(place, Place::Path(_));
            for path in listed.into_iter().filter(|path| !self.own.contains(path)) {
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => {
                        self.reported.remove(&path);
                        let identity = Identity::of(&path, &metadata);
                        if seen.insert(identity) {
                            found.push(Found { path, identity, length: metadata.len() });
                        }
                    }
                    Ok(_) if is_named => {
                        report(&mut self.reported, &path, &format!("{} is no regular file", path.display()));
                    }
                    Err(error) if is_named => {
                        report(&mut self.reported, &path, &describe("read", &path, &error))
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// Says once what is wrong with a path.
    pub(super) fn report(&mut self, path: &Path, reason: &str) {
        report(&mut self.reported, path, reason);
    }
}

fn report(reported: &mut HashSet<PathBuf>, path: &Path, reason: &str) {
    if reported.insert(path.to_owned()) {
        tracing::warn!(reason, "a file is not read yet; it is tried again");
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// One file, there or not yet.
    Path(PathBuf),
    /// Every file of a folder whose name matches.
    Pattern { folder: PathBuf, pattern: String },
}

impl Place {
    fn parse(text: &str) -> Result<Self, BuildError> {
        let refuse = |reason| Err(BuildError { field: "paths", reason });
        let path = PathBuf::from(text);
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return refuse(format!("`{text}` names no file"));
        };
        let folder = folder_of(&path);
        if folder.to_string_lossy().contains('*') {
            return refuse(format!("`{text}` has a `*` before its last part; list the folders one by one"));
        }
        match name.contains('*') {
            true => Ok(Place::Pattern { folder: folder.to_owned(), pattern: name.to_owned() }),
            false => Ok(Place::Path(path)),
        }
    }

    /// The paths here now, in order of name; of a plain path that path, whether it exists or not. An error names the
    /// folder.
    fn list(&self) -> Result<Vec<PathBuf>, (&Path, io::Error)> {
        match self {
            Place::Path(path) => Ok(vec![path.clone()]),
            Place::Pattern { folder, pattern } => {
                let entries = fs::read_dir(folder).map_err(|error| (folder.as_path(), error))?;
                let is_meant = |entry: &fs::DirEntry| {
                    entry.file_name().to_str().is_some_and(|name| matches(pattern, name))
                };
                let mut found: Vec<_> =
                    entries.flatten().filter(is_meant).map(|entry| entry.path()).collect();
                found.sort();
                Ok(found)
            }
        }
    }

    fn must_exist(&self) -> Result<(), String> {
        match self {
            Place::Path(path) => {
                let read = |error| describe("read", path, &error);
                // A pipe is not opened to see: that would wait for its writer.
                if !fs::metadata(path).map_err(read)?.is_file() {
                    return Err(format!("{} is no regular file", path.display()));
                }
                fs::File::open(path).map(drop).map_err(read)
            }
            Place::Pattern { .. } => {
                self.list().map(drop).map_err(|(folder, error)| describe("list", folder, &error))
            }
        }
    }

    /// Whether a file at `path` belongs here.
    fn holds(&self, path: &Path) -> bool {
        match self {
            Place::Path(own) => own == path,
            Place::Pattern { folder, pattern } => {
                let name = path.file_name().and_then(|name| name.to_str());
                folder_of(path) == folder && name.is_some_and(|name| matches(pattern, name))
            }
        }
    }
}

/// Whether `name` matches `pattern`, in which `*` is any text. Hidden files match only a pattern that begins with a dot.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // The earliest place for every part leaves the most for those after it.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_also_none() {
        for (pattern, name, expected) in [
            ("*.log", "a.log", true),
            ("*.log", ".log", false),
            (".*", ".log", true),
            ("*.log", "a.log.1", false),
            ("app*.log", "app.log", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("*", "anything", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_star_in_a_folder_is_refused_with_what_to_do() {
        let error = Place::parse("/var/*/app.log").unwrap_err();
        assert!(error.to_string().contains("list the folders one by one"), "{error}");
        assert!(Place::parse("/").unwrap_err().to_string().contains("names no file"));
    }

    #[test]
    fn a_pattern_lists_what_is_there_in_order_and_knows_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.log", "a.log", "c.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let place = Place::parse(folder.path().join("*.log").to_str().unwrap()).unwrap();
        assert_eq!(place.list().unwrap(), [folder.path().join("a.log"), folder.path().join("b.log")]);
        assert!(place.holds(&folder.path().join("z.log")) && !place.holds(Path::new("/z.log")));
    }
}
