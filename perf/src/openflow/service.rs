//! Services: which group a packet asks, which endpoint it gets, and whose source is translated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use seine_pipeline::state::{Service, ServiceEndpoint};

use super::connectivity::to_agent;
use super::flow::{FAMILIES, Family, Writer, bracketed, goto, number, resubmit, set};
use super::subject::Subject;
use super::table::Table;

/// In whose name the node speaks to itself, by family.
const VIRTUAL_SERVICE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 253)),
    IpAddr::V6(Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeeff)),
];
/// What the node's kernel translates NodePort destinations into, by family.
const VIRTUAL_NODE_PORT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 0, 252)),
    IpAddr::V6(Ipv6Addr::new(0xfc01, 0, 0, 0, 0, 0xaabb, 0xccdd, 0xeefe)),
];
/// Open vSwitch's timeouts have 16 bits.
const AFFINITY_SECONDS_MAX: u32 = 65535;

/// The groups of each Service, by its name.
pub type ServiceGroups<'a> = BTreeMap<&'a str, Vec<u32>>;

/// Writes the flows and groups of all Services.
pub fn write<'a>(subject: &Subject<'a>, to: &mut Writer) -> ServiceGroups<'a> {
    for family in FAMILIES {
        prepare(subject, family, to);
    }
    to.flow(Table::SessionAffinity, 0, "", set::SELECT);
    to.flow(Table::EndpointDnat, 200, "reg0=0x4000/0x4000", to_agent(subject, "04"));
    let again = format!("{},{}", set::SELECT, resubmit(Table::ServiceLb));
    to.flow(Table::EndpointDnat, 190, "reg4=0x20000/0x70000", again);
    let gateway_mac = format!("set_field:{}->eth_dst", subject.gateway.0.mac);
    let back = format!("{gateway_mac},{},{}", set::TO_GATEWAY, goto(Table::L3DecTtl));
    to.flow(Table::L3Forwarding, 190, "ct_mark=0x10/0x10,reg0=0x202/0x20f", back);
    let mut groups = ServiceGroups::new();
    for service in &subject.services {
        let mut own = Vec::new();
        for family in FAMILIES {
            own.extend(write_service(subject, service, family, to));
            write_endpoints(service, family, to);
        }
        groups.insert(service.name.as_str(), own);
    }
    groups
}

fn prepare(subject: &Subject<'_>, family: Family, to: &mut Writer) {
    let Family { ip, source, destination, zone, snat_zone, .. } = family;
    let index = usize::from(family.v6);
    let (service, node_port) = (VIRTUAL_SERVICE[index], VIRTUAL_NODE_PORT[index]);
    let gateway = subject.node.gateway_addresses.iter();
    let gateway = gateway.copied().find(|it| Family::of(*it) == family);
    let look = format!("ct(table={},zone={snat_zone},nat)", Table::ConntrackZone.id());
    for address in [Some(service), gateway].into_iter().flatten() {
        to.flow(Table::UnSnat, 200, format!("{ip},{destination}={address}"), &look);
    }
    let known = format!("ct_state=-new+trk,ct_mark=0x10/0x10,{ip}");
    let judged = format!("{},{}", set::REWRITE_MAC, goto(Table::AntreaPolicyEgressRule));
    to.flow(Table::ConntrackState, 190, known, judged);
    let ask = [Table::NodePortMark, Table::SessionAffinity, Table::ServiceLb].map(resubmit);
    to.flow(Table::PreRoutingClassifier, 200, ip, ask.join(","));
    let addresses = subject.node.node_port_addresses.iter().copied().chain([node_port]);
    for address in addresses.filter(|it| Family::of(*it) == family) {
        let matched = format!("{ip},{destination}={address}");
        to.flow(Table::NodePortMark, 200, matched, set::NODE_PORT);
    }
    let to_rules = goto(Table::AntreaPolicyIngressRule);
    let marked = format!("{ip},reg4=0x80000/0x80000");
    to.flow(Table::IngressSecurityClassifier, 201, marked, to_rules);
    let commit = |marks: &str| {
        let source = "move:NXM_NX_REG0[0..3]->NXM_NX_CT_MARK[0..3]";
        format!("ct(commit,table={},zone={zone},exec({marks},{source}))", Table::Snat.id())
    };
    let (snat, hairpin) = ("set_field:0x20/0x20->ct_mark", "set_field:0x40/0x40->ct_mark");
    let (new, both) = (format!("ct_state=+new+trk,{ip}"), format!("{snat},{hairpin}"));
    to.flow(Table::SnatMark, 200, format!("{new},reg0=0x22/0xff"), commit(&both));
    let outside = format!("{new},reg0=0x12/0xff,reg4=0x200000/0x2200000");
    to.flow(Table::SnatMark, 200, outside, commit(snat));
    for pod in &subject.pods {
        for it in pod.endpoint.addresses.iter().filter(|it| Family::of(**it) == family) {
            let itself = format!("{new},{source}={it},{destination}={it}");
            to.flow(Table::SnatMark, 190, itself, commit(&both));
        }
    }
    let next = Table::L2ForwardingCalc.id();
    let translate = |address: IpAddr, marks: &str| {
        let service = "set_field:0x10/0x10->ct_mark";
        format!(
            "ct(commit,table={next},zone={snat_zone},nat(src={address}),exec({service},{marks}))"
        )
    };
    let hairpins = format!("ct_state=+new+trk,ct_mark=0x40/0x40,{ip}");
    to.flow(Table::Snat, 200, format!("{hairpins},reg0=0x2/0xf"), translate(service, &both));
    if let Some(gateway) = gateway {
        to.flow(Table::Snat, 200, format!("{hairpins},reg0=0x3/0xf"), translate(gateway, &both));
        let outside = format!("ct_state=+new+trk,ct_mark=0x20/0x20,{ip},reg0=0x2/0xf");
        to.flow(Table::Snat, 190, outside, translate(gateway, snat));
    }
    let later = format!("ct_state=-new-rpl+trk,ct_mark=0x20/0x20,{ip}");
    to.flow(Table::Snat, 200, later, format!("ct(table={next},zone={snat_zone},nat)"));
}

