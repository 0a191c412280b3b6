//! Memory a device can read and write directly: bytes that begin at a multiple of the page size.

use std::ops::{Deref, DerefMut};

/// What direct I/O asks of addresses, on any device.
const ALIGNMENT: usize = 4096;

/// Growing bytes whose first one lies at a multiple of 4096.
#[derive(Default)]
pub struct Aligned {
    /// Up to `start`, nothing; from there on, the bytes. Never reallocated in place, which would move the bytes.
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut memory = Vec::<u8>::with_capacity(capacity + ALIGNMENT);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory.resize(start, 0);
        Self { memory, start }
    }

    /// `length` zeros.
    pub fn zeroed(length: usize) -> Self {
        // Asked for as zeros, so that large ones come from the system untouched.
        let mut memory = vec![0_u8; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory.truncate(start + length);
        Self { memory, start }
    }

    /// These bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut aligned = Self::with_capacity(bytes.len());
        aligned.extend(bytes);
        aligned
    }

    /// Adds bytes at the end; moves what is there where the room is used up.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.memory.extend_from_slice(bytes);
    }

    /// Adds zeros up to the next multiple of `block`, a power of two.
    pub fn pad(&mut self, block: usize) {
        let length = self.len().next_multiple_of(block);
        self.make_room(length - self.len());
        self.memory.resize(self.start + length, 0);
    }

    /// Forgets the bytes from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.memory.truncate(self.start + length);
    }

    /// Bytes that fit before they move.
    pub fn capacity(&self) -> usize {
        self.memory.capacity().saturating_sub(self.start)
    }

    fn make_room(&mut self, more: usize) {
        let needed = self.len() + more;
        if needed > self.capacity() {
            let mut larger = Self::with_capacity(needed.max(self.capacity() * 2).max(ALIGNMENT));
            larger.memory.extend_from_slice(self);
            *self = larger;
        }
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Aligned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Aligned({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_aligned_and_unchanged_while_they_grow() {
        let mut grown = Aligned::default();
        let mut expected = Vec::new();
        for round in 0..2000_u32 {
            grown.extend(&round.to_le_bytes());
            expected.extend(round.to_le_bytes());
            assert_eq!(grown.as_ptr().align_offset(ALIGNMENT), 0);
        }
        grown.pad(512);
        assert_eq!((grown.len() % 512, &grown[..expected.len()]), (0, &expected[..]));
        assert!(grown[expected.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(Aligned::zeroed(70_000).as_ptr().align_offset(ALIGNMENT), 0);
    }
}
