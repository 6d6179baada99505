//! The Internet checksum (RFC 1071), whole and by difference (RFC 1624).

use std::net::IpAddr;

/// The ones' complement sum of the bytes, not folded; an odd last byte counts as the high half.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total: u64 = 0;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    for last in odd {
        total += u64::from(*last) << 8;
    }
    total
}

/// Folds a sum to 16 bits.
#[inline]
pub fn fold(sum: u64) -> u16 {
    // Of a word and itself with its halves exchanged, the upper half is the sum of both halves and
    // of the carry of the lower one: just what folding asks for.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum of these bytes, their own checksum field being zero.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The sum of the pseudo-header of TCP, UDP and ICMPv6 (RFC 793, RFC 8200 section 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    address(source) + address(destination) + u64::from(protocol) + length as u64
}

fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    }
}

/// The checksum after one 16-bit word under it changed (RFC 1624, equation 3).
pub fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// What a change of words under a checksum does to it (RFC 1624).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Difference(u64);

impl Difference {
    /// With these words in place of those; each a sum as [`sum`] gives it.
    pub fn replace(self, old: u64, new: u64) -> Difference {
        Difference(self.0 + u64::from(!fold(old)) + u64::from(fold(new)))
    }

    /// With this address in place of that, in a pseudo-header.
    pub fn replace_address(self, old: IpAddr, new: IpAddr) -> Difference {
        self.replace(address(old), address(new))
    }

    /// As a term of a sum that is still to be folded.
    pub fn not_folded(self) -> u64 {
        self.0
    }

    /// Both changes.
    pub fn and(self, other: Difference) -> Difference {
        Difference(self.0 + other.0)
    }

    /// The checksum after the change.
    pub fn checksum(self, checksum: u16) -> u16 {
        !self.sum(!checksum)
    }

    /// A sum that is not complemented after the change, as a partial checksum is.
    pub fn sum(self, sum: u16) -> u16 {
        fold(u64::from(sum) + self.0)
    }
}

/// As a UDP header holds it: 0 means "none", so a sum of 0 is sent as its other form.
pub fn for_udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "test")]
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    proptest! {
        #[test]
        fn the_sum_by_words_is_the_sum_by_pairs(bytes: Vec<u8>) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn folding_keeps_what_a_sum_is_modulo_65535(sum: u64) {
            let folded = u64::from(fold(sum));
            prop_assert_eq!(folded % 0xffff, sum % 0xffff);
            prop_assert_eq!(folded == 0, sum == 0);
        }

        #[test]
        fn a_difference_gives_what_summing_again_gives(
            mut bytes in prop::collection::vec(any::<u8>(), 20..40), new: u16, word in 0usize..10,
        ) {
            bytes[0] = 0x45;
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[word * 2], bytes[word * 2 + 1]]);
            bytes[word * 2..word * 2 + 2].copy_from_slice(&new.to_be_bytes());
            prop_assume!(bytes.iter().any(|byte| *byte != 0));
            prop_assert_eq!(replace(before, old, new), checksum(&bytes));
        }
    }
}
