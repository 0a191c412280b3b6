//! The keys of dnpipes that are encrypted on the disk, and the keys that those are wrapped with.
//!
//! ```text
//!   the server's key, from a Secret ──wraps──▶ data key of a dnpipe and an epoch ──derives──▶ keys of batches: see `seal`
//!         never in the journal                    wrapped: in the state partition
//! ```
//!
//! A reset makes a new data key and forgets the one before: what that had encrypted can't be read from that moment on, long
//! before its room is free. Each server of a pool that has the Secret can unwrap it, so a dnpipe that moves brings its own
//! along.
//!
//! Wrapping is AES-256-GCM (NIST SP 800-38D) with a random nonce, and with name and epoch authenticated: `nonce, key, tag`.

use std::{fmt, sync::Arc};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use serde::{Deserialize, Serialize};
use sidestream_event::native::DnpipeName;

/// Bytes of any of the keys.
const KEY_BYTES: usize = 32;

/// Which key wraps the data keys of a dnpipe: a key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRef {
    /// The Secret.
    pub name: String,
    /// The key in it.
    pub key: String,
}

/// Where the keys are that data keys are wrapped with.
pub trait Keys: Send + Sync {
    /// The bytes of a key: 32 of them, or 64 hexadecimal digits.
    ///
    /// # Errors
    /// Why it is not to be had, and what to do.
    fn get(&self, key: &KeyRef) -> Result<Vec<u8>, String>;
}

/// For servers without encrypted dnpipes.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

impl Keys for NoKeys {
    fn get(&self, _: &KeyRef) -> Result<Vec<u8>, String> {
        Err("this server has no Secrets".into())
    }
}

/// Why there is no data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The key that wraps it is not to be had.
    Missing {
        /// Which.
        key: KeyRef,
        /// Why not.
        reason: String,
    },
    /// What is to wrap it is no such key.
    Length {
        /// Which.
        key: KeyRef,
        /// Bytes it has.
        bytes: usize,
    },
    /// It was wrapped with another key than is there now, or for another dnpipe.
    Wrong {
        /// Which is there.
        key: KeyRef,
    },
    /// The machine gives no random bytes.
    Random,
    /// The key is there, and what must be read with it before anybody is served is not.
    Unread {
        /// Why not.
        reason: String,
    },
}

/// A dnpipe is locked: nothing of it is pushed, delivered or let go until its key can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// The key that its data key is wrapped with.
    pub key: KeyRef,
    /// What is wrong with what is there, as the end of a sentence about it.
    pub reason: String,
}

impl KeyError {
    /// Of a dnpipe that is encrypted already: what it waits for, where that is its key.
    pub(crate) fn locks(self) -> Result<Locked, KeyError> {
        let (key, reason) = match self {
            KeyError::Missing { key, reason } => (key, format!("is missing ({reason})")),
            KeyError::Length { key, bytes } => {
                let reason = format!("has {bytes} bytes, and AES-256 takes 32, or 64 hexadecimal digits");
                (key, reason)
            }
            KeyError::Wrong { key } => (key, "is not the one that its data key was wrapped with".into()),
            other @ (KeyError::Random | KeyError::Unread { .. }) => return Err(other),
        };
        Ok(Locked { key, reason })
    }
}

/// A data key as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wrapped {
    /// What it is wrapped with.
    pub(crate) by: KeyRef,
    /// The rest, in hexadecimal digits.
    pub(crate) key: String,
}

/// The key of a dnpipe in one epoch.
#[derive(Clone)]
pub(crate) struct DataKey {
    pub(crate) secret: Arc<[u8; KEY_BYTES]>,
    pub(crate) wrapped: Wrapped,
    wrapping: Arc<RandomizedNonceKey>,
}

impl DataKey {
    /// A new one.
    pub(crate) fn create(
        keys: &dyn Keys,
        by: &KeyRef,
        name: &DnpipeName,
        epoch: u32,
    ) -> Result<Self, KeyError> {
        Self::random(wrapping(keys, by)?, by.clone(), name, epoch)
    }

    /// A new one for the epoch after a reset; nobody is asked for anything.
    pub(crate) fn renew(&self, name: &DnpipeName, epoch: u32) -> Result<Self, KeyError> {
        Self::random(self.wrapping.clone(), self.wrapped.by.clone(), name, epoch)
    }