/// One way to ask for a Service: what is matched beside the port, and which marks it sets.
struct Way {
    priority: u16,
    destination: String,
    /// The bits of reg4 that must be set beside the endpoint's state, which has none of them.
    bits: u32,
    external: bool,
    group: u32,
}

fn write_service(
    subject: &Subject<'_>,
    service: &Service,
    family: Family,
    to: &mut Writer,
) -> Vec<u32> {
    const NODE_PORT: u32 = 0x8_0000;
    const FROM_LOCAL: u32 = 0x1000_0000;
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    let lists = |wanted: fn(&ServiceEndpoint) -> bool| {
        let endpoints = service.endpoints.iter();
        let endpoints = endpoints.filter(|it| wanted(it) && Family::of(it.address) == family);
        endpoints.copied().collect::<Vec<_>>()
    };
    let group = |list: Vec<ServiceEndpoint>, to: &mut Writer| {
        let buckets = buckets(subject, service, family, &list);
        to.group("select", &buckets)
    };
    let cluster = group(lists(|it| it.cluster), to);
    let mut groups = vec![cluster];
    let local = if service.internal_local || service.external_local {
        groups.push(group(lists(|it| it.local), to));
        groups[1]
    } else {
        cluster
    };
    let mut ways = Vec::new();
    for address in service.cluster_addresses.iter().filter(of_family) {
        let destination = format!("{}={address},", family.destination);
        let group = if service.internal_local { local } else { cluster };
        ways.push(Way { priority: 200, destination, bits: 0, external: false, group });
    }
    let mut external = |destination: String, bits: u32| {
        if service.external_local {
            let (destination, bits) = (destination.clone(), bits | FROM_LOCAL);
            ways.push(Way { priority: 210, destination, bits, external: true, group: cluster });
        }
        let group = if service.external_local { local } else { cluster };
        ways.push(Way { priority: 200, destination, bits, external: true, group });
    };
    for address in service.external_addresses.iter().filter(of_family) {
        external(format!("{}={address},", family.destination), 0);
    }
    if service.node_port != 0 {
        external(String::new(), NODE_PORT);
    }
    for way in ways {
        write_way(service, family, &way, to);
    }
    groups
}

