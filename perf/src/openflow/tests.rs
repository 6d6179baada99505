#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use seine_pipeline::address::{Mac, PortId, PortKind};
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::state::{
    Action, EncapMode, Endpoint, Group, Node, Object, Peer, Permit, Port, PortRange, Rule,
    RuleDirection, RuleTable, Service, ServiceEndpoint, Traffic, TunnelType,
};

use super::policy::masks;
use super::walk::{Ends, Walk, met};
use super::{FlowError, FlowSet, Table, flows};

fn port(index: usize, name: &str, kind: PortKind) -> Object {
    let mac = Mac([2, 0, 0, 0, 0, index as u8]);
    let id = PortId::new(index).unwrap();
    Object::Port(Port { id, name: name.to_owned(), kind, mac, mtu: 1500, generation: 1 })
}

fn endpoint(number: u8) -> Object {
    Object::Endpoint(Endpoint {
        name: format!("default/pod{number}/eth0"),
        port: format!("p{number}"),
        mac: Mac([2, 0, 0, 1, 0, number]),
        addresses: vec![
            format!("10.10.0.{number}").parse().unwrap(),
            format!("fec0:10:10::{number:x}").parse().unwrap(),
        ],
        mtu: 1400,
        permit: Permit::default(),
        network_id: 0,
        interface_index: 0,
    })
}

fn group(name: &str, members: &[&str]) -> Object {
    let members = members.iter().map(|member| member.parse().unwrap()).collect();
    Object::Group(Group { name: name.to_owned(), members, fqdns: Vec::new() })
}

fn rule(name: &str, direction: RuleDirection, table: RuleTable, action: Action) -> Rule {
    Rule {
        name: name.to_owned(),
        policy: "AntreaClusterNetworkPolicy:any".to_owned(),
        rule_name: String::new(),
        direction,
        table,
        rank: 7,
        action,
        applied_to_groups: vec!["web".to_owned()],
        applied_to_services: Vec::new(),
        peer_groups: vec!["peers".to_owned()],
        peer_services: Vec::new(),
        traffic: vec![traffic(80, 80)],
        log: false,
        log_label: String::new(),
        priority: String::new(),
    }
}

fn traffic(first: u16, last: u16) -> Traffic {
    Traffic {
        protocol: 6,
        ports: Some(PortRange { first, last }),
        source_ports: None,
        icmp_type: None,
        icmp_code: None,
    }
}

fn network() -> Vec<Object> {
    let node = Node {
        name: "node-0".to_owned(),
        pod_cidrs: vec!["10.10.0.0/24".parse().unwrap(), "fec0:10:10::/80".parse().unwrap()],
        gateway_addresses: vec!["10.10.0.1".parse().unwrap(), "fec0:10:10::1".parse().unwrap()],
        tunnel_address: "192.168.77.100".parse().unwrap(),
        tunnel_mtu: 1450,
        encap_mode: EncapMode::Encap,
        tunnel_type: TunnelType::Geneve,
        node_port_addresses: vec!["192.168.77.100".parse().unwrap()],
        existing_connections: Default::default(),
    };
    let peer = Peer {
        name: "node-1".to_owned(),
        pod_cidrs: vec!["10.10.1.0/24".parse().unwrap()],
        gateway_addresses: vec!["10.10.1.1".parse().unwrap()],
        tunnel_address: "192.168.77.101".parse().unwrap(),
        adjacency: AdjacencyId::new(0).unwrap(),
    };
    vec![
        Object::Node(node),
        Object::Peer(peer),
        port(1, "gateway", PortKind::Gateway),
        port(2, "uplink", PortKind::Uplink),
        endpoint(66),
        endpoint(67),
    ]
}

fn service() -> Service {
    let endpoint = |address: &str| ServiceEndpoint {
        address: address.parse().unwrap(),
        port: 80,
        cluster: true,
        local: false,
    };
    Service {
        name: "default/web:http".to_owned(),
        protocol: 6,
        cluster_addresses: vec!["10.96.0.100".parse().unwrap()],
        external_addresses: Vec::new(),
        port: 80,
        node_port: 0,
        affinity_seconds: 0,
        internal_local: false,
        external_local: false,
        restricted_addresses: Vec::new(),
        source_ranges: Vec::new(),
        endpoints: vec![endpoint("10.10.0.66"), endpoint("10.10.1.2")],
    }
}

fn written(objects: &[Object]) -> FlowSet {
    let numbers = [("gateway", 2), ("uplink", 1), ("p66", 100), ("p67", 101)];
    let numbers = numbers.map(|(name, number)| (name.to_owned(), number));
    flows(objects, &BTreeMap::from(numbers)).unwrap()
}

/// The set with names for numbers of tables, as Antrea's own tests show flows.
fn has(set: &FlowSet, table: Table, rest: &str) -> bool {
    set.flows.iter().any(|flow| *flow == format!("table={},{rest}", table.id()))
}

