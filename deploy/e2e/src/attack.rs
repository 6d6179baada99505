//! What a hostile Pod tries, as frames on its own wire.
//!
//! The same list is tried on a plain Linux bridge, where each must succeed, and on Seine, where
//! none may: an attack that reaches nobody anywhere would prove nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::failure::Outcome;
use crate::frames::{self, BROADCAST, Mac, Marker};
use crate::namespace::Namespace;
use crate::raw::{RawSocket, Watch};

/// A host on the wire.
#[derive(Clone, Debug)]
pub struct Host {
    /// Where its `eth0` is.
    pub namespace: Namespace,
    /// Of its `eth0`.
    pub mac: Mac,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
}

/// The tunnel between the nodes, which a Pod may try to speak itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// Seine's.
    Geneve,
    /// The kernel's, for the plain bridge: this kernel has no Geneve.
    Vxlan,
}

/// Where attacks are tried.
#[derive(Clone, Debug)]
pub struct Field {
    /// Who tries.
    pub hostile: Host,
    /// A Pod of the same node, which may not be reached under a false name.
    pub near: Host,
    /// A Pod of the other node.
    pub far: Host,
    /// The node's MAC as the hostile Pod knows it.
    pub gateway: Mac,
    /// The node's own address on the Pod network.
    pub gateway_v4: Ipv4Addr,
    /// Underlay addresses of the hostile Pod's node, and of the other.
    pub nodes: [Ipv4Addr; 2],
    /// What the nodes speak.
    pub tunnel: Tunnel,
}

/// One thing that is tried.
#[derive(Clone, Copy)]
pub struct Attack {
    /// What it is, in words.
    pub name: &'static str,
    frames: fn(&Field, Marker) -> Vec<Vec<u8>>,
}

/// A MAC that no host has.
const FALSE_MAC: Mac = [0x02, 0xde, 0xad, 0, 0, 1];
/// Long enough for a frame to arrive wherever it can; nothing here queues for longer.
const SETTLE: Duration = Duration::from_millis(120);

/// All of them.
pub const ATTACKS: [Attack; 14] = [
    Attack {
        name: "a raw frame to the neighbour's MAC",
        frames: |f, m| vec![frames::raw(f.near.mac, f.hostile.mac, m)],
    },
    Attack {
        name: "a raw frame to everybody",
        frames: |f, m| vec![frames::raw(BROADCAST, f.hostile.mac, m)],
    },
    Attack {
        name: "IPv4 from a false MAC",
        frames: |f, m| udp4(f, FALSE_MAC, f.hostile.v4, f.near.v4, m),
    },
    Attack {
        name: "IPv4 from the node's MAC",
        frames: |f, m| udp4(f, f.gateway, f.hostile.v4, f.near.v4, m),
    },
    Attack {
        name: "IPv4 from another Pod's address",
        frames: |f, m| udp4(f, f.hostile.mac, f.far.v4, f.near.v4, m),
    },
    Attack {
        name: "IPv4 from the gateway's address",
        frames: |f, m| udp4(f, f.hostile.mac, f.gateway_v4, f.near.v4, m),
    },
    Attack {
        name: "IPv6 from another Pod's address",
        frames: |f, m| {
            let (source, target) = (IpAddr::V6(f.far.v6), IpAddr::V6(f.near.v6));
            towards(f, |to| frames::udp(to, f.hostile.mac, source, target, m))
        },
    },
    Attack {
        name: "an ARP answer that claims the gateway's address",
        frames: |f, m| {
            let (own, near) = (f.hostile.mac, &f.near);
            vec![frames::arp(near.mac, own, 2, (own, f.gateway_v4), (near.mac, near.v4), m)]
        },
    },
    Attack {
        name: "an ARP request in another Pod's name",
        frames: |f, m| {
            let own = f.hostile.mac;
            vec![frames::arp(BROADCAST, own, 1, (own, f.far.v4), ([0; 6], f.near.v4), m)]
        },
    },
    Attack {
        name: "a neighbour advertisement for another Pod's address",
        frames: |f, m| {
            let (own, near, claim) = (f.hostile.mac, &f.near, (f.far.v6, f.hostile.mac));
            let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let group = [0x33, 0x33, 0, 0, 0, 1];
            let from = |source: Ipv6Addr| {
                [(near.mac, near.v6), (group, everybody)].map(|(to, destination)| {
                    frames::neighbor_advertisement(to, own, source, destination, claim, m)
                })
            };
            [from(f.far.v6), from(f.hostile.v6)].concat()
        },
    },
    Attack {
        name: "a frame with a VLAN tag",
        frames: |f, m| {
            let inner = udp4(f, f.hostile.mac, f.hostile.v4, f.near.v4, m);
            inner.iter().map(|frame| frames::tagged(frame, 7)).collect()
        },
    },
    Attack {
        name: "a frame with a priority tag",
        frames: |f, m| {
            let inner = udp4(f, f.hostile.mac, f.hostile.v4, f.near.v4, m);
            inner.iter().map(|frame| frames::tagged(frame, 0)).collect()
        },
    },
    Attack {
        name: "a tunnel packet to its own node, with a false Pod inside",
        frames: |f, m| vec![tunnelled(f, f.nodes[0], &f.near, f.far.v4, m)],
    },
    Attack {
        name: "a tunnel packet to the other node, with a false Pod inside",
        frames: |f, m| vec![tunnelled(f, f.nodes[1], &f.far, f.near.v4, m)],
    },
];