    /// The same one, wrapped with another key.
    pub(crate) fn rewrap(
        &self,
        keys: &dyn Keys,
        by: &KeyRef,
        name: &DnpipeName,
        epoch: u32,
    ) -> Result<Self, KeyError> {
        Self::wrap(self.secret.clone(), wrapping(keys, by)?, by.clone(), name, epoch)
    }

    /// The one that was written down.
    pub(crate) fn unwrap(
        keys: &dyn Keys,
        wrapped: &Wrapped,
        name: &DnpipeName,
        epoch: u32,
    ) -> Result<Self, KeyError> {
        let wrapping = wrapping(keys, &wrapped.by)?;
        let wrong = || KeyError::Wrong { key: wrapped.by.clone() };
        let mut bytes = from_hex(wrapped.key.as_bytes()).ok_or_else(wrong)?;
        let (nonce, sealed) = bytes.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(wrong)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = wrapping.open_in_place(nonce, facts(name, epoch), sealed).map_err(|_| wrong())?;
        let secret = <[u8; KEY_BYTES]>::try_from(&*opened).map_err(|_| wrong())?;
        Ok(Self { secret: Arc::new(secret), wrapped: wrapped.clone(), wrapping })
    }

    fn random(
        wrapping: Arc<RandomizedNonceKey>,
        by: KeyRef,
        name: &DnpipeName,
        epoch: u32,
    ) -> Result<Self, KeyError> {
        let mut secret = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| KeyError::Random)?;
        Self::wrap(Arc::new(secret), wrapping, by, name, epoch)
    }

    fn wrap(
        secret: Arc<[u8; KEY_BYTES]>,
        wrapping: Arc<RandomizedNonceKey>,
        by: KeyRef,
        name: &DnpipeName,
        epoch: u32,
    ) -> Result<Self, KeyError> {
        let mut sealed = secret.to_vec();
        let nonce = wrapping.seal_in_place_append_tag(facts(name, epoch), &mut sealed);
        let nonce = nonce.map_err(|_| KeyError::Random)?;
        let key = to_hex(nonce.as_ref()) + &to_hex(&sealed);
        Ok(Self { secret, wrapped: Wrapped { by, key }, wrapping })
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "DataKey({})", self.wrapped.by)
    }
}

fn wrapping(keys: &dyn Keys, by: &KeyRef) -> Result<Arc<RandomizedNonceKey>, KeyError> {
    let found = keys.get(by).map_err(|reason| KeyError::Missing { key: by.clone(), reason })?;
    let wrong = || KeyError::Length { key: by.clone(), bytes: found.len() };
    let bytes = match found.len() {
        KEY_BYTES => found.clone(),
        _ => from_hex(found.trim_ascii()).filter(|bytes| bytes.len() == KEY_BYTES).ok_or_else(wrong)?,
    };
    RandomizedNonceKey::new(&AES_256_GCM, &bytes).map(Arc::new).map_err(|_| wrong())
}

/// Whose key it is: a wrapped key is of no use for another dnpipe, nor for another epoch.
fn facts(name: &DnpipeName, epoch: u32) -> Aad<Vec<u8>> {
    Aad::from(format!("sidestream data key 1 {name} {epoch}").into_bytes())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "key `{}` of Secret `{}`", self.key, self.name)
    }
}

