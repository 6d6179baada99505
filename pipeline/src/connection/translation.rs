//! What packets over IPv4 leave with, kept beside the key that they are found by.
//!
//! Of a key of IPv4 addresses two words are always zero. In a record these hold the translation, so
//! that a packet need not read the other direction's key, which lies in another cache line, and
//! sums nothing up that is the same for each of them.

use super::words::{KeyWords, address_word};
use crate::wire::checksum::fold;

/// The addresses and ports that packets of an IPv4 key leave with: its own, if nothing changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Translation {
    /// The source over the destination.
    addresses: u64,
    /// The ports, as headers have them, over both differences.
    ports: u64,
}

impl Translation {
    /// That of a key, given the key of the other direction: packets leave as answers of that.
    pub(super) fn of(key: &KeyWords, other: &KeyWords) -> Translation {
        let &[_, from, _, to, fifth, _] = key;
        let &[_, new_to, _, new_from, other_fifth, _] = other;
        let [from, to, new_from, new_to] =
            [from, to, new_from, new_to].map(|word| u64::from(word as u32));
        let (old_ports, ports) = (fifth >> 32, (other_fifth >> 32) as u32);
        let ports = u64::from(ports.rotate_left(16));
        let instead = |old: u64| u64::from(!(old as u32));
        let header = u64::from(fold(instead(from) + instead(to) + new_from + new_to));
        let upper = u64::from(fold(header + instead(old_ports) + ports));
        Translation {
            addresses: new_from << 32 | new_to,
            ports: ports << 32 | header << 16 | upper,
        }
    }

    /// As the two words that a record has room for.
    pub(super) fn words(self) -> [u64; 2] {
        [self.addresses, self.ports]
    }

    /// What [`words`](Self::words) made words of.
    #[inline]
    pub(super) fn from_words([addresses, ports]: [u64; 2]) -> Translation {
        Translation { addresses, ports }
    }

    /// Source and destination address, as headers have them.
    #[inline]
    pub(crate) fn addresses(self) -> u64 {
        self.addresses
    }

    /// Source and destination port, as headers have them.
    #[inline]
    pub(crate) fn ports(self) -> u32 {
        (self.ports >> 32) as u32
    }

    /// The source address as a key has it.
    #[inline]
    pub(crate) fn source(self) -> u64 {
        address_word((self.addresses >> 32) as u32)
    }

    /// The destination address as a key has it.
    #[inline]
    pub(crate) fn destination(self) -> u64 {
        address_word(self.addresses as u32)
    }

    /// What the addresses add to a sum.
    #[inline]
    pub(crate) fn header_difference(self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// What addresses and ports add to a sum.
    #[inline]
    pub(crate) fn upper_difference(self) -> u16 {
        self.ports as u16
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::super::words::address_words;
    use super::super::{FlowKey, Ingress, Tuple};
    use super::*;
    use crate::wire::checksum::{fold, pseudo_header};

    fn tuples() -> impl Strategy<Value = Tuple> {
        let address = || any::<Ipv4Addr>().prop_map(IpAddr::V4);
        (address(), address(), any::<(u16, u16)>()).prop_map(
            |(source, destination, (source_port, destination_port))| Tuple {
                source,
                destination,
                protocol: 6,
                source_port,
                destination_port,
            },
        )
    }

    fn words(tuple: Tuple) -> KeyWords {
        FlowKey { network: 0, ingress: Ingress::Gateway, tuple }.words()
    }

    /// What is summed up of a packet: its addresses, and these with its ports.
    fn sums(it: Tuple) -> [u64; 2] {
        let addresses = pseudo_header(it.source, it.destination, 0, 0);
        [addresses, addresses + u64::from(it.source_port) + u64::from(it.destination_port)]
    }

    proptest! {
        #[test]
        fn a_packet_leaves_as_an_answer_of_the_other_key(old in tuples(), other in tuples()) {
            let (known, new) = (Translation::of(&words(old), &words(other)), other.reversed());
            prop_assert_eq!([0, known.source()], address_words(new.source));
            prop_assert_eq!([0, known.destination()], address_words(new.destination));
            let ports = u32::from(new.source_port) << 16 | u32::from(new.destination_port);
            prop_assert_eq!(known.ports(), ports);
            let differences = [known.header_difference(), known.upper_difference()];
            for ((difference, old), new) in differences.into_iter().zip(sums(old)).zip(sums(new)) {
                prop_assert_eq!(fold(u64::from(difference) + old) % 0xffff, fold(new) % 0xffff);
            }
        }
    }
}