impl Attack {
    /// Tries it; how many frames reached another Pod.
    pub fn reaches(&self, field: &Field, number: u8) -> Outcome<u64> {
        let marker = Marker::new(number);
        let watches = [
            Watch::start(&field.near.namespace, "eth0", marker)?,
            Watch::start(&field.far.namespace, "eth0", marker)?,
        ];
        let wire = RawSocket::open(&field.hostile.namespace, "eth0")?;
        for frame in (self.frames)(field, marker) {
            // Thrice: a first packet may be lost while somebody asks for a neighbour.
            for _ in 0..3 {
                wire.send(&frame)?;
            }
        }
        std::thread::sleep(SETTLE);
        Ok(watches.iter().map(Watch::seen).sum())
    }
}

/// An IPv4 packet by way of the node, and straight to the neighbour.
fn udp4(
    field: &Field,
    from: Mac,
    source: Ipv4Addr,
    target: Ipv4Addr,
    marker: Marker,
) -> Vec<Vec<u8>> {
    let (source, target) = (IpAddr::V4(source), IpAddr::V4(target));
    towards(field, |to| frames::udp(to, from, source, target, marker))
}

fn towards(field: &Field, frame: impl Fn(Mac) -> Vec<u8>) -> Vec<Vec<u8>> {
    [field.gateway, field.near.mac].into_iter().map(frame).collect()
}

/// A packet from `pretended` to `target`, wrapped as the other node would, sent to `node`.
fn tunnelled(
    field: &Field,
    node: Ipv4Addr,
    target: &Host,
    pretended: Ipv4Addr,
    marker: Marker,
) -> Vec<u8> {
    let inner = frames::udp(
        field.tunnel.inner_mac(target.mac),
        FALSE_MAC,
        pretended.into(),
        target.v4.into(),
        marker,
    );
    let own = (IpAddr::V4(field.hostile.v4), 50_000);
    let to = (IpAddr::V4(node), field.tunnel.port());
    let payload = field.tunnel.wrap(&inner);
    frames::udp_with(field.gateway, field.hostile.mac, own, to, &payload)
}

impl Tunnel {
    /// Its UDP port.
    pub fn port(self) -> u16 {
        match self {
            Tunnel::Geneve => 6081,
            Tunnel::Vxlan => 4789,
        }
    }

    /// The destination of the frame inside, for one that is `owner`'s.
    pub fn inner_mac(self, owner: Mac) -> Mac {
        match self {
            // Antrea's word for "the node over there".
            Tunnel::Geneve => [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff],
            Tunnel::Vxlan => owner,
        }
    }

    /// Its header and the frame.
    pub fn wrap(self, frame: &[u8]) -> Vec<u8> {
        let mut payload = match self {
            // Version 0, no options, protocol Ethernet, network 0.
            Tunnel::Geneve => vec![0, 0, 0x65, 0x58, 0, 0, 0, 0],
            // Network identifier present: 1.
            Tunnel::Vxlan => vec![8, 0, 0, 0, 0, 0, 1, 0],
        };
        payload.extend(frame);
        payload
    }
}
