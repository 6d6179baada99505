//! What the packet path asks of the processor: cache lines ahead of time, and lines compared whole.
//!
//! A processor with AVX-512 compares the eight words of a line in one instruction. Which way is
//! taken is known once, at start; both give the same answers, which a test holds them to.

#![allow(unsafe_code, reason = "hints to the processor, and lines compared by vector instructions")]

use seine_pipeline::composed::{Machine, Plain};
use seine_pipeline::connection::Line;

use crate::machine::cycles;

/// The processor that this runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor {
    /// It has AVX-512: private, for only [`detect`](Self::detect) may say so.
    wide: bool,
}

impl Processor {
    /// With all that this one has.
    pub fn detect() -> Processor {
        #[cfg(target_arch = "x86_64")]
        let wide = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512dq");
        #[cfg(not(target_arch = "x86_64"))]
        let wide = false;
        Processor { wide }
    }

    /// With what every processor of its kind has.
    pub const fn baseline() -> Processor {
        Processor { wide: false }
    }

    /// Whether it compares whole lines.
    pub fn is_wide(self) -> bool {
        self.wide
    }
}

impl Machine for Processor {
    #[inline(always)]
    fn prefetch<T>(&self, place: &T) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint reads nothing, and the address is that of a reference.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    #[inline(always)]
    fn prefetch_to_write<T>(&self, place: &T) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(std::ptr::from_ref(place).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    #[inline(always)]
    fn first_alike(&self, line: &Line, wanted: u64, mask: u64) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            return wide::first_alike(line, wanted, mask);
        }
        Plain.first_alike(line, wanted, mask)
    }

    #[inline(always)]
    fn has_key(&self, line: &Line, key: &[u64; 6], v4: bool) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            return wide::has_key(line, key, v4);
        }
        Plain.has_key(line, key, v4)
    }

    #[inline(always)]
    fn cycles(&self) -> u64 {
        cycles()
    }
}

/// Written in assembly: an intrinsic is inlined only into functions that are themselves compiled
/// for AVX-512. The registers from 16 on leave the older ones clean, which mixing would cost.
///
/// Other threads may write the line meanwhile. Each word of it is aligned, so a processor reads it
/// whole, as it does by the relaxed loads of [`Plain`]; nothing is read in between by the compiler.
#[cfg(target_arch = "x86_64")]
mod wide {
    use core::arch::asm;

    use seine_pipeline::connection::{LINE_WORDS, Line};

    #[inline(always)]
    pub(super) fn first_alike(line: &Line, wanted: u64, mask: u64) -> usize {
        let bits: u32;
        // SAFETY: `Processor::wide` says that the instructions exist; one line is read.
        unsafe {
            asm!(
                "vpbroadcastq zmm16, {wanted}",
                "vpbroadcastq zmm17, {mask}",
                "vpxorq zmm16, zmm16, zmmword ptr [{line}]",
                "vptestnmq k1, zmm16, zmm17",
                "kmovb {bits:e}, k1",
                line = in(reg) std::ptr::from_ref(line),
                wanted = in(reg) wanted,
                mask = in(reg) mask,
                bits = lateout(reg) bits,
                out("xmm16") _,
                out("xmm17") _,
                out("k1") _,
                options(readonly, nostack, preserves_flags),
            );
        }
        // A bit behind the last of eight, for a line that has none.
        (bits | 1 << LINE_WORDS).trailing_zeros() as usize
    }

    #[inline(always)]
    pub(super) fn has_key(line: &Line, key: &[u64; 6], v4: bool) -> bool {
        let compared: u32 = if v4 { 0b11_1010 } else { 0b11_1111 };
        let different: u32;
        // SAFETY: as above; of `key` no more than six are read, for the mask has six bits.
        unsafe {
            asm!(
                "kmovb k1, {compared:e}",
                "vmovdqu64 zmm16 {{k1}} {{z}}, zmmword ptr [{key}]",
                "vpcmpneqq k2 {{k1}}, zmm16, zmmword ptr [{line}]",
                "kmovb {different:e}, k2",
                compared = in(reg) compared,
                key = in(reg) key.as_ptr(),
                line = in(reg) std::ptr::from_ref(line),
                different = lateout(reg) different,
                out("xmm16") _,
                out("k1") _,
                out("k2") _,
                options(readonly, nostack, preserves_flags),
            );
        }
        different == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use proptest::prelude::*;

    use super::*;

    /// Words of which some are the same but for a few bits.
    fn words() -> impl Strategy<Value = [u64; 8]> {
        let word = prop_oneof![0..4_u64, (0..4_u64).prop_map(|bits| bits << 62), any::<u64>()];
        prop::array::uniform8(word)
    }

    proptest! {
        #[test]
        fn both_ways_to_compare_a_line_are_one(
            words in words(), other in words(), at in 0..8_usize, mask: u64, change in 0..9_usize,
        ) {
            let line = Line(words.map(AtomicU64::new));
            let (narrow, wide) = (Processor::baseline(), Processor::detect());
            for wanted in [words[at], other[at]] {
                for mask in [mask, u64::MAX, u64::MAX << 33, 0] {
                    let expected = words.iter().position(|word| (word ^ wanted) & mask == 0);
                    for processor in [narrow, wide] {
                        let found = processor.first_alike(&line, wanted, mask);
                        prop_assert_eq!(found, expected.unwrap_or(words.len()));
                    }
                }
            }
            let mut key = [words[0], words[1], words[2], words[3], words[4], words[5]];
            if let Some(word) = key.get_mut(change) {
                *word ^= 1 << (mask % 64);
            }
            for processor in [narrow, wide] {
                prop_assert_eq!(processor.has_key(&line, &key, false), change >= 6);
                let same = change >= 6 || change == 0 || change == 2;
                prop_assert_eq!(processor.has_key(&line, &key, true), same);
            }
        }
    }
}
