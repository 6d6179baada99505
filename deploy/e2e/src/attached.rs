//! How a device is attached: read from the datapath and, without it, from the kernel.

use serde_json::Value;

use crate::counters;
use crate::failure::{Failure, Outcome, expect};
use crate::namespace::Namespace;
use crate::node::Node;
use crate::pod::Pod;
use crate::underlay::{QUEUES, UPLINK};

/// The kernel's number for XDP in the driver, in `ip -j link`.
const DRIVER_MODE: u64 = 1;

/// A Pod's port is in native mode, and the Pod still leaves checksums to its device.
pub fn check_attachment(node: &Node, pod: &Pod) -> Outcome<String> {
    let interface = &pod.attachment.host_interface;
    check_mode(node, interface, &node.ports_namespace, interface)?;
    let features = pod.namespace.run("ethtool -k eth0")?;
    let feature = |name: &str| {
        let mut lines = features.lines().filter_map(|line| line.trim().split_once(": "));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.split(' ').next() == Some("on"))
    };
    let state = |name: &str| if feature(name) == Some(true) { "on" } else { "off" };
    expect(feature("tx-checksumming") == Some(true), || {
        format!("the checksum offload of {} is off", pod.name())
    })?;
    Ok(format!(
        "native XDP, tx-checksumming on, tcp-segmentation {}, gro {}",
        state("tcp-segmentation-offload"),
        state("generic-receive-offload")
    ))
}

/// The node's uplink is in native mode.
pub fn check_uplink(node: &Node) -> Outcome<String> {
    let ports = counters::ports(node)?;
    let uplink = ports
        .iter()
        .find(|port| port.device.as_ref().is_some_and(|device| device.interface == UPLINK));
    let uplink = uplink.ok_or_else(|| Failure::Unmet("no port is on the uplink".to_owned()))?;
    check_mode(node, &uplink.name, &node.namespace, UPLINK)?;
    Ok(format!("native XDP, {QUEUES} queues"))
}

fn check_mode(node: &Node, port: &str, namespace: &Namespace, interface: &str) -> Outcome {
    let listed = node.seinectl(&["--output", "json", "port", "list"])?;
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    let told = listed_mode(&listed, port);
    expect(told.as_deref() == Some("native"), || {
        format!("`seinectl port list` tells mode {told:?} of {port}")
    })?;
    let links = namespace.ip(&format!("-d -j link show dev {interface}"))?;
    let links: Value = serde_json::from_str(&links).unwrap_or_default();
    let mode = links[0]["xdp"]["mode"].as_u64();
    expect(mode == Some(DRIVER_MODE), || {
        format!("`ip -d link` tells XDP mode {mode:?} of {interface}, and should tell 1, native")
    })?;
    let queues = links[0]["num_rx_queues"].as_u64();
    expect(queues == Some(QUEUES as u64), || {
        format!("{interface} has {queues:?} receive queues instead of {QUEUES}")
    })
}

/// The attach mode of a port in the JSON of `seinectl port list`.
fn listed_mode(listed: &Value, port: &str) -> Option<String> {
    let ports = listed.as_array().or_else(|| listed["ports"].as_array())?;
    let port = ports.iter().find(|it| it["name"] == port)?;
    Some(port["attach_mode"].as_str()?.to_owned())
}
