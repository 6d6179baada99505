//! Addresses that the node's kernel translates, in one nftables table of our own: Pods reach the
//! outside with the node's address, and NodePorts lead to an address that the pipeline knows.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use super::services::{virtual_node_port, virtual_service};
use super::{HostNetworkError, HostPlan};

/// Takes the table away, whether it is there or not.
const REMOVAL: &str = "table inet seine {}\ndelete table inet seine\n";

/// The source ports of masqueraded UDP: above Geneve's, 6081. A masquerade keeps a free source
/// port, and answers to 6081 would come back to the port that the uplink takes tunnelled packets
/// by: lost at best, and from a peer that echoes what it is sent, believed as its tunnel's.
const UDP_PORTS: &str = "6082-65535";

/// The table as nft reads it. Naming it before deleting it makes the deletion succeed when it was
/// never there; nft applies the whole text as one transaction, so there is no moment without it.
pub(super) fn ruleset(plan: &HostPlan) -> String {
    let mut text = format!("{REMOVAL}table inet seine {{\n");
    text.push_str(
        "  comment \"Pods leave with the node's address, NodePorts lead to Pods; \
                   made by seine-agent\"\n",
    );
    text.push_str(&node_ports(plan));
    text.push_str("  chain postrouting {\n");
    text.push_str("    type nat hook postrouting priority srcnat; policy accept;\n");
    text.push_str(&masquerades(plan));
    text.push_str("  }\n}\n");
    text
}

/// The legs, as nft reads a set of them.
fn legs(plan: &HostPlan) -> String {
    let quoted: Vec<String> = plan.legs().map(|name| format!("\"{name}\"")).collect();
    format!("{{ {} }}", quoted.join(", "))
}

/// Who leaves with the node's address: Pods of this node to the outside, and the pipeline's virtual
/// address for Services whose endpoint is outside. Clients of Services keep theirs.
fn masquerades(plan: &HostPlan) -> String {
    let (mut rules, legs) = (String::new(), legs(plan));
    for (family, own) in plan.own_ranges.iter().map(|range| (family(range), range)) {
        let cluster: Vec<String> = plan
            .cluster_ranges
            .iter()
            .filter(|range| range.addr().is_ipv4() == own.addr().is_ipv4())
            .map(ToString::to_string)
            .collect();
        let outside = format!("{family} daddr != {{ {} }}", cluster.join(", "));
        let mut senders = vec![format!("{own} oifname != {legs} {outside}")];
        if !plan.services.is_empty() {
            let between = virtual_service(own.addr().is_ipv6());
            senders.push(format!("{between} oifname != {legs}"));
        }
        // Writing to a String cannot fail.
        for leaving in senders {
            let leaving = format!("{family} saddr {leaving}");
            let _ = writeln!(rules, "    {leaving} meta l4proto udp masquerade to :{UDP_PORTS}");
            let _ = writeln!(rules, "    {leaving} masquerade");
        }
    }
    rules
}

/// Translates the node's addresses at NodePorts, for outsiders and for the node itself; Pods meet
/// NodePorts in the pipeline.
fn node_ports(plan: &HostPlan) -> String {
    let (services, legs) = (&plan.services, legs(plan));
    let mut rules = Vec::new();
    for v6 in plan.own_ranges.iter().map(|range| range.addr().is_ipv6()) {
        let (family, addresses) = (if v6 { "ip6" } else { "ip" }, services.node_addresses(v6));
        if !addresses.is_empty() {
            let (addresses, target) = (addresses.join(", "), virtual_node_port(v6));
            rules.push(format!(
                "{family} daddr {{ {addresses} }} meta l4proto . th dport @node_ports \
                 dnat {family} to {target}"
            ));
        }
    }
    if services.node_ports.is_empty() || rules.is_empty() {
        return String::new();
    }
    let ports: Vec<String> =
        services.node_ports.iter().map(|(protocol, port)| format!("{protocol} . {port}")).collect();
    let mut text = String::from("  set node_ports {\n    type inet_proto . inet_service;\n");
    let _ = writeln!(text, "    elements = {{ {} }}\n  }}", ports.join(", "));
    for (chain, from) in [("prerouting", format!("iifname != {legs} ")), ("output", String::new())]
    {
        let _ = writeln!(text, "  chain {chain} {{");
        let _ = writeln!(text, "    type nat hook {chain} priority -100; policy accept;");
        for rule in &rules {
            let _ = writeln!(text, "    {from}{rule}");
        }
        text.push_str("  }\n");
    }
    text
}

