//! Packets to send, described in a test's words.

use crate::describe::Protocol;
use crate::packet::Checksum;

/// Changes a finished frame.
pub(super) type Edit = Box<dyn Fn(&mut Vec<u8>)>;

/// A packet to send.
pub struct Probe {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) source: Option<String>,
    pub(super) source_mac: Option<String>,
    pub(super) destination_mac: Option<String>,
    pub(super) protocol: Protocol,
    pub(super) v6: bool,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) payload_bytes: usize,
    pub(super) ttl: u8,
    pub(super) checksum: Checksum,
    pub(super) edits: Vec<Edit>,
}

/// A datagram.
pub fn udp() -> Probe {
    Probe::new(Protocol::Udp)
}

/// A SYN.
pub fn tcp() -> Probe {
    Probe::new(Protocol::Tcp)
}

/// An echo request.
pub fn ping() -> Probe {
    Probe::new(Protocol::Icmp)
}

/// A request for a MAC address: ARP, or with [`Probe::v6`] a neighbour solicitation.
pub fn who_has() -> Probe {
    Probe::new(Protocol::Arp)
}

impl Probe {
    pub(super) fn new(protocol: Protocol) -> Probe {
        Probe {
            from: String::new(),
            to: String::new(),
            source: None,
            source_mac: None,
            destination_mac: None,
            protocol,
            v6: false,
            source_port: 40000,
            destination_port: 53,
            payload_bytes: 4,
            ttl: 64,
            checksum: Checksum::Complete,
            edits: Vec::new(),
        }
    }

    /// Where it comes in: a Pod, `gateway`, or `tunnel` (then from `remote`).
    pub fn from(mut self, ingress: &str) -> Probe {
        if ingress == "tunnel" && self.source.is_none() {
            self.source = Some("remote".to_owned());
        }
        self.from = ingress.to_owned();
        self
    }

    /// Its destination: a name or an address.
    pub fn to(mut self, destination: &str) -> Probe {
        self.to = destination.to_owned();
        self
    }

    /// Its source address, if not the sender's own: a name or an address.
    pub fn source(mut self, source: &str) -> Probe {
        self.source = Some(source.to_owned());
        self
    }

    /// Its source MAC, if not the sender's own: that of a name.
    pub fn source_mac(mut self, name: &str) -> Probe {
        self.source_mac = Some(name.to_owned());
        self
    }

    /// Its destination MAC, if not the one learnt: that of a name.
    pub fn destination_mac(mut self, name: &str) -> Probe {
        self.destination_mac = Some(name.to_owned());
        self
    }

    /// In IPv6.
    pub fn v6(mut self) -> Probe {
        self.v6 = true;
        self
    }

    /// In IPv6 or not.
    pub fn in_v6(mut self, v6: bool) -> Probe {
        self.v6 = v6;
        self
    }

    /// Its destination port: 53 where nothing is said.
    pub fn port(mut self, port: u16) -> Probe {
        self.destination_port = port;
        self
    }

    /// Its source port: 40000 where nothing is said.
    pub fn source_port(mut self, port: u16) -> Probe {
        self.source_port = port;
        self
    }

    /// TTL or hop limit.
    pub fn ttl(mut self, ttl: u8) -> Probe {
        self.ttl = ttl;
        self
    }

    /// Bytes of payload.
    pub fn payload_bytes(mut self, bytes: usize) -> Probe {
        self.payload_bytes = bytes;
        self
    }

    /// What the port says about its checksum.
    pub fn checksum(mut self, checksum: Checksum) -> Probe {
        self.checksum = checksum;
        self
    }

    /// Changes the finished frame.
    pub fn edit(mut self, edit: impl Fn(&mut Vec<u8>) + 'static) -> Probe {
        self.edits.push(Box::new(edit));
        self
    }
}
