//! The first of many rules that says something about a packet's protocol and ports.
//!
//! A short list is walked in order. In a long one the rule that comes first is known beforehand for
//! every destination port, so ten thousand rules that differ by it cost a binary search. Rules that
//! also ask for a source port, an ICMP type or a protocol without ports are walked even there.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use crate::state::Traffic;
use crate::wire::{icmp, sctp, tcp, udp};

/// Rules that are rather walked than searched: they fit four cache lines.
const WALKED_MAX: usize = 4;

/// What rules ask of a packet beside its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// From which port; 0 where there are none.
    pub source_port: u16,
    /// To which port; 0 where there are none.
    pub destination_port: u16,
    /// ICMP type and code, where there are any.
    pub icmp: Option<(u8, u8)>,
}

impl Traffic {
    /// Whether it means the packet.
    pub fn matches(&self, flow: &Flow) -> bool {
        let same = self.protocol == flow.protocol
            || self.protocol == icmp::PROTOCOL_V4 && flow.protocol == icmp::PROTOCOL_V6;
        same && self.ports.is_none_or(|range| range.contains(flow.destination_port))
            && self.source_ports.is_none_or(|range| range.contains(flow.source_port))
            && self.icmp_type.is_none_or(|kind| flow.icmp.is_some_and(|(it, _)| it == kind))
            && self.icmp_code.is_none_or(|code| flow.icmp.is_some_and(|(_, it)| it == code))
    }

    /// Whether the destination port alone decides, if the protocol is right.
    fn is_plain(&self) -> bool {
        PORTED.contains(&self.protocol) && self.source_ports.is_none()
    }
}

/// Protocols that have ports.
const PORTED: [u8; 3] = [tcp::PROTOCOL, udp::PROTOCOL, sctp::PROTOCOL];

/// Rules in the order in which they decide, which is that of `E`.
#[derive(Clone, Debug)]
pub struct Ranked<E> {
    /// `None` means all traffic.
    rules: Box<[(Option<Traffic>, E)]>,
    index: Option<Box<Index>>,
}

/// Until the next start: the position of the first rule.
type Intervals = Box<[(u16, Option<u32>)]>;

/// Positions of rules, for a list too long to be walked.
#[derive(Clone, Debug)]
struct Index {
    /// The first that means all traffic.
    all: Option<u32>,
    /// For each of [`PORTED`]: from which port on which plain rule is the first.
    ports: [Intervals; PORTED.len()],
    /// All others, in order.
    rest: Box<[u32]>,
}

impl<E: Ord> Ranked<E> {
    /// The rules, in any order; a rule may be there several times, with different traffic.
    pub fn new(mut rules: Vec<(Option<Traffic>, E)>) -> Ranked<E> {
        rules.sort_by(|(_, one), (_, other)| one.cmp(other));
        let rules = rules.into_boxed_slice();
        let index = (rules.len() > WALKED_MAX).then(|| Box::new(Index::of(&rules)));
        Ranked { rules, index }
    }

    /// The first that means the packet.
    pub fn first(&self, flow: &Flow) -> Option<&E> {
        let means = |traffic: &Option<Traffic>| traffic.is_none_or(|it| it.matches(flow));
        let Some(index) = &self.index else {
            return self.rules.iter().find(|(traffic, _)| means(traffic)).map(|(_, rule)| rule);
        };
        let best = index.first(flow);
        let earlier =
            index.rest.iter().take_while(|position| best.is_none_or(|it| **position < it));
        let mut rest = earlier.filter_map(|position| self.rules.get(*position as usize));
        let found = rest.find(|(traffic, _)| means(traffic));
        let found = found.or_else(|| self.rules.get(best? as usize));
        found.map(|(_, rule)| rule)
    }

    /// All of them, in order.
    pub fn rules(&self) -> &[(Option<Traffic>, E)] {
        &self.rules
    }
}