fn write_way(service: &Service, family: Family, way: &Way, to: &mut Writer) {
    let Way { priority, destination, bits, external, group } = way;
    let port = if bits & 0x8_0000 == 0 { service.port } else { service.node_port };
    let protocol = family.protocol(service.protocol);
    let matched = |state: u32| {
        let (value, mask) = (state | bits, 0x7_0000 | bits);
        format!("{protocol},reg4={value:#x}/{mask:#x},{destination}tp_dst={port}")
    };
    let external_mark = if *external { format!("{},", set::EXTERNAL) } else { String::new() };
    let state = if service.affinity_seconds == 0 { set::SELECTED } else { set::LEARN };
    let rewrite = set::REWRITE_MAC;
    let choose =
        format!("{rewrite},{state},{external_mark}set_field:{group:#x}->reg7,group:{group}");
    to.flow(Table::ServiceLb, *priority, matched(0x1_0000), choose);
    if service.affinity_seconds != 0 {
        let learn = learn(service, family, *external);
        // Which of both priorities asked does not matter any more.
        to.flow(Table::ServiceLb, priority - 10, matched(0x3_0000), learn);
    }
}

/// The action by which a client keeps its endpoint.
fn learn(service: &Service, family: Family, external: bool) -> String {
    let seconds = service.affinity_seconds.min(AFFINITY_SECONDS_MAX);
    let port = match service.protocol {
        6 => "OXM_OF_TCP_DST[]",
        17 => "OXM_OF_UDP_DST[]",
        _ => "OXM_OF_SCTP_DST[]",
    };
    let (kind, addresses, register) = match family.v6 {
        false => ("0x800", "NXM_OF_IP_DST[],NXM_OF_IP_SRC[]", "NXM_NX_REG3[]"),
        true => ("0x86dd", "NXM_NX_IPV6_DST[],NXM_NX_IPV6_SRC[]", "NXM_NX_XXREG3[]"),
    };
    let mark = if external { ",load:0x1->NXM_NX_REG4[21]" } else { "" };
    format!(
        "learn(table={},hard_timeout={seconds},priority=200,delete_learned,eth_type={kind},\
         nw_proto={},{port},{addresses},load:NXM_NX_REG4[0..15]->NXM_NX_REG4[0..15],\
         load:NXM_NX_REG4[26]->NXM_NX_REG4[26],load:{register}->{register},\
         load:0x2->NXM_NX_REG4[16..18],load:0x1->NXM_NX_REG0[9]{mark}),{},{}",
        Table::SessionAffinity.id(),
        service.protocol,
        set::SELECTED,
        goto(Table::EndpointDnat)
    )
}

fn buckets(
    subject: &Subject<'_>,
    service: &Service,
    family: Family,
    endpoints: &[ServiceEndpoint],
) -> Vec<String> {
    let dnat = resubmit(Table::EndpointDnat);
    if endpoints.is_empty() {
        return vec![format!("{},{dnat}", set::NO_ENDPOINT)];
    }
    let next = if service.affinity_seconds == 0 { dnat } else { resubmit(Table::ServiceLb) };
    let bucket = |endpoint: &ServiceEndpoint| {
        let mut ranges = subject.peers.iter().flat_map(|peer| &peer.pod_cidrs);
        let remote = ranges.any(|range| range.contains(&endpoint.address));
        let mark = if remote { format!("{},", set::REMOTE) } else { String::new() };
        let (address, port) = (number(endpoint.address), endpoint.port);
        let register = family.endpoint;
        format!("{mark}set_field:{address}->{register},set_field:{port:#x}/0xffff->reg4,{next}")
    };
    endpoints.iter().map(bucket).collect()
}

fn write_endpoints(service: &Service, family: Family, to: &mut Writer) {
    let endpoints = service.endpoints.iter().filter(|it| Family::of(it.address) == family);
    let places: BTreeSet<_> = endpoints.map(|it| (it.address, it.port)).collect();
    for (address, port) in places {
        let matched = format!(
            "{},{}={},reg4={:#x}/0x7ffff",
            family.protocol(service.protocol),
            family.endpoint,
            number(address),
            0x2_0000 | u32::from(port)
        );
        let commit = format!(
            "ct(commit,table={},zone={},nat(dst={}:{port}),exec(set_field:0x10/0x10->ct_mark))",
            Table::AntreaPolicyEgressRule.id(),
            family.zone,
            bracketed(address)
        );
        to.flow(Table::EndpointDnat, 200, matched, commit);
    }
}
