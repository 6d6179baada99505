//! The hash of what strangers choose: addresses and ports of packets.
//!
//! A Pod that could name keys which collide would slow the table down for all others, so every
//! word of a key meets a secret of its own (the NH construction of UMAC, RFC 4418): two different
//! keys collide with a chance of 2^-64 for whoever does not know the seed. A hash whose constants
//! can be read in its source has no such bound: one word chosen equal to a constant cancels its
//! neighbour.

use std::fmt;

/// Words that a key can have.
pub const KEY_WORDS_MAX: usize = 12;

/// A hash with its secrets.
#[derive(Clone)]
pub struct KeyedHash {
    secrets: [u64; KEY_WORDS_MAX],
    last: [u64; 2],
}

impl KeyedHash {
    /// The hash that this seed keys; the seed should be of this boot, and known to nobody.
    pub fn new(seed: u64) -> KeyedHash {
        let mut state = seed;
        // SplitMix64: every secret depends on every bit of the seed.
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        KeyedHash {
            secrets: std::array::from_fn(|_| next()),
            last: std::array::from_fn(|_| next()),
        }
    }

    /// The hash of a key; of its first [`KEY_WORDS_MAX`] words.
    #[inline]
    pub fn hash(&self, key: &[u64]) -> u64 {
        let mut sum = 0_u128;
        for (pair, secrets) in key.chunks(2).zip(self.secrets.chunks_exact(2)) {
            let [first, second] = secrets else { continue };
            let (one, other) = match pair {
                [one, other] => (*one, *other),
                [one] => (*one, 0),
                _ => continue,
            };
            let product = u128::from(first.wrapping_add(one));
            sum = sum.wrapping_add(product * u128::from(second.wrapping_add(other)));
        }
        let [first, second] = self.last;
        let high = first.wrapping_add((sum >> 64) as u64);
        let low = second.wrapping_add(sum as u64);
        let product = u128::from(high) * u128::from(low);
        (product >> 64) as u64 ^ product as u64
    }
}

/// Says nothing of the secrets.
impl fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedHash").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn neighbouring_keys_spread_evenly_over_every_part_of_the_hash() {
        for seed in 0..4 {
            let hash = KeyedHash::new(seed);
            for shift in [0, 8, 16, 32, 48, 56] {
                let mut parts = [0_u32; 256];
                for number in 0..65_536_u64 {
                    let key = [0, 10 << 24, 7, number << 16, 6, 1];
                    parts[(hash.hash(&key) >> shift) as usize % 256] += 1;
                }
                // 256 each on average; eight standard deviations to either side.
                let even = parts.iter().all(|count| (128..384).contains(count));
                assert!(even, "seed {seed}, shift {shift}: {parts:?}");
            }
        }
    }

    #[test]
    fn another_seed_is_another_hash() {
        let key = [1, 2, 3];
        assert_ne!(KeyedHash::new(1).hash(&key), KeyedHash::new(2).hash(&key));
        assert_ne!(KeyedHash::new(1).hash(&key), KeyedHash::new(1).hash(&[1, 2, 4]));
    }
}
