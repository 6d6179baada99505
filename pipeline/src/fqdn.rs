//! Addresses that DNS answers have told Pods, for rules about names.
//!
//! Rules name groups, groups names; an answer that passes here to a Pod puts the addresses that it
//! tells into the groups of the name that was asked for, before the Pod has it, and for as long as
//! the answer holds. What one Pod is told counts for that Pod only: no Pod can open or close a way
//! for another by asking a server of its own.

use std::fmt;
use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::address::PortId;
use crate::limits::FQDN_LIFETIME_MIN_S;
use crate::packet::Packet;
use crate::run::Context;
use crate::state::GroupId;
use crate::table::Expiring;
use crate::wire::dns::{self, Response};
use crate::wire::ipv6::Fragment;
use crate::wire::{tcp, u16_at, udp};

/// Groups that one address can be in by its names, for one Pod.
pub(crate) const GROUPS: usize = 8;

/// Which Pod, as of which generation of its port, was told which address.
type Key = [u64; 3];

/// What Pods were told.
pub struct FqdnTable {
    /// Each group with the second at which it ends.
    addresses: Expiring<3, GROUPS>,
}

impl FqdnTable {
    /// An empty table for at least so many addresses; the seed keys its hash.
    pub fn new(capacity: usize, seed: u64) -> FqdnTable {
        FqdnTable { addresses: Expiring::new(capacity, seed) }
    }

    /// The groups that an address is in for a Pod, in order.
    pub(crate) fn groups(
        &self,
        (port, generation): (PortId, u32),
        address: IpAddr,
        now_ms: u64,
    ) -> ArrayVec<GroupId, GROUPS> {
        let found = self.addresses.get(&key(port, generation, address), now_ms);
        let words = found.unwrap_or_default().into_iter();
        let living = words.filter(|word| ends_s(*word) > now_ms / 1000);
        // What is empty ends at 0.
        let mut groups: ArrayVec<GroupId, GROUPS> = living.map(group).collect();
        groups.sort_unstable();
        groups
    }

    /// Puts an address into a group for a Pod.
    fn learn(&self, key: &Key, id: GroupId, ttl_s: u32, now_ms: u64) {
        let now_s = now_ms / 1000;
        // A day is the longest that any answer is believed.
        let end_s = now_s + u64::from(ttl_s.clamp(FQDN_LIFETIME_MIN_S, 86_400));
        let mut words = self.addresses.get(key, now_ms).unwrap_or_default();
        let own = words.iter().position(|word| *word != 0 && group(*word) == id);
        let place = own.or_else(|| {
            let first = words.iter().enumerate().min_by_key(|(_, word)| ends_s(**word));
            first.map(|(place, _)| place)
        });
        let Some(word) = place.and_then(|place| words.get_mut(place)) else { return };
        let end_s = if own.is_some() { end_s.max(ends_s(*word)) } else { end_s };
        *word = end_s << 32 | u64::from(id.0);
        let last = words.iter().map(|word| ends_s(*word)).max().unwrap_or_default();
        self.addresses.put(key, &words, last * 1000, now_ms);
    }
}

impl fmt::Debug for FqdnTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FqdnTable").finish_non_exhaustive()
    }
}

fn key(port: PortId, generation: u32, address: IpAddr) -> Key {
    let (bits, v4) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 1),
        IpAddr::V6(address) => (address.to_bits(), 0),
    };
    let port = (port.index() as u64) << 33 | u64::from(generation) << 1 | v4;
    [(bits >> 64) as u64, bits as u64, port]
}

fn group(word: u64) -> GroupId {
    GroupId(word as u32)
}

fn ends_s(word: u64) -> u64 {
    word >> 32
}

