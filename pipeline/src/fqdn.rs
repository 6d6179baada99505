//! Addresses that DNS answers have told Pods, for rules about names.
//!
//! Rules name groups, groups names; an answer that passes here to a Pod puts the addresses that it
//! tells into the groups of the name that was asked for, before the Pod has it, and for as long as
//! the answer holds. What one Pod is told counts for that Pod only, and only where rules for what
//! it sends are about the name: no Pod can open or close a way for another by asking a server of
//! its own, nor, in a full table, take more than its share.
//!
//! An answer is read by the worker that forwards it, so it waits for nothing. One that comes when
//! its Pod has used up what it may have read in a second is dropped: it may be asked for again.

mod table;

use arrayvec::ArrayVec;

use crate::address::PortId;
use crate::limits::{FQDN_ANSWERS_BURST, FQDN_ANSWERS_PER_S, PORTS_MAX};
use crate::packet::Packet;
use crate::run::Context;
use crate::state::GroupId;
use crate::verdict::DropReason;
use crate::wire::dns::{self, Answer};
use crate::wire::field::{Field, read};
use crate::wire::ipv6::Fragment;
use crate::wire::{tcp, u16_at, udp};

pub use table::FqdnTable;
pub(crate) use table::GROUPS;

/// How many more answers one worker reads for each Pod.
#[derive(Debug)]
pub struct AnswerBudget {
    /// Of each port, in thousandths of an answer, and when that was.
    left: Box<[(u64, u64)]>,
}

/// One answer: the rate is so many thousandths a millisecond.
const TOKEN: u64 = 1000;

impl AnswerBudget {
    /// A full one.
    pub fn new() -> AnswerBudget {
        AnswerBudget { left: vec![(FQDN_ANSWERS_BURST * TOKEN, 0); PORTS_MAX].into() }
    }

    fn take(&mut self, port: PortId, now_ms: u64) -> bool {
        let Some((left, filled_ms)) = self.left.get_mut(port.index()) else { return false };
        let earned = now_ms.saturating_sub(*filled_ms).saturating_mul(FQDN_ANSWERS_PER_S);
        *left = left.saturating_add(earned).min(FQDN_ANSWERS_BURST * TOKEN);
        *filled_ms = now_ms.max(*filled_ms);
        let taken = left.checked_sub(TOKEN);
        *left = taken.unwrap_or(*left);
        taken.is_some()
    }
}

impl Default for AnswerBudget {
    fn default() -> Self {
        AnswerBudget::new()
    }
}

/// Learns from an answer on its way to a Pod. Whoever calls it knows that the Pod has asked. An
/// answer that there is no budget for must not reach it.
pub(crate) fn learn(packet: &Packet<'_>, context: &mut Context<'_>) -> Result<(), DropReason> {
    let (policies, port) = (context.state.policies(), packet.facts.egress);
    if context.dry || !policies.know_names() {
        return Ok(());
    }
    let Some(port) = port.and_then(|port| context.state.port(port)) else { return Ok(()) };
    let endpoint = context.state.sender(port.id).map(|endpoint| endpoint.name.as_str());
    let Some(subject) = endpoint.and_then(|name| policies.asking_for_names(name)) else {
        return Ok(());
    };
    let Some(answer) = message(packet).and_then(Answer::parse) else { return Ok(()) };
    let groups: ArrayVec<GroupId, GROUPS> =
        policies.groups_for(&answer.name, subject).take(GROUPS).collect();
    if groups.is_empty() {
        return Ok(());
    }
    if !context.worker.answers.take(port.id, context.now_ms) {
        return Err(DropReason::NameAnswerBudget);
    }
    for (address, ttl_s) in answer.addresses().unwrap_or_default() {
        let key = table::key(port.id, port.generation, address);
        context.learned.fqdns.learn(&key, &groups, ttl_s, context.now_ms);
    }
    Ok(())
}

