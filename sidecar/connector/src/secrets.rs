//! Secrets, read where the kubelet or `--secrets DIR` puts them: one file per key, `DIR/name/key`.

use std::{fs, path::PathBuf};

use sidestream_plan::{SecretKey, SecretRef};

use crate::BuildError;

/// The folder secrets are read from; none means that a reference to one is an error.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Option<PathBuf>);

impl Secrets {
    /// Secrets under `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self(Some(folder.into()))
    }

    /// The value of a reference, without trailing line breaks.
    pub fn get(&self, reference: &SecretRef) -> Result<String, BuildError> {
        let key = &reference.secret_ref;
        let (bytes, path) = self.read(key)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
            Err(_) => {
                let reason = format!("cannot read secret {}: it is no text", path.display());
                Err(BuildError { field: "credentials", reason })
            }
        }
    }

    /// The bytes of a key of a secret, as they are in its file.
    pub fn bytes(&self, key: &SecretKey) -> Result<Vec<u8>, BuildError> {
        self.read(key).map(|(bytes, _)| bytes)
    }

    fn read(&self, key: &SecretKey) -> Result<(Vec<u8>, PathBuf), BuildError> {
        let refuse = |reason| BuildError { field: "credentials", reason };
        let named =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\\']);
        if !named(&key.name) || !named(&key.key) {
            return Err(refuse(format!("`{}/{}` is no name and key of a secret", key.name, key.key)));
        }
        let Some(folder) = &self.0 else {
            return Err(refuse(format!(
                "secret `{}` is needed, and no folder of secrets was given; write its key `{}` to DIR/{}/{} and pass --secrets DIR",
                key.name, key.key, key.name, key.key
            )));
        };
        let path = folder.join(&key.name).join(&key.key);
        match fs::read(&path) {
            Ok(bytes) => Ok((bytes, path)),
            Err(error) => Err(refuse(format!("cannot read secret {}: {error}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use sidestream_plan::SecretKey;

    use super::*;

    fn reference(name: &str, key: &str) -> SecretRef {
        SecretRef { secret_ref: SecretKey { name: name.into(), key: key.into() } }
    }

    #[test]
    fn a_secret_is_the_text_of_its_file_without_the_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("am")).unwrap();
        fs::write(folder.path().join("am/token"), "s3cret\n").unwrap();
        let secrets = Secrets::at(folder.path());
        assert_eq!(secrets.get(&reference("am", "token")).unwrap(), "s3cret");
        assert!(secrets.get(&reference("am", "other")).unwrap_err().reason.contains("cannot read secret"));
    }

    #[test]
    fn a_reference_cannot_leave_the_folder_and_says_what_to_pass_without_one() {
        let secrets = Secrets::at("/nowhere");
        assert!(secrets.get(&reference("..", "passwd")).unwrap_err().reason.contains("no name and key"));
        assert!(secrets.get(&reference("a", "b/c")).unwrap_err().reason.contains("no name and key"));
        assert!(Secrets::default().get(&reference("a", "b")).unwrap_err().reason.contains("--secrets DIR"));
    }
}
