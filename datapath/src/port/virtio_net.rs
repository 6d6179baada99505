//! The virtio-net header in front of each packet of a tap or a guest: `struct virtio_net_hdr`,
//! little-endian.
//!
//! It is read and written as one number, the first byte lowest: a processor that is to load bytes
//! which it has just stored in smaller pieces waits until all that it ever stored has left.

use seine_pipeline::packet::Checksum;

use crate::segment::{SegmentKind, Segmentation};

/// Bytes of the header; the kernel is told so. A guest adds a count of buffers.
pub(super) const BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;

/// Values of the second byte, and a bit beside them.
const WHOLE: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const CONGESTION: u8 = 0x80;

/// What the header says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What its checksum field holds.
    pub checksum: Checksum,
    /// How it is to be cut, if it is.
    pub segmentation: Option<Segmentation>,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// The checksum lies outside the packet.
    Checksum,
    /// Segments of a kind that was not offered, or without a checksum to be finished.
    Segmentation,
}

/// What the header in front of a packet of `len` bytes says about it.
///
/// DATA_VALID, "the sum was verified", says nothing that matters here: the sum is complete. How
/// long headers are is a hint, and not looked at.
pub(super) fn decode(header: u128, len: usize) -> Result<Said, Defect> {
    let [flags, kind] = [header as u8, (header >> 8) as u8];
    let [size, start, offset] = [header >> 32, header >> 48, header >> 64].map(|it| it as u16);
    let congestion = kind & CONGESTION != 0;
    let kind = match kind & !CONGESTION {
        WHOLE if !congestion => None,
        TCP_V4 => Some(SegmentKind::Tcp4),
        TCP_V6 => Some(SegmentKind::Tcp6),
        _ => return Err(Defect::Segmentation),
    };
    if flags & NEEDS_CHECKSUM == 0 {
        // Who cuts has to sum.
        return match kind {
            None => Ok(Said { checksum: Checksum::Complete, segmentation: None }),
            Some(_) => Err(Defect::Segmentation),
        };
    }
    if !fits(start, offset, len) {
        return Err(Defect::Checksum);
    }
    let segmentation = kind.map(|kind| Segmentation { kind, size, congestion });
    Ok(Said { checksum: Checksum::Partial { start, offset }, segmentation })
}

/// The header of a packet of `len` bytes whose own headers take `headers`. `None` when the
/// checksum fields lie outside it, or it is to be cut and its checksum is not partial.
pub(super) fn encode(said: Said, len: usize, headers: usize) -> Option<u128> {
    let mut header = 0;
    if let Some(Segmentation { kind, size, congestion }) = said.segmentation {
        if said.checksum == Checksum::Complete {
            return None;
        }
        let kind = match kind {
            SegmentKind::Tcp4 => TCP_V4,
            SegmentKind::Tcp6 => TCP_V6,
        };
        let kind = kind | if congestion { CONGESTION } else { 0 };
        header |= u128::from(kind) << 8 | u128::from(headers as u16) << 16 | u128::from(size) << 32;
    }
    if let Checksum::Partial { start, offset } = said.checksum {
        if !fits(start, offset, len) {
            return None;
        }
        header |= u128::from(NEEDS_CHECKSUM) | u128::from(start) << 48 | u128::from(offset) << 64;
    }
    Some(header)
}

/// The number that stands for the bytes of a header.
pub(super) fn number(bytes: &[u8; BYTES]) -> u128 {
    let mut number = [0; 16];
    number[..BYTES].copy_from_slice(bytes);
    u128::from_le_bytes(number)
}

fn fits(start: u16, offset: u16, len: usize) -> bool {
    usize::from(start) + usize::from(offset) + 2 <= len
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn segmentation() -> impl Strategy<Value = Option<Segmentation>> {
        let kind = prop_oneof![Just(SegmentKind::Tcp4), Just(SegmentKind::Tcp6)];
        prop::option::of(
            (kind, any::<u16>(), any::<bool>()).prop_map(|(kind, size, congestion)| Segmentation {
                kind,
                size,
                congestion,
            }),
        )
    }

    proptest! {
        #[test]
        fn what_is_known_of_a_packet_survives_the_header(
            start in 0u16..2000,
            offset in 0u16..100,
            len in 14usize..1800,
            segmentation in segmentation(),
        ) {
            let said = Said { checksum: Checksum::Partial { start, offset }, segmentation };
            let encoded = encode(said, len, 66);
            prop_assert_eq!(encoded.is_some(), usize::from(start + offset) + 2 <= len);
            if let Some(header) = encoded {
                prop_assert_eq!(decode(header, len), Ok(said));
                let [bytes @ .., 0, 0, 0, 0, 0, 0] = &header.to_le_bytes() else {
                    panic!("{header:#x} is too long")
                };
                prop_assert_eq!(number(bytes), header);
                prop_assert_eq!(&bytes[6..8], &start.to_le_bytes());
                prop_assert_eq!(&bytes[8..], &offset.to_le_bytes());
            }
        }

        #[test]
        fn what_is_decoded_lies_within_the_packet(
            header in any::<[u8; BYTES]>(),
            len in 0usize..3000,
        ) {
            match decode(number(&header), len) {
                Ok(Said { checksum: Checksum::Partial { start, offset }, .. }) => {
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= len);
                }
                Ok(Said { segmentation, .. }) => prop_assert_eq!(segmentation, None),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn segments_of_a_kind_that_was_not_offered_are_refused() {
        // UDP fragments, UDP segments, congestion without segments, and nothing to sum.
        for (flags, kind) in [(1_u8, 3_u8), (1, 5), (1, 0x80), (0, 1), (0, 4)] {
            let header = u128::from(flags) | u128::from(kind) << 8;
            assert_eq!(decode(header, 1000), Err(Defect::Segmentation), "{kind:#x}");
        }
    }
}