/// The DNS message in a packet from a server: the whole datagram, or a TCP segment that begins with
/// a message and holds all of it.
fn message<'a>(packet: &'a Packet<'_>) -> Option<&'a [u8]> {
    let ip = packet.facts.ip.filter(|ip| ip.fragment == Fragment::Whole)?;
    packet.facts.tuple.filter(|tuple| tuple.source_port == dns::PORT)?;
    read(Field::Name);
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
    use std::net::IpAddr;

    use super::*;
    use crate::connection::Tuple;
    use crate::limits::FQDN_LIFETIME_MIN_S;
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
        node.twin = None;
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
    fn deliver(
        node: &mut Node,
        pod: &str,
        message: &[u8],
        over_tcp: bool,
        dry: bool,
    ) -> Result<(), DropReason> {
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
        learn(&packet, &mut Context { dry, ..node.context() })
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
            testbed::Fate::Copied(..) => panic!("{address} is one's"),
        }
    }

    #[test]
    fn a_pod_reaches_what_it_was_told_for_as_long_as_the_answer_holds() {
        for over_tcp in [false, true] {
            let mut node = node();
            node.twin = None;
            assert!(!passes(&mut node, "a", "203.0.113.9"));
            let told = answer("WWW.example.com", ip("203.0.113.9"), 300);
            deliver(&mut node, "a", &told, over_tcp, true).unwrap();
            assert!(!passes(&mut node, "a", "203.0.113.9"), "a described answer teaches nothing");
            deliver(&mut node, "a", &told, over_tcp, false).unwrap();
            deliver(&mut node, "a", &answer("b.example.com", ip("2001::9"), 0), over_tcp, false)
                .unwrap();
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
        node.twin = None;
        let told = answer("www.example.org", ip("203.0.113.9"), 300);
        deliver(&mut node, "a", &told, false, false).unwrap();
        assert!(!passes(&mut node, "a", "203.0.113.9"));
        let group = ObjectId { kind: Kind::Group, name: "examples".to_owned() };
        deliver(&mut node, "a", &answer("a.example.com", ip("203.0.113.9"), 300), false, false)
            .unwrap();
        assert!(passes(&mut node, "a", "203.0.113.9"));
        node.apply(&[Change::Delete(group)]);
        assert!(!passes(&mut node, "a", "203.0.113.9"), "its group is gone");
    }

    #[test]
    fn a_pod_whose_rules_are_about_no_name_is_taught_nothing() {
        let mut node = node();
        let only_a = Group {
            name: "all".to_owned(),
            members: vec![testbed::net("10.10.1.2/32")],
            fqdns: Vec::new(),
        };
        node.apply(&[Change::Upsert(Object::Group(only_a))]);
        let told = answer("www.example.com", ip("203.0.113.9"), 300);
        for (pod, known) in [("b", 0), ("gateway", 0), ("a", 1)] {
            deliver(&mut node, pod, &told, false, false).unwrap();
            assert_eq!(node.learned.fqdns.len(node.now_ms), known, "{pod}");
        }
        let other = answer("www.example.org", ip("203.0.113.9"), 300);
        for _ in 0..2 * FQDN_ANSWERS_BURST {
            deliver(&mut node, "b", &told, false, false).unwrap();
            deliver(&mut node, "a", &other, false, false).unwrap();
        }
    }

    #[test]
    fn an_answer_beyond_a_pods_budget_is_dropped_and_its_neighbours_are_not() {
        let mut node = node();
        let told = answer("www.example.com", ip("203.0.113.9"), 300);
        let mut read = 0;
        for _ in 0..FQDN_ANSWERS_BURST + 100 {
            match deliver(&mut node, "a", &told, false, false) {
                Ok(()) => read += 1,
                Err(reason) => assert_eq!(reason, DropReason::NameAnswerBudget),
            }
        }
        assert_eq!(read, FQDN_ANSWERS_BURST);
        deliver(&mut node, "b", &told, false, false).unwrap();
        node.now_ms += 10;
        for _ in 0..10 * FQDN_ANSWERS_PER_S / 1000 {
            deliver(&mut node, "a", &told, false, false).unwrap();
        }
        deliver(&mut node, "a", &told, false, false).unwrap_err();
    }
}