impl fmt::Display for Locked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "the dnpipe is locked, for {} {}; put the one from before there and try again: until then nothing is \
             stored or delivered, and nothing is lost",
            self.key, self.reason
        )
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Missing { key, reason } => {
                write!(out, "{key}, which its data key is wrapped with, is not to be had: {reason}")
            }
            KeyError::Length { key, bytes } => write!(
                out,
                "{key} has {bytes} bytes, and AES-256 takes 32, or 64 hexadecimal digits; make one with \
                 `openssl rand -hex 32`"
            ),
            KeyError::Wrong { key } => {
                write!(
                    out,
                    "{key} is not the one that its data key was wrapped with; give the one from before"
                )
            }
            KeyError::Random => out.write_str("the machine gives no random bytes for a key; try again"),
            KeyError::Unread { reason } => {
                write!(
                    out,
                    "ids of messages that were pushed before cannot be read: {reason}; it is tried again"
                )
            }
        }
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A key of these bytes for everything.
    pub(crate) struct Given(pub(crate) Vec<u8>);

    impl Keys for Given {
        fn get(&self, _: &KeyRef) -> Result<Vec<u8>, String> {
            Ok(self.0.clone())
        }
    }

    pub(crate) fn by() -> KeyRef {
        KeyRef { name: "k".into(), key: "key".into() }
    }

    fn name(name: &str) -> DnpipeName {
        name.parse().unwrap()
    }

    #[test]
    fn a_data_key_is_unwrapped_with_the_key_that_wrapped_it_for_its_dnpipe_and_epoch_alone() {
        let (keys, orders) = (Given(vec![7; 32]), name("shop/orders"));
        let made = DataKey::create(&keys, &by(), &orders, 3).unwrap();
        let unwrap = |keys: &Given, dnpipe: &DnpipeName, epoch| {
            DataKey::unwrap(keys, &made.wrapped, dnpipe, epoch).map(|key| *key.secret)
        };
        assert_eq!(unwrap(&keys, &orders, 3), Ok(*made.secret));
        let wrong = Err(KeyError::Wrong { key: by() });
        assert_eq!(unwrap(&keys, &orders, 4), wrong);
        assert_eq!(unwrap(&keys, &name("shop/bills"), 3), wrong);
        assert_eq!(unwrap(&Given(vec![8; 32]), &orders, 3), wrong);
        let changed = |key: String| {
            let wrapped = Wrapped { key, ..made.wrapped.clone() };
            DataKey::unwrap(&keys, &wrapped, &orders, 3).map(|key| *key.secret)
        };
        for at in 0..made.wrapped.key.len() {
            let mut key = made.wrapped.key.clone().into_bytes();
            key[at] = if key[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(changed(String::from_utf8(key).unwrap()), wrong, "digit {at}");
        }
        for cut in ["", "0", "00ff", "no key"] {
            assert_eq!(changed(cut.into()), wrong);
        }
    }

    #[test]
    fn each_epoch_has_another_key_and_each_wrapping_looks_different() {
        let (keys, orders) = (Given(vec![7; 32]), name("shop/orders"));
        let made = DataKey::create(&keys, &by(), &orders, 0).unwrap();
        assert_ne!(made.secret, made.renew(&orders, 1).unwrap().secret);
        let rewrapped = made.rewrap(&Given(vec![9; 32]), &by(), &orders, 0).unwrap();
        assert_eq!(made.secret, rewrapped.secret);
        assert_ne!(made.wrapped, rewrapped.wrapped);
        assert!(DataKey::unwrap(&Given(vec![9; 32]), &rewrapped.wrapped, &orders, 0).is_ok());
    }

    /// Made by a program that shares nothing with this one. It must be read for ever.
    #[test]
    fn a_wrapped_key_of_version_1_looks_like_this() {
        let key = concat!(
            "6465666768696a6b6c6d6e6fedbe7bc3dc4cf33b9bc7fa4d7fc0cf58e767a3af2ec956d7027409ed5e0600ed",
            "21f35baf19303aedab210f7c033a563c"
        );
        let wrapped = Wrapped { by: by(), key: key.into() };
        let key = DataKey::unwrap(&Given((0..32).collect()), &wrapped, &name("shop/orders"), 2).unwrap();
        assert_eq!(*key.secret, [0xa5; 32]);
    }

    #[test]
    fn a_key_is_32_bytes_or_64_digits_and_what_is_not_is_refused_with_its_cure() {
        let orders = name("shop/orders");
        let made = |bytes: &[u8]| DataKey::create(&Given(bytes.to_vec()), &by(), &orders, 0);
        for bytes in [&[0xff; 32][..], &[b'a'; 64], &[&[b'0'; 64][..], b"\n"].concat()] {
            assert!(made(bytes).is_ok(), "{bytes:?}");
        }
        for bytes in [&[][..], &[1; 31], &[b'x'; 64], &[b'a'; 63], &[1; 33]] {
            let error = made(bytes).unwrap_err();
            assert_eq!(error, KeyError::Length { key: by(), bytes: bytes.len() });
            assert!(error.to_string().contains("openssl rand -hex 32"), "{error}");
        }
        let missing = DataKey::create(&NoKeys, &by(), &orders, 0).unwrap_err();
        assert!(missing.to_string().contains("key `key` of Secret `k`"), "{missing}");
    }
}