/// Learns from an answer on its way to a Pod. Whoever calls it knows that the Pod has asked.
pub(crate) fn learn(packet: &Packet<'_>, context: &Context<'_>) {
    let policies = context.state.policies();
    if context.dry || !policies.know_names() {
        return;
    }
    let Some(port) = packet.facts.egress.and_then(|port| context.state.port(port)) else { return };
    let Some(response) = message(packet).and_then(Response::parse) else { return };
    for group in policies.groups_for(&response.name) {
        for (address, ttl_s) in &response.addresses {
            let key = key(port.id, port.generation, *address);
            context.learned.fqdns.learn(&key, group, *ttl_s, context.now_ms);
        }
    }
}

/// The DNS message in a packet from a server: the whole datagram, or a TCP segment that begins with
/// a message and holds all of it.
fn message<'a>(packet: &'a Packet<'_>) -> Option<&'a [u8]> {
    let ip = packet.facts.ip.filter(|ip| ip.fragment == Fragment::Whole)?;
    packet.facts.tuple.filter(|tuple| tuple.source_port == dns::PORT)?;
    let upper = packet.payload().get(ip.upper..ip.len)?;
    match ip.protocol {
        udp::PROTOCOL => upper.get(udp::LEN..),
        tcp::PROTOCOL => {
            let header = usize::from(*upper.get(12)? >> 4) * 4;
            let stream = upper.get(header..)?;
            stream.get(2..2 + usize::from(u16_at(stream, 0)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::connection::Tuple;
    use crate::packet::Checksum;
    use crate::state::{
        Action, Change, Group, Kind, Object, ObjectId, Rule, RuleDirection, RuleTable,
    };
    use crate::testbed::{self, HEADROOM, Node, ip, tcp, udp};
    use crate::verdict::DropReason;
    use crate::wire::{ethernet, ipv4, ipv6};

    /// A node whose Pods a and b may speak to "*.example.com", and isolated otherwise.
    fn node() -> Node {
        let mut node = Node::with_pods(["a", "b"]);
        let rule = |name: &str, table, action, peers: &[&str]| {
            Change::Upsert(Object::Rule(Rule {
                name: name.to_owned(),
                policy: "AntreaClusterNetworkPolicy:names".to_owned(),
                rule_name: String::new(),
                direction: RuleDirection::Egress,
                table,
                rank: 0,
                action,
                applied_to_groups: vec!["all".to_owned()],
                applied_to_services: Vec::new(),
                peer_groups: peers.iter().map(ToString::to_string).collect(),
                peer_services: Vec::new(),
                traffic: Vec::new(),
                log: false,
                log_label: String::new(),
                priority: String::new(),
            }))
        };
        let group = |name: &str, members: &[&str], fqdns: &[&str]| {
            let name = name.to_owned();
            let members = members.iter().map(|member| testbed::net(member)).collect();
            let fqdns = fqdns.iter().map(ToString::to_string).collect();
            Change::Upsert(Object::Group(Group { name, members, fqdns }))
        };
        node.apply(&[
            group("all", &["10.10.1.0/24", "fd00:10:1::/64"], &[]),
            group("examples", &[], &["*.Example.com"]),
            rule("allow", RuleTable::AntreaPolicy, Action::Allow, &["examples"]),
            rule("isolate", RuleTable::Default, Action::Isolate, &[]),
        ]);
        node
    }

    /// The answer that "www.example.com" has this address.
    fn answer(name: &str, address: IpAddr, ttl: u32) -> Vec<u8> {
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        let (kind, data) = match address {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        message.extend([0, 0, kind, 0, 1, 0xc0, 12, 0, kind, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, data.len() as u8]);
        message.extend(data);
        message
    }

    /// Lets an answer pass to a Pod that asked.
    fn deliver(node: &mut Node, pod: &str, message: &[u8], over_tcp: bool, dry: bool) {
        let mut payload = message.to_vec();
        let (probe, upper) = if over_tcp {
            payload.splice(0..0, (message.len() as u16).to_be_bytes());
            (tcp(), tcp::LEN)
        } else {
            (udp(), udp::LEN)
        };
        let probe = probe.from("gateway").source("outside").to(pod);
        let mut frame = node.frame(&probe.payload_bytes(payload.len()));
        let at = frame.len() - payload.len();
        frame[at..].copy_from_slice(&payload);
        assert!(at == ethernet::LEN + ipv4::LEN + upper || at == ethernet::LEN + ipv6::LEN + upper);
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(frame);
        let (end, gateway) = (buffer.len(), node.state.port_by_name("gateway").unwrap());
        let mut packet =
            Packet::new(&mut buffer, HEADROOM, end, gateway, Checksum::Complete).unwrap();
        packet.parse_ip().unwrap();
        let ip = packet.facts.ip.unwrap();
        let mut tuple = Tuple::of(&ip, packet.payload()).unwrap();
        tuple.source_port = dns::PORT;
        packet.facts.tuple = Some(tuple);
        packet.facts.egress = node.state.port_by_name(pod);
        learn(&packet, &Context { dry, ..node.context() });
    }

    #[track_caller]
    fn passes(node: &mut Node, pod: &str, address: &str) -> bool {
        let v6 = address.contains(':');
        match node.send(tcp().from(pod).in_v6(v6).to(address)) {
            testbed::Fate::Left(..) => true,
            testbed::Fate::Dropped(reason) => {
                assert_eq!(reason, DropReason::EgressIsolation);
                false
            }
        }
    }

    #[test]
    fn a_pod_reaches_what_it_was_told_for_as_long_as_the_answer_holds() {
        for over_tcp in [false, true] {
            let mut node = node();
            assert!(!passes(&mut node, "a", "203.0.113.9"));
            let told = answer("WWW.example.com", ip("203.0.113.9"), 300);
            deliver(&mut node, "a", &told, over_tcp, true);
            assert!(!passes(&mut node, "a", "203.0.113.9"), "a described answer teaches nothing");
            deliver(&mut node, "a", &told, over_tcp, false);
            deliver(&mut node, "a", &answer("b.example.com", ip("2001::9"), 0), over_tcp, false);
            assert!(passes(&mut node, "a", "203.0.113.9"));
            assert!(passes(&mut node, "a", "2001::9"));
            assert!(!passes(&mut node, "a", "203.0.113.10"));
            assert!(!passes(&mut node, "b", "203.0.113.9"), "b was told nothing");
            node.now_ms += u64::from(FQDN_LIFETIME_MIN_S) * 1000;
            assert!(!passes(&mut node, "a", "2001::9"));
            assert!(passes(&mut node, "a", "203.0.113.9"));
            node.now_ms += 300_000;
            assert!(!passes(&mut node, "a", "203.0.113.9"));
        }
    }

    #[test]
    fn a_name_that_no_group_is_for_teaches_nothing() {
        let mut node = node();
        let told = answer("www.example.org", ip("203.0.113.9"), 300);
        deliver(&mut node, "a", &told, false, false);
        assert!(!passes(&mut node, "a", "203.0.113.9"));
        let group = ObjectId { kind: Kind::Group, name: "examples".to_owned() };
        deliver(&mut node, "a", &answer("a.example.com", ip("203.0.113.9"), 300), false, false);
        assert!(passes(&mut node, "a", "203.0.113.9"));
        node.apply(&[Change::Delete(group)]);
        assert!(!passes(&mut node, "a", "203.0.113.9"), "its group is gone");
    }

    #[test]
    fn an_address_keeps_the_groups_that_hold_longest() {
        let table = FqdnTable::new(64, 1);
        let (port, address) = (PortId::new(3).unwrap(), ip("203.0.113.9"));
        let key = key(port, 1, address);
        for group in 0..GROUPS as u32 + 2 {
            table.learn(&key, GroupId(group), 100 + group, 5000);
        }
        let groups = table.groups((port, 1), address, 5000);
        assert_eq!(groups.iter().map(|it| it.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(table.groups((port, 2), address, 5000).is_empty(), "another Pod has the port");
        assert_eq!(table.groups((port, 1), address, 5000 + 107_000).len(), 2);
    }
}