fn family(range: &IpNet) -> &'static str {
    match range {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

/// Replaces the table, in the calling thread's namespace.
pub(super) fn replace(nft: &Path, plan: &HostPlan) -> Result<(), HostNetworkError> {
    run(nft, &ruleset(plan))
}

/// Removes the table. One that is not there is a success.
pub(super) fn remove(nft: &Path) -> Result<(), HostNetworkError> {
    run(nft, REMOVAL)
}

fn run(nft: &Path, text: &str) -> Result<(), HostNetworkError> {
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HostNetworkError::Nft)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(HostNetworkError::Nft)?;
    }
    let output = child.wait_with_output().map_err(HostNetworkError::Nft)?;
    if output.status.success() {
        return Ok(());
    }
    Err(HostNetworkError::NftRefused(String::from_utf8_lossy(&output.stderr).trim().into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use seine_datapath_api::v1::node::EncapMode;

    use super::*;
    use crate::host_network::ServicePlan;

    fn plan(services: ServicePlan) -> HostPlan {
        HostPlan {
            gateway: "seine-gw0".into(),
            host: Some("seine-host0".into()),
            mtu: 1450,
            addresses: Vec::new(),
            encap_mode: EncapMode::Encap,
            routes: Vec::new(),
            held: Vec::new(),
            services,
            own_ranges: vec!["10.10.1.0/24".parse().unwrap(), "fd00:10:1::/64".parse().unwrap()],
            cluster_ranges: vec![
                "10.10.1.0/24".parse().unwrap(),
                "fd00:10:1::/64".parse().unwrap(),
                "10.10.2.0/24".parse().unwrap(),
            ],
        }
    }

    #[test]
    fn only_what_leaves_the_pod_network_is_masqueraded() {
        let text = ruleset(&plan(ServicePlan::default()));
        assert!(text.contains(
            "ip saddr 10.10.1.0/24 oifname != { \"seine-gw0\", \"seine-host0\" } \
             ip daddr != { 10.10.1.0/24, 10.10.2.0/24 } masquerade\n"
        ));
        assert!(text.contains(
            "ip6 saddr fd00:10:1::/64 oifname != { \"seine-gw0\", \"seine-host0\" } \
             ip6 daddr != { fd00:10:1::/64 } masquerade\n"
        ));
        // The first rule that matches counts.
        let of_udp = text.find("meta l4proto udp masquerade to :6082-65535\n").unwrap();
        assert!(of_udp < text.find("} masquerade\n").unwrap(), "{text}");
        assert!(!text.contains("169.254") && !text.contains("dnat"), "{text}");
    }

    #[test]
    fn node_ports_lead_to_the_virtual_address_for_outsiders_and_the_node() {
        let services = ServicePlan {
            node_ports: [(6, 30080), (17, 30053)].into(),
            node_addresses: vec!["192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            ..ServicePlan::default()
        };
        let text = ruleset(&plan(services));
        assert!(text.contains("elements = { 6 . 30080, 17 . 30053 }"), "{text}");
        let rule = "ip daddr { 192.0.2.1 } meta l4proto . th dport @node_ports \
                    dnat ip to 169.254.0.252\n";
        assert_eq!(text.matches(rule).count(), 2, "{text}");
        assert!(text.contains("ip saddr 169.254.0.253 oifname"), "{text}");
    }
}
