//! Numbers that look random: for jitter, sampling and simulations, never for secrets.

use std::hash::{BuildHasher, RandomState};

/// A small generator with one seed: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of `seed`: the same seed gives the same numbers.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator that differs from process to process.
    pub fn from_entropy() -> Self {
        Self(RandomState::new().hash_one(0u8))
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0 up to, not including, 1.
    #[inline]
    pub const fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number from 0 up to, not including, `bound` (0 gives 0).
    #[inline]
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_within_its_bounds() {
        let (mut one, mut two) = (Random::seeded(7), Random::seeded(7));
        for _ in 0..1000 {
            let number = one.below(10);
            assert!(number < 10);
            assert_eq!(number, two.below(10));
            assert!((0.0..1.0).contains(&one.next_f64()));
            two.next_f64();
        }
    }
}
