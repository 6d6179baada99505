//! The veth pair of a Pod: the host end in the namespace of ports, the other in the Pod's.
//!
//! Everything here blocks and runs on a thread of [`Namespace::run`]. The pair is born with both
//! ends where they belong, under their final names, so there is no moment at which an end stands
//! in the node's namespace. The Pod's offloads are left as they
//! are, but that a trunk puts VLAN tags into its frames itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::AttachError;
use crate::attachments::Attachment;
use crate::model::Mac;
use crate::namespace::Namespace;
use crate::netlink::{self, Netlink, NetlinkError, Route, TABLE_MAIN, VethPair};

/// The names of host ends begin with it; fourteen hexadecimal digits follow.
pub(super) const PORT_PREFIX: &str = "v";

/// Routes in Pods are made by nobody's routing daemon: RTPROT_BOOT, like `ip route add`.
const PROTOCOL_BOOT: u8 = 3;

/// The features by which an interface leaves VLAN tags to its device, in ethtool's words.
const VLAN_FEATURES: [&str; 2] = ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];

/// An address of a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAddress {
    /// With the prefix of the range it is from.
    pub address: IpNet,
    /// The way out of the range.
    pub gateway: IpAddr,
}

/// The link of a Pod.
pub(super) struct PodLink {
    pub port: String,
    pub interface: String,
    pub mac: Mac,
    pub mtu: u32,
    pub queues: u32,
    /// Whether its frames may be tagged.
    pub trunk: bool,
    pub addresses: Vec<PodAddress>,
}

/// A route in a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodRoute {
    pub destination: IpNet,
    pub gateway: IpAddr,
}