impl Index {
    fn of<E>(rules: &[(Option<Traffic>, E)]) -> Index {
        // There are fewer rules than a 32-bit number counts.
        let numbered = || (0u32..).zip(rules.iter().map(|(traffic, _)| *traffic));
        let all = numbered().find(|(_, traffic)| traffic.is_none()).map(|(position, _)| position);
        let plain = |protocol| {
            numbered().filter_map(move |(position, traffic)| match traffic {
                None => Some((position, 0, u16::MAX)),
                Some(it) if it.protocol == protocol && it.is_plain() => {
                    let (first, last) = it.ports.map_or((0, u16::MAX), |it| (it.first, it.last));
                    Some((position, first, last))
                }
                Some(_) => None,
            })
        };
        let rest = numbered().filter(|(_, traffic)| traffic.is_some_and(|it| !it.is_plain()));
        Index {
            all,
            ports: PORTED.map(|protocol| intervals(plain(protocol).collect())),
            rest: rest.map(|(position, _)| position).collect(),
        }
    }

    fn first(&self, flow: &Flow) -> Option<u32> {
        let Some(which) = PORTED.iter().position(|protocol| *protocol == flow.protocol) else {
            return self.all;
        };
        let intervals = self.ports.get(which)?;
        let behind = intervals.partition_point(|(start, _)| *start <= flow.destination_port);
        intervals.get(behind.checked_sub(1)?)?.1
    }
}

/// From which port on which of the rules (position, first and last port) is the first.
fn intervals(mut rules: Vec<(u32, u16, u16)>) -> Intervals {
    rules.sort_unstable_by_key(|(_, first, _)| *first);
    let mut starts: BTreeSet<u16> = rules.iter().map(|(_, first, _)| *first).collect();
    starts.extend(rules.iter().filter_map(|(_, _, last)| last.checked_add(1)));
    let mut rules = rules.into_iter().peekable();
    let mut open = BinaryHeap::new();
    let mut intervals: Vec<(u16, Option<u32>)> = Vec::new();
    for start in starts {
        while let Some((position, _, last)) = rules.next_if(|(_, first, _)| *first <= start) {
            open.push(Reverse((position, last)));
        }
        while open.peek().is_some_and(|Reverse((_, last))| *last < start) {
            open.pop();
        }
        let first = open.peek().map(|Reverse((position, _))| *position);
        if intervals.last().is_none_or(|(_, known)| *known != first) {
            intervals.push((start, first));
        }
    }
    intervals.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::PortRange;

    fn range() -> impl Strategy<Value = PortRange> {
        let edge = prop::sample::select(vec![0, 1, 53, 80, 81, 443, 1000, 65534, 65535]);
        (edge.clone(), edge).prop_map(|(one, other): (u16, u16)| PortRange {
            first: one.min(other),
            last: one.max(other),
        })
    }

    fn traffic() -> impl Strategy<Value = Traffic> {
        let protocol = prop::sample::select(vec![6, 6, 6, 17, 132, 1, 58, 47]);
        let byte = || prop::option::weighted(0.2, 0u8..3);
        (protocol, prop::option::of(range()), prop::option::weighted(0.2, range()), byte(), byte())
            .prop_map(|(protocol, ports, source_ports, icmp_type, icmp_code)| {
                let ported = PORTED.contains(&protocol);
                Traffic {
                    protocol,
                    ports: ports.filter(|_| ported),
                    source_ports: source_ports.filter(|_| ported),
                    icmp_type: icmp_type.filter(|_| !ported),
                    icmp_code: icmp_code.filter(|_| !ported),
                }
            })
    }

    fn flow() -> impl Strategy<Value = Flow> {
        let port = || prop::sample::select(vec![0, 1, 52, 53, 80, 81, 82, 443, 999, 65534, 65535]);
        let protocol = prop::sample::select(vec![6, 17, 132, 1, 58, 47]);
        (protocol, port(), port(), 0u8..4, 0u8..4).prop_map(
            |(protocol, source_port, destination_port, kind, code)| Flow {
                protocol,
                source_port,
                destination_port,
                icmp: matches!(protocol, 1 | 58).then_some((kind, code)),
            },
        )
    }

    proptest! {
        #[test]
        fn the_first_rule_that_means_a_packet_is_found_however_long_the_list(
            rules in prop::collection::vec(
                (prop::option::weighted(0.98, traffic()), 0u8..99),
                0..60,
            ),
            flows in prop::collection::vec(flow(), 40),
        ) {
            let ranked = Ranked::new(rules.clone());
            for flow in flows {
                let meant = rules.iter().filter(|(it, _)| it.is_none_or(|it| it.matches(&flow)));
                prop_assert_eq!(ranked.first(&flow), meant.map(|(_, rank)| rank).min());
            }
        }
    }
}
