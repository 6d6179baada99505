//! CRC32c (RFC 9260 appendix A), whole and by difference.

/// Castagnoli's polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1, in the same order of bits.
const ONE: u32 = 1 << 31;
/// The polynomial x^8: a byte.
const BYTE: u32 = ONE >> 8;

#[allow(clippy::indexing_slicing, reason = "a constant: the compiler runs it")]
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = times_x(crc);
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

const fn times_x(crc: u32) -> u32 {
    if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ POLYNOMIAL }
}

fn advance(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        // The index is a byte, and the table has an entry for each.
        TABLE.get(usize::from(crc as u8 ^ byte)).copied().unwrap_or_default() ^ crc >> 8
    })
}

/// The checksum of these parts, one after the other.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    !parts.iter().fold(u32::MAX, |crc, part| advance(crc, part))
}

/// What a checksum has to be combined with (exclusive or) when the bytes under it change by
/// `difference` (exclusive or, too), which `behind` others follow. A sum that was wrong stays so.
pub fn difference(difference: &[u8], behind: usize) -> u32 {
    multiply(advance(0, difference), power(behind))
}

/// The product of two polynomials, modulo the checksum's.
fn multiply(one: u32, mut other: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        if one >> bit & 1 == 1 {
            product ^= other;
        }
        other = times_x(other);
    }
    product
}

/// x^8 to the power of a number of bytes.
fn power(mut bytes: usize) -> u32 {
    let (mut result, mut square) = (ONE, BYTE);
    while bytes > 0 {
        if bytes & 1 == 1 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
        bytes >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_bytes_have_their_known_sum() {
        // RFC 3720 appendix B.4.
        assert_eq!(checksum(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(checksum(&[&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
        assert_eq!(checksum(&[b"123456789"]), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn a_difference_gives_what_summing_again_gives(
            bytes in prop::collection::vec(any::<u8>(), 4..1500), new: [u8; 4],
        ) {
            let (head, tail) = bytes.split_first_chunk::<4>().unwrap();
            let change: Vec<u8> = head.iter().zip(&new).map(|(old, new)| old ^ new).collect();
            let by_difference = checksum(&[&bytes]) ^ difference(&change, tail.len());
            prop_assert_eq!(by_difference, checksum(&[&new, tail]));
        }
    }
}
