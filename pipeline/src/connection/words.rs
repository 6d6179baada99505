//! Keys and decisions as words: what a record stores, and a hash is taken of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Decision, FlowKey, Ingress, RuleId, ServiceId, Tuple};
use crate::address::PortId;
use crate::packet::PacketSource;
use crate::state::PolicyEpoch;

/// A key: 48 bytes. Addresses are two words each, IPv4 as IPv4-mapped; the fifth word holds ports,
/// network, protocol, which addresses are IPv6, and the kind of ingress; the sixth the generation
/// and index of a Pod's port.
pub(crate) type KeyWords = [u64; 6];

const SOURCE_V6: u64 = 1;
const DESTINATION_V6: u64 = 2;
const KIND_SHIFT: u32 = 2;
const KIND_POD: u64 = 0;
const KIND_GATEWAY: u64 = 1;

const MAPPED: u64 = 0xffff << 32;

/// Whether packets of a connection need the key of the other direction: those that leave with other
/// addresses or ports than they came with, unless what they leave with is a
/// [`Translation`](super::Translation).
pub(super) fn needs_both(original: &KeyWords, reply: &KeyWords) -> bool {
    if is_v4(original) {
        return false;
    }
    let [from, from_low, to, to_low, ports, _] = original;
    let [back, back_low, at, at_low, reply_ports, _] = reply;
    let ports = ((ports >> 32) as u32).rotate_left(16);
    [back, back_low, at, at_low] != [to, to_low, from, from_low]
        || ports != (reply_ports >> 32) as u32
}

/// Whether both addresses of a key are IPv4: their high halves are zero then.
#[inline]
pub(crate) fn is_v4([.., fifth, _]: &KeyWords) -> bool {
    fifth & (SOURCE_V6 | DESTINATION_V6) == 0
}

/// An IPv4 address in a key.
#[inline]
pub(super) fn address_word(address: u32) -> u64 {
    MAPPED | u64::from(address)
}

/// The protocol in the fifth word of a key.
pub(super) fn protocol(fifth: u64) -> u8 {
    (fifth >> 8) as u8
}

/// High and low half of an address.
pub(crate) fn address_words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, address_word(address.to_bits())],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

/// The address of these halves.
pub(crate) fn address(high: u64, low: u64, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(low as u32))
    }
}

/// What of a key's last two words says by what a packet came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct IngressWords {
    port: u64,
    kind: u8,
}

impl Ingress {
    pub(crate) fn words(self) -> IngressWords {
        let (kind, port): (u64, u64) = match self {
            Ingress::Pod(port, generation) => {
                (KIND_POD, u64::from(generation) << 32 | port.index() as u64)
            }
            Ingress::Gateway => (KIND_GATEWAY, 0),
            Ingress::Tunnel => (2, 0),
        };
        IngressWords { kind: (kind << KIND_SHIFT) as u8, port }
    }
}

impl IngressWords {
    /// The key of a packet between these IPv4 addresses; the source port in the upper half of
    /// `ports`, as headers have them.
    #[inline]
    pub(crate) fn key_v4(self, [from, to]: [u32; 2], ports: u32, protocol: u8) -> KeyWords {
        let fifth = u64::from(ports) << 32 | u64::from(protocol) << 8 | u64::from(self.kind);
        [0, address_word(from), 0, address_word(to), fifth, self.port]
    }

    /// The key of a packet between these IPv6 addresses.
    #[inline]
    pub(crate) fn key_v6(self, [from, to]: [u128; 2], ports: u32, protocol: u8) -> KeyWords {
        let mut fifth = u64::from(ports) << 32 | u64::from(protocol) << 8 | u64::from(self.kind);
        fifth |= SOURCE_V6 | DESTINATION_V6;
        let halves = |address: u128| [(address >> 64) as u64, address as u64];
        let ([a, b], [c, d]) = (halves(from), halves(to));
        [a, b, c, d, fifth, self.port]
    }
}

impl FlowKey {
    pub(crate) fn words(&self) -> KeyWords {
        let Tuple { source, destination, protocol, source_port, destination_port } = self.tuple;
        let IngressWords { kind, port } = self.ingress.words();
        let mut fifth = u64::from(source_port) << 48 | u64::from(destination_port) << 32;
        fifth |= u64::from(self.network) << 16 | u64::from(protocol) << 8 | u64::from(kind);
        fifth |= if source.is_ipv6() { SOURCE_V6 } else { 0 };
        fifth |= if destination.is_ipv6() { DESTINATION_V6 } else { 0 };
        let ([a, b], [c, d]) = (address_words(source), address_words(destination));
        [a, b, c, d, fifth, port]
    }

    /// What [`words`](Self::words) made words of.
    pub(crate) fn from_words(words: &KeyWords) -> Option<FlowKey> {
        let [a, b, c, d, fifth, port] = *words;
        let ingress = match (fifth >> KIND_SHIFT) & 3 {
            KIND_POD => Ingress::Pod(PortId::new(port as u32 as usize)?, (port >> 32) as u32),
            KIND_GATEWAY => Ingress::Gateway,
            _ => Ingress::Tunnel,
        };
        let tuple = Tuple {
            source: address(a, b, fifth & SOURCE_V6 != 0),
            destination: address(c, d, fifth & DESTINATION_V6 != 0),
            protocol: protocol(fifth),
            source_port: (fifth >> 48) as u16,
            destination_port: (fifth >> 32) as u16,
        };
        Some(FlowKey { network: (fifth >> 16) as u16, ingress, tuple })
    }
}

