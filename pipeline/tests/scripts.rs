//! Packet scripts: stories of packets, each in one readable file under `tests/scripts/`.
//!
//! A line that is not indented says what happens; what follows from it stands below, indented: each
//! table with what matched and what it decided, the packet as it left, the counters that moved.
//! `BLESS=1 cargo test -p seine-pipeline --test scripts` writes what follows anew; the diff is for
//! a reader to judge.
//!
//! ```text
//! cluster [over-ipv6] pods a b        a new node with these Pods
//! send udp|tcp|ping|who-has [v6] from X to Y [source S] [source-mac N] [mac N] [ttl T] [bytes B]
//!      [port P] [source-port P] [fragmentable] [set OFFSET HEX] [resum]
//!                                     resum: sum the outer IPv4 header again
//! permit P [router] [RANGE [at N]]..  what P may send beyond its own; N may be `other-7`
//! permit P vlan FIRST[-LAST]..        VLANs that P is a trunk of
//! send .. [vlan N]                    tagged
//! mode vxlan|no-encap                 instead of Geneve
//! mode reevaluate|keep                what becomes of connections when rules change
//! send tcp syn|syn-ack|ack|fin|rst .. | sctp init|init-ack|data|abort .. | answer ..
//! send unreachable|too-big MTU ..     an error about the packet that left last
//!      [id IDENTIFIER] [fragment first|later IDENTIFICATION]
//! wait SECONDS                        the clock goes on
//! connections                         what connections there are
//! open port NAME                      again, as another Pod's
//! limits CONNECTIONS PER-PORT         a table of connections as small as that
//! lose next-hop                       the underlay no longer knows the peer's next hop
//! delete endpoint|node|port|group|rule|service NAME
//! group NAME ADDRESS...               an address, a range or the name of a Pod
//! members NAME +ADDRESS... -ADDRESS...
//! rule NAME egress|ingress antrea|kubernetes|default RANK allow|drop|reject|pass|isolate
//!      of GROUP... [peer GROUP...] [is TRAFFIC...] [log PRIORITY]
//!                                     @NAME in place of a group: a Service
//!                                     traffic: tcp, udp:53, tcp:80-90, icmp:8
//! service NAME tcp|udp|sctp PORT at ADDRESS... [external ADDRESS... [for RANGE...]] [node-port N]
//!      [affinity SECONDS] [internal-local] [external-local] to ENDPOINT:PORT...
//! wait SECONDS
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Write;
use std::path::Path;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use seine_pipeline::address::Vlan;
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::state::{
    AllowedAddress, Change, EncapMode, ExistingConnections, Kind, Object, ObjectId, Permit,
    TunnelType, VlanRange,
};
use seine_pipeline::testbed::{Fate, Node, Probe, innermost, ping, tcp, udp, who_has};

mod conversation;
mod policy;
mod service;

#[test]
fn every_script_comes_out_as_it_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 12, "scripts are missing: {paths:?}");
    let mut differing = Vec::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let played = play(&script);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &played).unwrap();
        } else if script != played {
            for (written, played) in script.lines().zip(played.lines()) {
                if written != played {
                    println!("{}:\n- {written}\n+ {played}", path.display());
                    break;
                }
            }
            differing.push(path);
        }
    }
    assert!(differing.is_empty(), "BLESS=1 rewrites {differing:?}");
}

/// Plays a script; gives it back with what really follows from each line.
fn play(script: &str) -> String {
    let mut node = Node::with_pods([]);
    let (mut played, mut last) = (String::new(), Vec::new());
    for line in script.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(played, "{line}").unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] | ["#", ..] => {}
            ["cluster", "over-ipv6", "pods", pods @ ..] => {
                node = Node::new(pods, "2001:db8:100::1", "2001:db8:100::2");
            }
            ["cluster", "pods", pods @ ..] => {
                node = Node::new(pods, "192.168.0.1", "192.168.0.2");
            }
            ["mode", mode] => set_mode(&mut node, mode),
            ["permit", pod, words @ ..] => permit(&mut node, pod, words),
            ["lose", "next-hop"] => node.adjacencies.set(AdjacencyId::new(0).unwrap(), None),
            ["delete", kind, name] => {
                let kind = match *kind {
                    "endpoint" => Kind::Endpoint,
                    "node" => Kind::Node,
                    "port" => Kind::Port,
                    "group" => Kind::Group,
                    "rule" => Kind::Rule,
                    "service" => Kind::Service,
                    other => panic!("{other}: no such kind"),
                };
                node.apply(&[Change::Delete(ObjectId { kind, name: (*name).to_owned() })]);
            }
            ["group" | "members" | "rule", ..] => node.apply(&[policy::change(&node, &words)]),
            ["service", words @ ..] => node.apply(&[service::change(&node, words)]),
            ["send", words @ ..] => played.push_str(&send(&mut node, words, &mut last)),
            ["wait", seconds] => {
                node.wait_ms(seconds.parse::<u64>().unwrap() * 1000);
                indent(&mut played, node.connection_changes());
            }
            ["connections"] => indent(&mut played, node.connections()),
            ["open", "port", name] => open_again(&mut node, name),
            ["limits", connections, per_port] => {
                node.limit(connections.parse().unwrap(), per_port.parse().unwrap());
            }
            _ => panic!("not understood: {line}"),
        }
    }
    played
}

