//! Arguments that are more than a text: checked where they are read, so that a slip is said before anything is done.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

/// Somewhere to listen, or nowhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Listen {
    Off,
    At(Address),
}

/// A machine and a port on it, such as `127.0.0.1:9464`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Address(pub(crate) String);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        match text {
            "off" => Ok(Listen::Off),
            text => text.parse().map(Listen::At).map_err(|reason| format!("{reason}, or `off`")),
        }
    }
}

/// Also as people copy it out of a browser: `http://127.0.0.1:9464/`.
impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let address = text.trim_start_matches("http://").trim_end_matches('/');
        let parts = address.rsplit_once(':');
        match parts {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address(address.to_owned()))
            }
            _ => Err("this is no address and port; write one such as `127.0.0.1:9464`".into()),
        }
    }
}

/// A folder that is there.
pub(crate) fn folder(text: &str) -> Result<PathBuf, String> {
    match Path::new(text).is_dir() {
        true => Ok(PathBuf::from(text)),
        false => Err("there is no such folder; make it, or name another".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_machine_and_a_port_that_exists() {
        for good in ["127.0.0.1:9464", "localhost:0", "[::1]:80", "http://127.0.0.1:9464/"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in ["", "foo", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "of"] {
            let reason = bad.parse::<Listen>().unwrap_err();
            assert!(reason.ends_with("write one such as `127.0.0.1:9464`, or `off`"), "{bad}: {reason}");
        }
        assert_eq!("off".parse(), Ok(Listen::Off));
    }
}