const SNAT: u64 = 1 << 2;
const HAIRPIN: u64 = 1 << 3;
const HAS_SERVICE: u64 = 1 << 4;
const FROM_NODE: u64 = 1 << 7;
const EPOCH_SHIFT: u32 = 8;
const _: () = assert!(EPOCH_SHIFT + PolicyEpoch::BITS == 32);

impl Decision {
    /// The rules, egress in the upper half, each one higher than its number, for 0 is none: a word
    /// for itself, so that it can be exchanged for another. And the Service in the upper half above
    /// the policy epoch above the marks.
    pub(super) fn words(&self) -> [u64; 2] {
        let mut marks = match self.source {
            PacketSource::Pod => 0,
            PacketSource::Gateway => 1,
            PacketSource::Tunnel => 2,
        };
        let flag = |set, flag| if set { flag } else { 0 };
        marks |= flag(self.from_node, FROM_NODE) | flag(self.snat, SNAT);
        marks |= flag(self.hairpin, HAIRPIN) | flag(self.service.is_some(), HAS_SERVICE);
        // The last number of the last slot counts as none, as if nothing had had to be decided.
        let rule = |rule: Option<RuleId>| rule.map_or(0, |RuleId(id)| id.wrapping_add(1).into());
        marks |= u64::from(self.policy_epoch.get()) << EPOCH_SHIFT;
        let service = self.service.map_or(0, |ServiceId(id)| u64::from(id));
        let (egress, ingress): (u64, u64) = (rule(self.egress_rule), rule(self.ingress_rule));
        [egress << 32 | ingress, service << 32 | marks]
    }

    /// What [`words`](Self::words) made words of.
    pub(super) fn from_words(words: [u64; 2]) -> Decision {
        let [rules, marks] = words;
        let has = |flag: u64| marks & flag != 0;
        let rule = |word: u32| word.checked_sub(1).map(RuleId);
        Decision {
            source: match marks & 3 {
                0 => PacketSource::Pod,
                1 => PacketSource::Gateway,
                _ => PacketSource::Tunnel,
            },
            service: has(HAS_SERVICE).then_some(ServiceId((marks >> 32) as u32)),
            from_node: has(FROM_NODE),
            snat: has(SNAT),
            hairpin: has(HAIRPIN),
            egress_rule: rule((rules >> 32) as u32),
            ingress_rule: rule(rules as u32),
            policy_epoch: PolicyEpoch::new(marks as u32 >> EPOCH_SHIFT),
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::PORTS_MAX;

    /// Any address, IPv4-mapped IPv6 ones among them.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
            any::<Ipv4Addr>().prop_map(|it| IpAddr::V6(it.to_ipv6_mapped())),
        ]
    }

    pub(in crate::connection) fn keys() -> impl Strategy<Value = FlowKey> {
        let ingress = prop_oneof![
            (0..PORTS_MAX, any::<u32>()).prop_filter_map("a port", |(port, generation)| {
                PortId::new(port).map(|port| Ingress::Pod(port, generation))
            }),
            Just(Ingress::Gateway),
            Just(Ingress::Tunnel),
        ];
        let ports = (any::<u16>(), any::<u16>());
        (any::<u16>(), ingress, addresses(), addresses(), any::<u8>(), ports).prop_map(
            |(network, ingress, source, destination, protocol, (source_port, destination_port))| {
                let tuple = Tuple { source, destination, protocol, source_port, destination_port };
                FlowKey { network, ingress, tuple }
            },
        )
    }

    pub(in crate::connection) fn decisions() -> impl Strategy<Value = Decision> {
        let source = prop::sample::select(vec![
            PacketSource::Pod,
            PacketSource::Gateway,
            PacketSource::Tunnel,
        ]);
        let rule = || prop::option::of(0..u32::MAX);
        let ids = (any::<Option<u32>>(), rule(), rule());
        (source, ids, any::<bool>(), any::<bool>(), any::<u32>()).prop_map(
            |(source, (service, egress_rule, ingress_rule), snat, hairpin, epoch)| Decision {
                source,
                from_node: snat != hairpin,
                service: service.map(ServiceId),
                snat,
                hairpin,
                egress_rule: egress_rule.map(RuleId),
                ingress_rule: ingress_rule.map(RuleId),
                policy_epoch: PolicyEpoch::new(epoch),
            },
        )
    }

    proptest! {
        #[test]
        fn what_becomes_words_comes_back_the_same(key in keys(), decision in decisions()) {
            prop_assert_eq!(FlowKey::from_words(&key.words()), Some(key));
            prop_assert_eq!(Decision::from_words(decision.words()), decision);
        }

        #[test]
        fn different_keys_are_different_words(one in keys(), other in keys()) {
            prop_assert_eq!(one == other, one.words() == other.words());
        }
    }
}