fn permit(node: &mut Node, pod: &str, mut words: &[&str]) {
    let id = ObjectId { kind: Kind::Endpoint, name: format!("default/{pod}/eth0") };
    let Some(Object::Endpoint(mut endpoint)) = node.state.object(&id) else { panic!("no {pod}") };
    endpoint.permit = Permit::default();
    loop {
        words = match words {
            [] | ["nothing"] => break,
            ["router", rest @ ..] => {
                endpoint.permit.trusted_router = true;
                rest
            }
            ["vlan", vlans @ ..] => {
                endpoint.permit.vlans = vlans.iter().map(|range| vlan_range(range)).collect();
                &[]
            }
            [range, rest @ ..] => {
                let (mac, rest) = match rest {
                    ["at", mac, rest @ ..] => (Some(node.mac(mac)), rest),
                    rest => (None, rest),
                };
                let range = range.parse().unwrap();
                endpoint.permit.allowed_addresses.push(AllowedAddress { range, mac });
                rest
            }
        };
    }
    node.apply(&[Change::Upsert(Object::Endpoint(endpoint))]);
}

fn vlan_range(text: &str) -> VlanRange {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let [first, last] = [first, last].map(|it| Vlan::new(it.parse().unwrap()).unwrap());
    VlanRange { first, last }
}

/// The same frame behind a tag.
fn tag(frame: &mut Vec<u8>, control: u16) {
    let [high, low] = control.to_be_bytes();
    frame.splice(12..12, [0x81, 0, high, low]);
}

fn set_mode(node: &mut Node, mode: &str) {
    let id = ObjectId { kind: Kind::Node, name: "node1".to_owned() };
    let Some(Object::Node(mut object)) = node.state.object(&id) else { panic!("no node") };
    match mode {
        "vxlan" => {
            (object.encap_mode, object.tunnel_type) = (EncapMode::Encap, TunnelType::Vxlan);
        }
        "no-encap" => object.encap_mode = EncapMode::NoEncap,
        "keep" => object.existing_connections = ExistingConnections::Keep,
        "reevaluate" => object.existing_connections = ExistingConnections::Reevaluate,
        other => panic!("{other}: no such mode"),
    }
    node.apply(&[Change::Upsert(Object::Node(object))]);
}

fn indent(story: &mut String, lines: Vec<String>) {
    for line in lines {
        writeln!(story, "    {line}").unwrap();
    }
}

/// Closes a port and opens it again, for a Pod that has the same address as the last.
fn open_again(node: &mut Node, name: &str) {
    let id = ObjectId { kind: Kind::Port, name: name.to_owned() };
    let Some(Object::Port(mut port)) = node.state.object(&id) else { panic!("no port {name}") };
    port.generation += 1;
    node.apply(&[Change::Delete(id)]);
    node.apply(&[Change::Upsert(Object::Port(port))]);
}

fn send(node: &mut Node, words: &[&str], last: &mut Vec<u8>) -> String {
    let fate = node.send(probe(words, last));
    let mut story = String::new();
    for step in &node.trace.steps {
        let verdict = match step.verdict {
            seine_pipeline::verdict::Verdict::Goto(table) => format!("goto {table}"),
            seine_pipeline::verdict::Verdict::Drop(reason) => format!("drop {}", reason.name()),
            seine_pipeline::verdict::Verdict::Output(_) => "output".to_owned(),
            seine_pipeline::verdict::Verdict::Replicate(vlan) => format!("copies in VLAN {vlan}"),
            other => format!("{other:?}").to_lowercase(),
        };
        let table = step.table.name();
        let matched = if step.matched.is_empty() { "no match" } else { &step.matched };
        writeln!(story, "    {table:<23} {matched}: {verdict}").unwrap();
    }
    if let Fate::Left(port, frame) = &fate {
        writeln!(story, "    leaves by {port}").unwrap();
        describe(frame, &mut story);
        if !words.starts_with(&["who-has"]) {
            *last = innermost(frame).to_vec();
        }
    }
    if let Fate::Copied(ports, frame) = &fate {
        writeln!(story, "    copies leave by {}", ports.join(", ")).unwrap();
        describe(frame, &mut story);
    }
    for line in policy::audit(node) {
        writeln!(story, "    audit: {line}").unwrap();
    }
    indent(&mut story, node.changes());
    indent(&mut story, node.connection_changes());
    story
}

