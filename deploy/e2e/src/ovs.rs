//! A node whose datapath is Open vSwitch's own in user space: a judge from outside.
//!
//! It joins the cluster as any node does, by a Node manifest, and speaks Geneve with ours. Its
//! processes, sockets and database live in the run's directory; nothing of an Open vSwitch that
//! the machine may have is touched. As the manual's "Userspace tunneling" wants it, the underlay
//! address sits on a bridge of its own, `br-phy`, that holds the uplink.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::journal::Journal;
use crate::manifest::NodeManifest;
use crate::namespace::{Namespace, output};
use crate::underlay::{UPLINK, Underlay};

/// MAC of the peer's Pod as its own switch knows it.
const POD_MAC: &str = "02:00:00:00:0f:02";
/// MAC of the peer's gateway, which answers for all that is beyond its node.
const GATEWAY_MAC: &str = "02:00:00:00:0f:01";
/// What Antrea's nodes, and ours, put as the destination inside a tunnel: "the node over there".
const VIRTUAL_MAC: &str = "aa:bb:cc:dd:ee:ff";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A running Open vSwitch node with one Pod.
#[derive(Debug)]
pub struct OvsNode {
    /// Its network.
    pub namespace: Namespace,
    /// Its Pod's network.
    pub pod: Namespace,
    /// The Pod's addresses: the third host of each range.
    pub addresses: Vec<IpAddr>,
    directory: PathBuf,
    daemons: Vec<Daemon>,
}

impl OvsNode {
    /// Brings it up as `manifest` says, with tunnels to `peers`.
    pub fn start(
        journal: &Journal,
        underlay: &Underlay,
        manifest: &NodeManifest,
        peers: &[&NodeManifest],
    ) -> Outcome<OvsNode> {
        let namespace = Namespace::create(journal, &manifest.name)?;
        underlay.join(&namespace, &manifest.name, &[])?;
        let directory = journal.directory().join(&manifest.name);
        std::fs::create_dir_all(&directory).map_err(Failure::io("create", &directory))?;
        let pod = Namespace::create(journal, &format!("{}-pod", manifest.name))?;
        let hosts = manifest.pod_cidrs.iter().filter_map(|range| range.hosts().nth(2));
        let addresses: Vec<IpAddr> = hosts.collect();
        let mut node = OvsNode { namespace, pod, addresses, directory, daemons: Vec::new() };
        node.start_daemons(journal)?;
        node.connect_underlay(manifest)?;
        node.connect_pod(manifest)?;
        node.connect_peers(peers)?;
        Ok(node)
    }

    fn start_daemons(&mut self, journal: &Journal) -> Outcome {
        let database = self.directory.join("conf.db");
        output(Command::new("ovsdb-tool").arg("create").arg(&database).arg(SCHEMA))?;
        let log = self.directory.join("ovs.log");
        let socket = self.directory.join("db.sock");
        let control = |name: &str| format!("--unixctl={}", self.directory.join(name).display());
        let mut server = self.namespace.command("ovsdb-server");
        server.arg(&database).arg(format!("--remote=punix:{}", socket.display()));
        server.arg(control("ovsdb.ctl")).env("OVS_RUNDIR", &self.directory);
        let mut ovsdb = Daemon::start(journal, "ovsdb-server", &mut server, &log)?;
        ovsdb.until("its socket is there", || socket.exists())?;
        self.vsctl(&["--no-wait", "init"])?;
        let mut switch = self.namespace.command("ovs-vswitchd");
        switch.arg(format!("unix:{}", socket.display())).arg(control("vswitchd.ctl"));
        // Without the system interface it leaves the kernel's own datapath, if any, alone.
        switch.arg("--disable-system").env("OVS_RUNDIR", &self.directory);
        let vswitchd = Daemon::start(journal, "ovs-vswitchd", &mut switch, &log)?;
        self.daemons = vec![vswitchd, ovsdb];
        Ok(())
    }

    /// The uplink into `br-phy`, and the node's underlay address onto that bridge.
    fn connect_underlay(&self, manifest: &NodeManifest) -> Outcome {
        let link = self.namespace.ip(&format!("-o link show dev {UPLINK}"))?;
        let mut words = link.split_whitespace().skip_while(|word| *word != "link/ether");
        let mac = words.nth(1).ok_or_else(|| Failure::Unmet(format!("no MAC in `{link}`")))?;
        self.add_bridge("br-phy", mac)?;
        self.vsctl(&["add-port", "br-phy", UPLINK])?;
        for address in &manifest.addresses {
            let (length, word) = if address.is_ipv6() { (64, " nodad") } else { (24, "") };
            self.namespace.ip(&format!("addr add {address}/{length} dev br-phy{word}"))?;
        }
        self.namespace.ip("link set br-phy up")?;
        Ok(())
    }

