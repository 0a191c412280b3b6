//! A file with the key that records are encrypted with.

use std::{fs::File, io::Read, str::FromStr};

use sidestream_client::DataKey;

/// The key of a file.
#[derive(Clone, Debug)]
pub(crate) struct KeyFile(pub(crate) DataKey);

impl FromStr for KeyFile {
    type Err = String;

    fn from_str(path: &str) -> Result<KeyFile, String> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|from| from.take(READ_BYTES_MAX).read_to_end(&mut bytes));
        read.map_err(|error| format!("it cannot be read: {error}"))?;
        if bytes.len() as u64 == READ_BYTES_MAX {
            return Err(format!(
                "it has {READ_BYTES_MAX} bytes or more, and a key has 32; name a file of one"
            ));
        }
        DataKey::new(&bytes).map(KeyFile).map_err(|error| error.to_string())
    }
}

/// Of a file that holds anything else, no more than that.
const READ_BYTES_MAX: u64 = 4096;