#[test]
fn the_flows_of_a_pod_and_of_a_peer_are_those_of_antrea() {
    let set = written(&network());
    let wanted = [
        (
            Table::Classifier,
            "priority=190,in_port=100,actions=set_field:0x3/0xf->reg0,\
            set_field:0x10000000/0x10000000->reg4,goto_table:4",
        ),
        (
            Table::SpoofGuard,
            "priority=200,ip,in_port=100,dl_src=02:00:00:01:00:42,\
            nw_src=10.10.0.66,actions=goto_table:6",
        ),
        (Table::ConntrackZone, "priority=200,ip,actions=ct(table=8,zone=65520,nat)"),
        (Table::ConntrackZone, "priority=200,ipv6,actions=ct(table=8,zone=65510,nat)"),
        (
            Table::L3Forwarding,
            "priority=200,ip,nw_dst=10.10.1.0/24,\
            actions=set_field:02:00:00:00:00:01->eth_src,set_field:aa:bb:cc:dd:ee:ff->eth_dst,\
            set_field:192.168.77.101->tun_dst,set_field:0x10/0xf0->reg0,goto_table:20",
        ),
        (Table::L3DecTtl, "priority=200,ip,actions=dec_ttl,goto_table:21"),
        (
            Table::L2ForwardingCalc,
            "priority=200,dl_dst=02:00:00:01:00:42,\
            actions=set_field:0x64->reg1,set_field:0x200000/0x600000->reg0,goto_table:24",
        ),
        (Table::Output, "priority=200,reg0=0x200000/0x600000,actions=output:NXM_NX_REG1[]"),
    ];
    for (table, flow) in wanted {
        assert!(has(&set, table, flow), "{} lacks {flow}: {:#?}", table.name(), set.flows);
    }
}

#[test]
fn rules_that_share_a_match_share_its_flow() {
    let mut objects = network();
    objects.push(group("web", &["10.10.0.66/32"]));
    objects.push(group("peers", &["10.10.0.67/32", "203.0.113.0/24"]));
    let ingress =
        |name, table, action| Object::Rule(rule(name, RuleDirection::Ingress, table, action));
    objects.push(ingress("a", RuleTable::NetworkPolicy, Action::Allow));
    objects.push(ingress("b", RuleTable::NetworkPolicy, Action::Allow));
    objects.push(ingress("c", RuleTable::AntreaPolicy, Action::Drop));
    let set = written(&objects);
    let wanted = [
        (
            Table::IngressRule,
            "priority=200,ip,reg1=0x64,actions=conjunction(2,1/3),\
            conjunction(3,1/3)",
        ),
        (
            Table::IngressRule,
            "priority=200,ip,nw_src=203.0.113.0/24,actions=conjunction(2,2/3),\
            conjunction(3,2/3)",
        ),
        (
            Table::IngressRule,
            "priority=200,tcp6,tp_dst=80,actions=conjunction(2,3/3),\
            conjunction(3,3/3)",
        ),
        (
            Table::IngressRule,
            "priority=190,conj_id=2,ip,actions=set_field:0x2->reg6,ct(commit,\
            table=28,zone=65520,exec(set_field:0x2/0xffffffff->ct_label))",
        ),
        (
            Table::IngressMetric,
            "priority=200,ct_state=+new,ct_label=0x2/0xffffffff,ip,\
            actions=goto_table:29",
        ),
        (
            Table::AntreaPolicyIngressRule,
            "priority=64989,conj_id=1,actions=set_field:0x1->reg3,\
            set_field:0x400/0x400->reg0,goto_table:28",
        ),
        (Table::IngressMetric, "priority=200,reg0=0x400/0x400,reg3=0x1,actions=drop"),
    ];
    for (table, flow) in wanted {
        assert!(has(&set, table, flow), "{} lacks {flow}: {:#?}", table.name(), set.flows);
    }
}

#[test]
fn a_service_is_a_group_with_a_bucket_for_each_endpoint() {
    let mut objects = network();
    objects.push(Object::Service(service()));
    let set = written(&objects);
    assert_eq!(
        set.groups[0],
        "group_id=1,type=select,\
         bucket=bucket_id:0,weight:100,actions=set_field:0xa0a0042->reg3,\
         set_field:0x50/0xffff->reg4,resubmit(,13),\
         bucket=bucket_id:1,weight:100,actions=set_field:0x4000000/0x4000000->reg4,\
             set_field:0xa0a0102->reg3,set_field:0x50/0xffff->reg4,resubmit(,13)"
    );
    assert!(has(
        &set,
        Table::ServiceLb,
        "priority=200,tcp,reg4=0x10000/0x70000,nw_dst=10.96.0.100,tp_dst=80,\
            actions=set_field:0x200/0x200->reg0,set_field:0x20000/0x70000->reg4,\
            set_field:0x1->reg7,group:1"
    ));
}

#[test]
fn what_flows_do_not_express_is_counted() {
    let mut objects = network();
    let mut logged = rule("a", RuleDirection::Egress, RuleTable::AntreaPolicy, Action::Allow);
    logged.log = true;
    logged.applied_to_services = vec!["default/web:http".to_owned()];
    objects.push(Object::Rule(logged));
    let expected = BTreeMap::from([("audit records", 1), ("rules for NodePorts", 1)]);
    assert_eq!(written(&objects).left_out, expected);
}