    /// The Pod, whose default route is a gateway that `br-int` answers ARP for by a static entry.
    fn connect_pod(&self, manifest: &NodeManifest) -> Outcome {
        self.add_bridge("br-int", GATEWAY_MAC)?;
        self.namespace.ip(&format!(
            "link add pod0 type veth peer name eth0 address {POD_MAC} mtu 1450 netns {}",
            self.pod.name()
        ))?;
        self.namespace.ip("link set pod0 up")?;
        self.vsctl(&["add-port", "br-int", "pod0"])?;
        // It computes no checksum for a frame that arrives without one.
        self.pod.run("ethtool -K eth0 tx off")?;
        self.pod.ip("link set eth0 up")?;
        for (address, range) in self.addresses.iter().zip(&manifest.pod_cidrs) {
            let word = if address.is_ipv6() { " nodad" } else { "" };
            self.pod.ip(&format!("addr add {address}/{} dev eth0{word}", range.prefix_len()))?;
            if let Some(gateway) = range.hosts().nth(1) {
                self.pod.ip(&format!(
                    "neigh add {gateway} lladdr {GATEWAY_MAC} dev eth0 nud permanent"
                ))?;
                self.pod.ip(&format!("route add default via {gateway}"))?;
            }
        }
        Ok(())
    }

    /// A tunnel to each peer; what leaves goes by range, what arrives goes to the Pod.
    fn connect_peers(&self, peers: &[&NodeManifest]) -> Outcome {
        self.ofctl(&["del-flows", "br-int"])?;
        for (index, peer) in peers.iter().enumerate() {
            let (port, number) = (format!("gnv{index}"), (100 + index).to_string());
            let Some(remote) = peer.addresses.first() else { continue };
            self.vsctl(&[
                "add-port",
                "br-int",
                &port,
                "--",
                "set",
                "interface",
                &port,
                "type=geneve",
                &format!("options:remote_ip=\"{remote}\""),
                "options:key=0",
                "options:csum=false",
                &format!("ofport_request={number}"),
            ])?;
            for range in &peer.pod_cidrs {
                let (kind, field) =
                    if range.addr().is_ipv6() { ("ipv6", "ipv6_dst") } else { ("ip", "nw_dst") };
                let flow = format!(
                    "priority=100,{kind},{field}={range},actions=mod_dl_dst:{VIRTUAL_MAC},output:{number}"
                );
                self.ofctl(&["add-flow", "br-int", &flow])?;
            }
            let to_pod = format!(
                "priority=200,in_port={number},actions=mod_dl_dst:{POD_MAC},mod_dl_src:{GATEWAY_MAC},output:pod0"
            );
            self.ofctl(&["add-flow", "br-int", &to_pod])?;
        }
        Ok(())
    }

    fn add_bridge(&self, name: &str, mac: &str) -> Outcome {
        self.vsctl(&[
            "--may-exist",
            "add-br",
            name,
            "--",
            "set",
            "bridge",
            name,
            "datapath_type=netdev",
            &format!("other-config:hwaddr=\"{mac}\""),
            "fail-mode=standalone",
        ])?;
        self.namespace.ip(&format!("link set {name} up"))?;
        Ok(())
    }

    fn vsctl(&self, words: &[&str]) -> Outcome<String> {
        let database = format!("--db=unix:{}", self.directory.join("db.sock").display());
        let mut command = self.namespace.command("ovs-vsctl");
        output(command.arg("--timeout=10").arg(database).args(words))
    }

    fn ofctl(&self, words: &[&str]) -> Outcome<String> {
        let mut command = self.namespace.command("ovs-ofctl");
        output(command.env("OVS_RUNDIR", &self.directory).args(words))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::cases::{Underlay as Kind, node};
    use crate::daemon::until;
    use crate::journal::remove_run;
    use crate::measure::pings;

    /// Removes the run also when the test fails.
    struct Removed(String);

    impl Drop for Removed {
        fn drop(&mut self) {
            remove_run(&self.0).unwrap();
        }
    }

    #[test]
    #[ignore = "needs CAP_NET_ADMIN"]
    fn two_open_vswitch_nodes_reach_each_other_so_the_judge_is_sound() {
        let run = Removed(format!("o{}", std::process::id()));
        let journal = Journal::create(&run.0).unwrap();
        let underlay = Underlay::create(&journal).unwrap();
        let (eight, nine) = (node(8, Kind::Ipv4), node(9, Kind::Ipv4));
        let one = OvsNode::start(&journal, &underlay, &eight, &[&nine]).unwrap();
        let two = OvsNode::start(&journal, &underlay, &nine, &[&eight]).unwrap();
        for address in two.addresses.iter().copied() {
            until("they reach each other", 10, || pings(&one.pod, address)).unwrap();
        }
    }
}