impl PodRoute {
    pub(super) fn default_through(gateway: IpAddr) -> Self {
        let destination = match gateway {
            IpAddr::V4(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        Self { destination, gateway }
    }
}

/// Whether a link in the namespace of ports can only be ours.
pub(super) fn is_port_name(name: &str) -> bool {
    name.strip_prefix(PORT_PREFIX)
        .is_some_and(|rest| rest.len() == 14 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Refuses what the kernel would refuse, and what would name another file under /proc/sys.
pub(super) fn check_interface_name(name: &str) -> Result<(), AttachError> {
    let wrong = name.is_empty()
        || name.len() > 15
        || matches!(name, "." | ".." | "lo" | "all" | "default")
        || name.bytes().any(|byte| byte == b'/' || byte == b':' || !byte.is_ascii_graphic());
    if wrong { Err(AttachError::InterfaceName(name.into())) } else { Ok(()) }
}

/// Makes the pair and everything in the Pod. Called in the namespace of ports; the thread is in
/// the Pod's when it ends. Returns the host end's MAC.
pub(super) fn make(link: &PodLink, pod: &Namespace) -> Result<Option<Mac>, AttachError> {
    let mut near = Netlink::open()?;
    pod.enter()?;
    let mut far = Netlink::open()?;
    add_veth(link, pod, &mut near, &mut far)?;

    let gone = |name: &str| AttachError::Differs(format!("the new link `{name}` is gone again"));
    let host = near.link(&link.port)?.ok_or_else(|| gone(&link.port))?;
    near.set_up(host.index, None)?;

    let own = far.link(&link.interface)?.ok_or_else(|| gone(&link.interface))?;
    if link.addresses.iter().any(|address| address.address.addr().is_ipv6()) {
        // Runtimes hand over namespaces with IPv6 off; and nobody advertises routes here whom a
        // Pod should believe.
        set(&link.interface, "disable_ipv6", "0")?;
        set(&link.interface, "accept_dad", "0")?;
        set(&link.interface, "accept_ra", "0")?;
    }
    if link.trunk {
        // The kernel would hand the tag over beside the frame, where AF_XDP does not look.
        netlink::disable_features(&link.interface, &VLAN_FEATURES)?;
    }
    raise(&mut far, "lo")?;
    far.set_up(own.index, None)?;
    for address in &link.addresses {
        far.add_address(own.index, address.address)?;
    }
    for address in &link.addresses {
        let route = PodRoute::default_through(address.gateway);
        far.replace_route(&Route {
            destination: route.destination,
            gateway: Some(route.gateway),
            interface: own.index,
            source: None,
            on_link: false,
            protocol: PROTOCOL_BOOT,
            table: TABLE_MAIN,
        })?;
    }
    Ok(host.mac)
}

/// Sets the loopback up in the calling thread's namespace: all of the kernel's network that a Pod
/// without an interface has.
pub(super) fn raise_loopback() -> Result<(), AttachError> {
    Ok(raise(&mut Netlink::open()?, "lo")?)
}

fn raise(netlink: &mut Netlink, interface: &str) -> Result<(), NetlinkError> {
    match netlink.link(interface)? {
        Some(link) => netlink.set_up(link.index, None),
        None => Ok(()),
    }
}

fn add_veth(
    link: &PodLink,
    pod: &Namespace,
    near: &mut Netlink,
    far: &mut Netlink,
) -> Result<(), AttachError> {
    let pair = VethPair {
        name: &link.port,
        peer_name: &link.interface,
        peer_namespace: pod,
        peer_mac: link.mac,
        mtu: link.mtu,
        queues: link.queues,
    };
    match near.add_veth(&pair) {
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            if far.link(&link.interface)?.is_some() {
                return Err(AttachError::InterfaceExists(link.interface.clone()));
            }
            // A host end of that name without a record is what a crash has left.
            near.delete_link(&link.port)?;
            Ok(near.add_veth(&pair)?)
        }
        result => Ok(result?),
    }
}

/// Writes one IPv6 setting of an interface in the calling thread's namespace.
fn set(interface: &str, setting: &str, value: &'static str) -> Result<(), AttachError> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/{setting}");
    std::fs::write(&path, value).map_err(|source| AttachError::Setting { path, value, source })
}

/// Deletes a host end, and with it the Pod's end. One that is not there is a success.
pub(super) fn delete(port: &str) -> Result<(), NetlinkError> {
    Netlink::open()?.delete_link(port).map(|_| ())
}

/// The host ends that are ours.
pub(super) fn host_ends() -> Result<Vec<String>, NetlinkError> {
    let links = Netlink::open()?.links()?;
    Ok(links.into_iter().map(|link| link.name).filter(|name| is_port_name(name)).collect())
}

/// Whether an interface is there.
pub(super) fn exists(interface: &str) -> Result<bool, NetlinkError> {
    Ok(Netlink::open()?.link(interface)?.is_some())
}

/// What a CHECK compares the Pod's interface with.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The MAC of the runtime's last result: a later plugin may have changed it.
    pub mac: Option<Mac>,
    /// All of these, with their prefixes.
    pub addresses: Vec<IpNet>,
    /// All of these, with their gateways where one is named.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

impl Expected {
    /// Adds what our own record says.
    pub(super) fn with(mut self, attachment: &Attachment) -> Self {
        self.addresses.extend(&attachment.addresses);
        self.mac = self.mac.or(Some(attachment.mac));
        self
    }

    /// Compares with our own record alone: the Pod has no interface that could differ.
    pub(super) fn compare_record(&self, attachment: &Attachment) -> Result<(), AttachError> {
        let interface = &attachment.key.interface;
        if self.mac != Some(attachment.mac) {
            let differs = format!("the MAC of {interface} is {}", attachment.mac);
            return Err(AttachError::Differs(differs));
        }
        match self.addresses.iter().find(|it| !attachment.addresses.contains(it)) {
            Some(wanted) => {
                Err(AttachError::Differs(format!("{interface} has no address {wanted}")))
            }
            None => Ok(()),
        }
    }
}

/// Compares an interface of the calling thread's namespace with what is expected. More addresses
/// and routes than expected are none of our business.
pub(super) fn compare(interface: &str, expected: &Expected) -> Result<(), AttachError> {
    let differs = |what: String| Err(AttachError::Differs(what));
    let mut netlink = Netlink::open()?;
    let Some(link) = netlink.link(interface)? else {
        return differs(format!("the interface {interface} is gone"));
    };
    if !link.up {
        return differs(format!("the interface {interface} is down"));
    }
    if expected.mac.is_some() && link.mac != expected.mac {
        return differs(format!("the MAC of {interface} is {:?}", link.mac));
    }
    let addresses = netlink.addresses(link.index)?;
    for wanted in &expected.addresses {
        if !addresses.contains(wanted) {
            return differs(format!("{interface} has no address {wanted}"));
        }
    }
    let routes = netlink.routes()?;
    for (destination, gateway) in &expected.routes {
        let found = routes.iter().any(|route| {
            route.destination == *destination
                && route.interface == link.index
                && (gateway.is_none() || route.gateway == *gateway)
        });
        if !found {
            return differs(format!("{interface} has no route to {destination}"));
        }
    }
    Ok(())
}

/// Whether the host end is there and up, in the calling thread's namespace.
pub(super) fn compare_host_end(port: &str) -> Result<(), AttachError> {
    match Netlink::open()?.link(port)? {
        Some(link) if link.up => Ok(()),
        Some(_) => Err(AttachError::Differs(format!("the host end {port} is down"))),
        None => Err(AttachError::Differs(format!("the host end {port} is gone"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_interface_are_refused() {
        for wrong in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx", "lo", "all", "ä"] {
            assert!(check_interface_name(wrong).is_err(), "{wrong}");
        }
        assert!(check_interface_name("eth0.100").is_ok());
    }
}
