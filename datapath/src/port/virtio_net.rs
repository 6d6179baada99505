//! The virtio-net header in front of each packet of a tap or a guest: `struct virtio_net_hdr`,
//! little-endian.

use seine_pipeline::packet::Checksum;

/// Bytes of the header; the kernel is told so. A guest adds a count of buffers.
pub(super) const BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;

/// What the header in front of a packet of `len` bytes says about its checksum. `None` when the
/// packet is a segment to be cut, which was not asked for, or the fields lie outside it.
///
/// DATA_VALID, "the sum was verified", says nothing that matters here: the sum is complete.
pub(super) fn decode(header: &[u8], len: usize) -> Option<Checksum> {
    let &[flags, segmentation, _, _, _, _, start_low, start_high, offset_low, offset_high] = header
    else {
        return None;
    };
    if segmentation != 0 {
        return None;
    }
    if flags & NEEDS_CHECKSUM == 0 {
        return Some(Checksum::Complete);
    }
    let start = u16::from_le_bytes([start_low, start_high]);
    let offset = u16::from_le_bytes([offset_low, offset_high]);
    fits(start, offset, len).then_some(Checksum::Partial { start, offset })
}

/// Writes the header of a packet of `len` bytes. `None` when the checksum fields lie outside it.
pub(super) fn encode(checksum: Checksum, len: usize, header: &mut [u8]) -> Option<()> {
    header.fill(0);
    if let Checksum::Partial { start, offset } = checksum {
        if !fits(start, offset, len) {
            return None;
        }
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        header[8..10].copy_from_slice(&offset.to_le_bytes());
    }
    Some(())
}

fn fits(start: u16, offset: u16, len: usize) -> bool {
    usize::from(start) + usize::from(offset) + 2 <= len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_checksum_fact_survives_the_header(
            start in 0u16..2000,
            offset in 0u16..100,
            len in 14usize..1800,
        ) {
            let mut header = [0xff; BYTES];
            let checksum = Checksum::Partial { start, offset };
            let encoded = encode(checksum, len, &mut header);
            prop_assert_eq!(encoded.is_some(), usize::from(start + offset) + 2 <= len);
            if encoded.is_some() {
                prop_assert_eq!(decode(&header, len), Some(checksum));
            }
        }

        #[test]
        fn what_is_decoded_lies_within_the_packet(
            header in any::<[u8; BYTES]>(),
            len in 0usize..3000,
        ) {
            if let Some(Checksum::Partial { start, offset }) = decode(&header, len) {
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= len);
            }
        }
    }

    #[test]
    fn a_segment_is_not_taken_for_a_packet() {
        let mut header = [0; BYTES];
        header[1] = 1;
        assert_eq!(decode(&header, 1000), None);
    }
}