fn probe(words: &[&str], last: &[u8]) -> Probe {
    let simple = || {
        let probe = match words[0] {
            "udp" => udp(),
            "tcp" => tcp(),
            "ping" => ping(),
            "who-has" => who_has(),
            other => panic!("{other}: no such packet"),
        };
        (probe, &words[1..])
    };
    let (mut probe, mut rest) = conversation::probe(words, last).unwrap_or_else(simple);
    loop {
        let before = rest.len();
        (probe, rest) = conversation::word(probe, rest);
        if rest.len() < before {
            continue;
        }
        (probe, rest) = match rest {
            ["v6", rest @ ..] => (probe.v6(), rest),
            ["fragmentable", rest @ ..] => (probe.edit(|frame| frame[20] = 0), rest),
            ["resum", rest @ ..] => (probe.edit(|frame| resum(frame)), rest),
            ["set", offset, hex, rest @ ..] => {
                let offset: usize = offset.parse().unwrap();
                let value = u8::from_str_radix(hex, 16).unwrap();
                (probe.edit(move |frame| frame[offset] = value), rest)
            }
            ["from", name, rest @ ..] => (probe.from(name), rest),
            ["to", name, rest @ ..] => (probe.to(name), rest),
            ["source", name, rest @ ..] => (probe.source(name), rest),
            ["source-mac", name, rest @ ..] => (probe.source_mac(name), rest),
            ["vlan", number, rest @ ..] => {
                let control: u16 = number.parse().unwrap();
                (probe.edit(move |frame| tag(frame, control)), rest)
            }
            ["mac", name, rest @ ..] => (probe.destination_mac(name), rest),
            ["port", number, rest @ ..] => (probe.port(number.parse().unwrap()), rest),
            ["source-port", number, rest @ ..] => {
                (probe.source_port(number.parse().unwrap()), rest)
            }
            ["ttl", count, rest @ ..] => (probe.ttl(count.parse().unwrap()), rest),
            ["bytes", count, rest @ ..] => (probe.payload_bytes(count.parse().unwrap()), rest),
            [] => return probe,
            other => panic!("not understood: {other:?}"),
        }
    }
}

fn resum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let pairs = frame[14..34].chunks(2);
    let sum: u32 = pairs.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// One line for each header, as an independent parser reads it.
fn describe(frame: &[u8], story: &mut String) {
    let packet = SlicedPacket::from_ethernet(frame).expect("an intact frame");
    let ethernet = packet.link.unwrap().to_header().unwrap().ethernet2().unwrap();
    let (from, to) = (mac(ethernet.source), mac(ethernet.destination));
    writeln!(story, "      ethernet {from} > {to}").unwrap();
    if frame[12..14] == [0x81, 0] {
        writeln!(story, "      vlan {}", u16::from_be_bytes([frame[14] & 0xf, frame[15]])).unwrap();
    }
    match packet.net.expect("a network header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let fixed = if header.dont_fragment() { ", not to be fragmented" } else { "" };
            let (ttl, total) = (header.ttl(), header.total_len());
            writeln!(story, "      ipv4 {from} > {to} ttl {ttl}, {total} bytes{fixed}").unwrap();
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let (hops, length) = (header.hop_limit(), header.payload_length());
            writeln!(story, "      ipv6 {from} > {to} hops {hops}, 40+{length} bytes").unwrap();
        }
        NetSlice::Arp(arp) => {
            let verb = if arp.operation().0 == 2 { "reply" } else { "request" };
            let address =
                |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
            let sender = address(arp.sender_protocol_addr());
            let at = mac(arp.sender_hw_addr().try_into().unwrap());
            let target = address(arp.target_protocol_addr());
            writeln!(story, "      arp {verb}: {sender} is at {at}, to {target}").unwrap();
        }
    }
    match packet.transport {
        Some(TransportSlice::Udp(header))
            if matches!(header.destination_port(), 4789 | 6081) && header.payload().len() > 8 =>
        {
            let summed = if header.checksum() == 0 { "without" } else { "with" };
            let port = header.destination_port();
            let kind = if port == 6081 { "geneve" } else { "vxlan" };
            writeln!(story, "      udp to {port}, {summed} checksum; {kind}").unwrap();
            describe(&header.payload()[8..], story);
        }
        Some(TransportSlice::Udp(header)) => {
            let (from, to) = (header.source_port(), header.destination_port());
            writeln!(story, "      udp {from} > {to}").unwrap();
        }
        Some(TransportSlice::Tcp(header)) => {
            let (from, to) = (header.source_port(), header.destination_port());
            writeln!(story, "      tcp {from} > {to}").unwrap();
        }
        Some(TransportSlice::Icmpv4(header)) => {
            writeln!(story, "      icmp {}", words(format!("{:?}", header.icmp_type()))).unwrap();
        }
        Some(TransportSlice::Icmpv6(header)) => {
            writeln!(story, "      icmpv6 {}", words(format!("{:?}", header.icmp_type()))).unwrap();
        }
        _ => {}
    }
}

/// The parser's own words for a message: "NeighborAdvertisement router: true, solicited: true".
fn words(debug: String) -> String {
    let bare = |inner: &str| inner.trim_matches([' ', '{', '}', ')']).to_owned();
    match debug.split_once('(') {
        Some((name, inner)) => {
            format!("{name} {}", bare(inner.split_once(" {").map_or(inner, |it| it.1)))
        }
        None => debug,
    }
}