#[test]
fn more_baseline_rules_than_there_are_priorities_are_refused() {
    let mut objects = network();
    for rank in 0..172 {
        let name = format!("rule{rank}");
        let rule = rule(&name, RuleDirection::Egress, RuleTable::Default, Action::Drop);
        objects.push(Object::Rule(Rule { rank, ..rule }));
    }
    let numbers = BTreeMap::from([("gateway".to_owned(), 2), ("uplink".to_owned(), 1)]);
    let refused = flows(&objects, &numbers);
    assert!(matches!(refused, Err(FlowError::NoPriority { rules: 172, room: 171, .. })));
}

#[test]
fn the_numbers_of_tables_follow_their_order() {
    for (index, table) in Table::ALL.iter().enumerate() {
        assert_eq!(usize::from(table.id()), index);
    }
    let names: BTreeSet<_> = Table::ALL.iter().map(|table| table.name()).collect();
    assert_eq!(names.len(), Table::ALL.len());
}

#[test]
fn masks_are_exactly_the_range() {
    let ranges = [(0, 65535), (80, 80), (80, 443), (1, 65534), (40000, 48000), (65535, 65535)];
    for (first, last) in ranges {
        let masks = masks(PortRange { first, last });
        assert!(masks.len() <= 30);
        for port in 0..=u16::MAX {
            let matching = masks.iter().filter(|(value, mask)| port & mask == *value).count();
            assert_eq!(matching, usize::from((first..=last).contains(&port)), "{port}");
        }
    }
}

#[test]
fn walks_meet_as_many_actions_of_connection_tracking_as_antrea_says() {
    let walk = |ends, service, rules: bool| {
        let rule = rules.then_some(Action::Allow);
        Walk { ends, service, egress: rule, ingress: rule }
    };
    assert_eq!(walk(Ends::Local, false, false).first(), 2);
    assert_eq!(walk(Ends::Local, false, true).first(), 4);
    assert_eq!(walk(Ends::ToPeer, false, true).first(), 3);
    assert_eq!(walk(Ends::FromPeer, false, true).first(), 3);
    assert_eq!(walk(Ends::Local, true, false).first(), 3);
    assert_eq!(walk(Ends::Local, true, true).first(), 5);
    assert_eq!(walk(Ends::Hairpin, true, false).first(), 4);
    assert_eq!(walk(Ends::Local, true, true).later(), 1);
    let denied = Walk { ingress: Some(Action::Drop), ..walk(Ends::Local, false, true) };
    assert_eq!(denied.first(), 2);
}

#[test]
fn actions_of_connection_tracking_are_read_from_a_dump() {
    let dump = "recirc_id(0),in_port(1),ct_state(-trk), packets:0, actions:ct(zone=65520,nat),\
        recirc(0x1)\n\
        recirc_id(0x1),in_port(1),ct_state(+new+trk), actions:ct(commit,zone=65520),recirc(0x2)\n\
        recirc_id(0x2),in_port(1), actions:2\n";
    assert_eq!(met(dump), 2);
}

/// Open vSwitch itself reads them.
#[test]
#[ignore = "needs Open vSwitch, which deploy/test installs"]
fn open_vswitch_takes_every_flow() {
    let mut objects = network();
    objects.push(group("web", &["10.10.0.66/32", "fec0:10:10::42/128"]));
    objects.push(group("peers", &["10.10.0.67/32", "203.0.113.0/24", "fec0::/16"]));
    let tables = [RuleTable::AntreaPolicy, RuleTable::NetworkPolicy, RuleTable::Default];
    let actions = [Action::Allow, Action::Drop, Action::Reject, Action::Pass, Action::Isolate];
    for direction in [RuleDirection::Egress, RuleDirection::Ingress] {
        for (table, action) in tables.iter().flat_map(|it| actions.map(|action| (*it, action))) {
            let name = format!("{direction:?}{table:?}{action:?}");
            let mut rule = rule(&name, direction, table, action);
            rule.traffic.push(Traffic { protocol: 1, icmp_type: Some(8), ..traffic(0, 0) });
            rule.traffic[1].ports = None;
            rule.traffic.push(Traffic { protocol: 132, ..traffic(80, 443) });
            objects.push(Object::Rule(rule));
        }
    }
    let affine = Service { affinity_seconds: 100, node_port: 30000, ..service() };
    let external_addresses = vec!["203.0.113.80".parse().unwrap()];
    let local = Service { external_local: true, external_addresses, node_port: 30001, ..service() };
    objects.push(Object::Service(Service { name: "default/a:".to_owned(), ..affine }));
    objects.push(Object::Service(Service { name: "default/b:".to_owned(), port: 81, ..local }));
    let set = written(&objects);
    let file = std::env::temp_dir().join(format!("seine-flows-{}", std::process::id()));
    std::fs::write(&file, set.flows.join("\n")).unwrap();
    let mut command = std::process::Command::new("ovs-ofctl");
    let output = command.args(["-O", "OpenFlow15", "parse-flows"]).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let read = String::from_utf8_lossy(&output.stdout).matches("FLOW_MOD").count();
    assert_eq!(read, set.flows.len(), "{told}");
}
