//! Bytes that both ends of a connection can work out, so that each checks every one it gets.
//!
//! A stream is a seed and a sequence of blocks; each block is worked out by itself, with little
//! effort: one end may be an emulated processor.

use std::io::{self, Read, Write};

/// Bytes of a block. Streams are whole blocks.
pub const BLOCK_BYTES: usize = 64 << 10;

/// A stream of so many blocks.
#[derive(Clone, Copy, Debug)]
pub struct Seeded {
    /// What it is made of.
    pub seed: u64,
    /// How long it is.
    pub blocks: u64,
}

impl Seeded {
    /// Block `index` of the stream.
    fn fill(self, index: u64, block: &mut [u8]) {
        let words = (BLOCK_BYTES / 8) as u64;
        let numbers = index * words..(index + 1) * words;
        for (target, number) in block.chunks_exact_mut(8).zip(numbers) {
            target.copy_from_slice(&mixed(self.seed.wrapping_add(number)).to_le_bytes());
        }
    }

    /// Writes all of it.
    pub fn send(self, target: &mut impl Write) -> io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        for index in 0..self.blocks {
            self.fill(index, &mut block);
            target.write_all(&block)?;
        }
        target.flush()
    }

    /// Reads all of it; an error when it ends early or a byte is another.
    pub fn check(self, source: &mut impl Read) -> io::Result<()> {
        let (mut wanted, mut block) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
        for index in 0..self.blocks {
            source.read_exact(&mut block)?;
            self.fill(index, &mut wanted);
            if let Some(at) = block.iter().zip(&wanted).position(|(got, want)| got != want) {
                let at = index * BLOCK_BYTES as u64 + at as u64;
                return Err(io::Error::other(format!("byte {at} is not what was sent")));
            }
        }
        Ok(())
    }
}

/// The finalizer of SplitMix64: neighbours have nothing in common.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn every_changed_missing_or_moved_byte_is_found() {
        let stream = Seeded { seed: 7, blocks: 3 };
        let mut bytes = Vec::new();
        stream.send(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 3 * BLOCK_BYTES);
        stream.check(&mut bytes.as_slice()).unwrap();
        let mut changed = bytes.clone();
        changed[70_000] ^= 1;
        let told = stream.check(&mut changed.as_slice()).unwrap_err().to_string();
        assert_eq!(told, "byte 70000 is not what was sent");
        assert!(stream.check(&mut &bytes[..bytes.len() - 1]).is_err());
        assert!(stream.check(&mut &bytes[8..]).is_err());
        assert!(Seeded { seed: 8, ..stream }.check(&mut bytes.as_slice()).is_err());
    }
}
