//! A Pod's driver in user space: DPDK's testpmd, between the Pod's socket and a tap in its
//! namespace.
//!
//! So what speaks is an ordinary kernel, and every packet of it has gone through virtio rings.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::node::Node;
use crate::pod::Pod;

/// The tap's name in the Pod's namespace.
pub const TAP: &str = "nf0";

/// Who listens at the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listens {
    /// The datapath.
    Datapath,
    /// testpmd itself.
    FrontEnd,
}

/// The socket that the CNI result of a Pod names.
pub fn socket(pod: &Pod) -> Outcome<PathBuf> {
    let interfaces = pod.attachment.result["interfaces"].as_array();
    let path = interfaces.into_iter().flatten().find_map(|it| it["socketPath"].as_str());
    let path = path.ok_or_else(|| Failure::Unmet(format!("{} has no socket", pod.name())))?;
    Ok(path.into())
}

/// Starts it for an attached Pod, and gives the tap the Pod's addresses and routes.
pub fn start(node: &Node, pod: &Pod, listens: Listens) -> Outcome<Daemon> {
    let (socket, mac) = (socket(pod)?, &pod.attachment.mac);
    let server = if listens == Listens::FrontEnd { ",server=1" } else { "" };
    let guest =
        format!("net_virtio_user0,path={},mac={mac},queue_size=256{server}", { socket.display() });
    let mut command: Command = pod.namespace.command("dpdk-testpmd");
    // Without huge pages its memory is a memfd, which the datapath takes as well.
    command
        .args(["--no-pci", "--no-huge", "-m", "256", "--no-telemetry", "-l", "0,1"])
        .arg(format!("--file-prefix={}", pod.namespace.name()))
        .args(["--vdev", &guest, "--vdev", &format!("net_tap0,iface={TAP},mac={mac}"), "--"])
        .args(["--forward-mode=io", "--auto-start", "--total-num-mbufs=4096"])
        // Else it ends when there is nobody at its standard input.
        .arg("--stats-period=600");
    let mut daemon =
        Daemon::start(&node.journal, "testpmd", &mut command, &node.file("testpmd.log"))?;
    let tap = Path::new(TAP);
    daemon.until("its tap is there", || pod.namespace.ip(&format!("link show {TAP}")).is_ok())?;
    address(pod).map_err(|error| Failure::Unmet(format!("{}: {error}", tap.display())))?;
    Ok(daemon)
}

fn address(pod: &Pod) -> Outcome {
    pod.namespace.set(&format!("ipv6/conf/{TAP}/accept_dad"), "0")?;
    let mtu = pod.attachment.result["interfaces"][0]["mtu"].as_u64().unwrap_or_default();
    pod.namespace.ip(&format!("link set {TAP} mtu {mtu} up"))?;
    let ips = pod.attachment.result["ips"].as_array().cloned().unwrap_or_default();
    for ip in ips {
        let text = |key: &str| ip[key].as_str().unwrap_or_default().to_owned();
        let (address, gateway) = (text("address"), text("gateway"));
        let is_v6 = gateway.parse::<IpAddr>().is_ok_and(|it| it.is_ipv6());
        let family = if is_v6 { "-6" } else { "-4" };
        pod.namespace.ip(&format!("addr add {address} dev {TAP}"))?;
        pod.namespace.ip(&format!("{family} route add default via {gateway} dev {TAP}"))?;
    }
    Ok(())
}
