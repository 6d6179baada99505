//! Pods reach the outside with the node's address: one nftables table of our own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use super::{HostNetworkError, HostPlan};

/// The source ports of masqueraded UDP: above Geneve's, 6081. A masquerade keeps a free source
/// port, and answers to 6081 would come back to the port that the uplink takes tunnelled packets
/// by: lost at best, and from a peer that echoes what it is sent, believed as its tunnel's.
const UDP_PORTS: &str = "6082-65535";

/// The table as nft reads it. Naming it before deleting it makes the deletion succeed when it was
/// never there; nft applies the whole text as one transaction, so there is no moment without it.
pub(super) fn ruleset(plan: &HostPlan) -> String {
    let mut text =
        String::from("table inet seine {}\ndelete table inet seine\ntable inet seine {\n");
    let mut rules = String::new();
    for (family, own) in plan.own_ranges.iter().map(|range| (family(range), range)) {
        let cluster: Vec<String> = plan
            .cluster_ranges
            .iter()
            .filter(|range| range.addr().is_ipv4() == own.addr().is_ipv4())
            .map(ToString::to_string)
            .collect();
        let leaving = format!(
            "{family} saddr {own} oifname != \"{}\" {family} daddr != {{ {} }}",
            plan.gateway,
            cluster.join(", ")
        );
        // Writing to a String cannot fail.
        let _ = writeln!(rules, "    {leaving} meta l4proto udp masquerade to :{UDP_PORTS}");
        let _ = writeln!(rules, "    {leaving} masquerade");
    }
    text.push_str("  comment \"Pods of this node leave with its address; made by seine-agent\"\n");
    text.push_str("  chain postrouting {\n");
    text.push_str("    type nat hook postrouting priority srcnat; policy accept;\n");
    text.push_str(&rules);
    text.push_str("  }\n}\n");
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
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(HostNetworkError::Nft)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(ruleset(plan).as_bytes()).map_err(HostNetworkError::Nft)?;
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
    use super::*;

    #[test]
    fn only_what_leaves_the_pod_network_is_masqueraded() {
        let plan = HostPlan {
            gateway: "seine-gw0".into(),
            mtu: 1450,
            addresses: Vec::new(),
            routes: Vec::new(),
            own_ranges: vec!["10.10.1.0/24".parse().unwrap(), "fd00:10:1::/64".parse().unwrap()],
            cluster_ranges: vec![
                "10.10.1.0/24".parse().unwrap(),
                "fd00:10:1::/64".parse().unwrap(),
                "10.10.2.0/24".parse().unwrap(),
            ],
        };
        let text = ruleset(&plan);
        assert!(text.contains(
            "ip saddr 10.10.1.0/24 oifname != \"seine-gw0\" \
             ip daddr != { 10.10.1.0/24, 10.10.2.0/24 } masquerade\n"
        ));
        assert!(text.contains(
            "ip6 saddr fd00:10:1::/64 oifname != \"seine-gw0\" \
             ip6 daddr != { fd00:10:1::/64 } masquerade\n"
        ));
        // The first rule that matches counts.
        let of_udp = text.find("meta l4proto udp masquerade to :6082-65535\n").unwrap();
        assert!(of_udp < text.find("} masquerade\n").unwrap(), "{text}");
    }
}
