//! Pods, gateway and tunnel: who may speak, and where packets go.

use seine_pipeline::address::Mac;
use seine_pipeline::state::{EncapMode, Peer};

use super::flow::{FAMILIES, Family, Writer, goto, set};
use super::subject::{Pod, Subject};
use super::table::Table;

/// Writes every flow that needs neither rules nor Services.
pub fn write(subject: &Subject<'_>, to: &mut Writer) {
    classify(subject, to);
    for family in FAMILIES {
        track(family, to);
        route(subject, family, to);
    }
    for pod in &subject.pods {
        write_pod(subject, pod, to);
    }
    for peer in &subject.peers {
        write_peer(subject, peer, to);
    }
    switch(subject, to);
    output(subject, to);
}

fn classify(subject: &Subject<'_>, to: &mut Writer) {
    let root = Table::PipelineRootClassifier;
    to.flow(root, 200, "arp", goto(Table::ArpSpoofGuard));
    to.flow(root, 200, "ip", goto(Table::Classifier));
    to.flow(root, 200, "ipv6", goto(Table::Classifier));
    to.flow(Table::ArpResponder, 190, "arp", "NORMAL");
    let (gateway, number) = subject.gateway;
    let next = goto(Table::SpoofGuard);
    let local = format!("{},{},{next}", set::FROM_GATEWAY, set::FROM_LOCAL);
    for address in &subject.node.gateway_addresses {
        let family = Family::of(*address);
        let from = format!("{},in_port={number},{}={address}", family.ip, family.source);
        to.flow(Table::Classifier, 210, from, &local);
        if address.is_ipv4() {
            let says = format!("arp,in_port={number},arp_spa={address},arp_sha={}", gateway.mac);
            to.flow(Table::ArpSpoofGuard, 200, says, goto(Table::ArpResponder));
        }
    }
    let external = format!("{},{},{next}", set::FROM_GATEWAY, set::FROM_EXTERNAL);
    to.flow(Table::Classifier, 200, format!("in_port={number}"), external);
    if let Some(host) = subject.host {
        let probe = format!("set_field:0x80000000/0x80000000->pkt_mark,{local}");
        to.flow(Table::Classifier, 210, format!("in_port={host}"), probe);
    }
    if let Some(tunnel) = subject.tunnel {
        let tunnelled =
            format!("{},{},{}", set::FROM_TUNNEL, set::REWRITE_MAC, goto(Table::UnSnat));
        to.flow(Table::Classifier, 200, format!("in_port={tunnel}"), tunnelled);
    }
    for port in [Some(number), subject.host].into_iter().flatten() {
        to.flow(Table::SpoofGuard, 200, format!("ip,in_port={port}"), goto(Table::UnSnat));
        to.flow(Table::SpoofGuard, 200, format!("ipv6,in_port={port}"), goto(Table::Ipv6));
    }
    to.flow(Table::SpoofGuard, 200, "ipv6,ipv6_src=fe80::/10", goto(Table::Ipv6));
    for neighbor in ["icmp6,icmp_type=135,icmp_code=0", "icmp6,icmp_type=136,icmp_code=0"] {
        to.flow(Table::Ipv6, 200, neighbor, "NORMAL");
    }
    to.flow(Table::Ipv6, 200, "ipv6,ipv6_dst=ff00::/8", "NORMAL");
}

/// Connections: looked up, told apart, remembered.
fn track(family: Family, to: &mut Writer) {
    let Family { ip, zone, .. } = family;
    let state = Table::ConntrackState;
    let look = format!("ct(table={},zone={zone},nat)", state.id());
    to.flow(Table::ConntrackZone, 200, ip, look);
    to.flow(state, 200, format!("ct_state=+inv+trk,{ip}"), "drop");
    let judged = goto(Table::AntreaPolicyEgressRule);
    to.flow(state, 190, format!("ct_state=-new+trk,ct_mark=0x0/0x10,{ip}"), judged);
    let commit = format!(
        "ct(commit,table={},zone={zone},exec(move:NXM_NX_REG0[0..3]->NXM_NX_CT_MARK[0..3]))",
        Table::Output.id()
    );
    to.flow(
        Table::ConntrackCommit,
        200,
        format!("ct_state=+new+trk,ct_mark=0x0/0x20,{ip}"),
        commit,
    );
    let classifier = Table::IngressSecurityClassifier;
    let probe = format!("pkt_mark=0x80000000/0x80000000,ct_state=-rpl+trk,{ip}");
    to.flow(classifier, 210, probe, goto(Table::ConntrackCommit));
    for destination in ["reg0=0x10/0xf0", "reg0=0x20/0xf0"] {
        to.flow(classifier, 200, destination, goto(Table::IngressMetric));
    }
    to.flow(classifier, 200, "ct_mark=0x40/0x40", goto(Table::ConntrackCommit));
}

