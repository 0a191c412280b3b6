//! A file with the key that records are encrypted with.

use std::{fs, str::FromStr};

use sidestream_client::DataKey;

/// The key of a file.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile(pub(crate) DataKey);

impl FromStr for KeyFile {
    type Err = String;

    fn from_str(path: &str) -> Result<KeyFile, String> {
        let bytes = fs::read(path).map_err(|error| format!("it cannot be read: {error}"))?;
        DataKey::new(&bytes).map(KeyFile).map_err(|error| error.to_string())
    }
}