fn route(subject: &Subject<'_>, family: Family, to: &mut Writer) {
    let Family { ip, destination, .. } = family;
    let (gateway, _) = subject.gateway;
    let l3 = Table::L3Forwarding;
    let gateway_mac = format!("set_field:{}->eth_dst", gateway.mac);
    let to_gateway = format!("{gateway_mac},{},{}", set::TO_GATEWAY, goto(Table::L3DecTtl));
    let mut own = subject.node.gateway_addresses.iter();
    for address in own.by_ref().filter(|address| Family::of(**address) == family) {
        to.flow(l3, 210, format!("{ip},{destination}={address}"), &to_gateway);
    }
    to.flow(l3, 210, format!("ct_state=+rpl+trk,ct_mark=0x2/0xf,{ip}"), &to_gateway);
    for range in subject.node.pod_cidrs.iter().filter(|it| Family::of(it.addr()) == family) {
        let switched = format!("{ip},reg0=0x0/0x200,{destination}={range}");
        to.flow(l3, 200, switched, goto(Table::L2ForwardingCalc));
    }
    let marked = goto(Table::EgressMark);
    to.flow(l3, 190, format!("ct_state=-rpl+trk,{ip},reg0=0x3/0xf,reg4=0x0/0x100000"), &marked);
    let tunnelled = format!("{gateway_mac},{marked}");
    to.flow(l3, 190, format!("ct_state=-rpl+trk,{ip},reg0=0x1/0xf"), tunnelled);
    let out = format!("{},{}", set::TO_GATEWAY, goto(Table::L2ForwardingCalc));
    to.flow(l3, 0, "", &out);
    for address in subject.node_addresses().filter(|it| Family::of(*it) == family) {
        to.flow(Table::EgressMark, 210, format!("{ip},{destination}={address}"), &out);
    }
    to.flow(Table::EgressMark, 190, format!("ct_state=+new+trk,{ip},reg0=0x1/0xf"), "drop");
    to.flow(Table::EgressMark, 0, "", &out);
    to.flow(Table::L3DecTtl, 210, format!("{ip},reg0=0x2/0xf"), goto(Table::SnatMark));
    to.flow(Table::L3DecTtl, 200, ip, format!("dec_ttl,{}", goto(Table::SnatMark)));
}

fn write_pod(subject: &Subject<'_>, pod: &Pod<'_>, to: &mut Writer) {
    let Pod { endpoint, number } = pod;
    let (gateway, _) = subject.gateway;
    let next = goto(Table::SpoofGuard);
    let from = format!("{},{},{next}", set::FROM_POD, set::FROM_LOCAL);
    to.flow(Table::Classifier, 190, format!("in_port={number}"), from);
    for address in &endpoint.addresses {
        let Family { v6, ip, source, destination, .. } = Family::of(*address);
        let mac = endpoint.mac;
        let next = goto(if v6 { Table::Ipv6 } else { Table::UnSnat });
        let says = format!("{ip},in_port={number},dl_src={mac},{source}={address}");
        to.flow(Table::SpoofGuard, 200, says, next);
        if !v6 {
            let says = format!("arp,in_port={number},arp_spa={address},arp_sha={mac}");
            to.flow(Table::ArpSpoofGuard, 200, says, goto(Table::ArpResponder));
        }
        let routed = format!(
            "set_field:{}->eth_src,set_field:{mac}->eth_dst,{}",
            gateway.mac,
            goto(Table::L3DecTtl)
        );
        let matched = format!("{ip},reg0=0x200/0x200,{destination}={address}");
        to.flow(Table::L3Forwarding, 200, matched, routed);
    }
    to_port(format!("dl_dst={}", endpoint.mac), *number, to);
}

fn write_peer(subject: &Subject<'_>, peer: &Peer, to: &mut Writer) {
    let (gateway, _) = subject.gateway;
    for range in &peer.pod_cidrs {
        let Family { ip, destination, .. } = Family::of(range.addr());
        let actions = match subject.node.encap_mode {
            EncapMode::Encap => format!(
                "set_field:{}->eth_src,set_field:{}->eth_dst,set_field:{}->{},{}",
                gateway.mac,
                Mac::VIRTUAL,
                peer.tunnel_address,
                Family::of(peer.tunnel_address).tunnel,
                set::TO_TUNNEL
            ),
            EncapMode::NoEncap => {
                format!("set_field:{}->eth_dst,{}", gateway.mac, set::TO_GATEWAY)
            }
        };
        let matched = format!("{ip},{destination}={range}");
        let actions = format!("{actions},{}", goto(Table::L3DecTtl));
        to.flow(Table::L3Forwarding, 200, matched, actions);
    }
    for address in peer.gateway_addresses.iter().filter(|address| address.is_ipv4()) {
        let mac = Mac::VIRTUAL;
        let answer = format!(
            "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,set_field:2->arp_op,\
             move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{mac}->arp_sha,\
             move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:{address}->arp_spa,IN_PORT"
        );
        to.flow(Table::ArpResponder, 200, format!("arp,arp_tpa={address},arp_op=1"), answer);
    }
}

fn switch(subject: &Subject<'_>, to: &mut Writer) {
    let (gateway, number) = subject.gateway;
    to_port(format!("dl_dst={}", gateway.mac), number, to);
    if let Some(tunnel) = subject.tunnel {
        to_port(format!("dl_dst={}", Mac::VIRTUAL), tunnel, to);
    }
}

fn to_port(matched: String, number: u32, to: &mut Writer) {
    let next = goto(Table::IngressSecurityClassifier);
    let actions = format!("set_field:{number:#x}->reg1,{},{next}", set::TO_PORT);
    to.flow(Table::L2ForwardingCalc, 200, matched, actions);
}

fn output(subject: &Subject<'_>, to: &mut Writer) {
    let output = Table::Output;
    to.flow(output, 210, "ct_mark=0x40/0x40,reg0=0x200000/0x600000", "IN_PORT");
    to.flow(output, 200, "reg0=0x200000/0x600000", "output:NXM_NX_REG1[]");
    to.flow(output, 200, "reg0=0x4400000/0xfe600000", to_agent(subject, "01.02"));
}

/// The action by which the agent gets a packet.
pub fn to_agent(subject: &Subject<'_>, operation: &str) -> String {
    match subject.agent {
        Some(port) => format!("output:{port}"),
        None => format!("controller(reason=no_match,userdata={operation},max_len=65535)"),
    }
}
