//! One network interface, as the kernel describes it: read once when a port opens.

#![allow(unsafe_code, reason = "the ethtool ioctl for queues in use has no safe wrapper")]

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use seine_pipeline::address::Mac;

use super::open::{AttachMode, OpenError};

/// An interface in the calling thread's network namespace.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its address.
    pub mac: Mac,
    /// Bytes, without the Ethernet header.
    pub mtu: usize,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether somebody is at the far end; for a tap, whether a process has it open.
    pub carrier: bool,
    /// Queues in use in both directions.
    pub queues: usize,
    /// How an XDP program is attached.
    pub attach_mode: AttachMode,
    /// The id of the program attached; 0 for none.
    pub program: u32,
}

impl Interface {
    /// Reads it.
    pub fn read(name: &str) -> Result<Interface, OpenError> {
        let failed = |source| OpenError::ReadInterface { interface: name.to_owned(), source };
        let link = match request(name) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                return Err(OpenError::NoSuchInterface(name.to_owned()));
            }
            answer => answer.map_err(failed)?,
        };
        let mut interface = Interface {
            name: name.to_owned(),
            index: link.header.index,
            mac: Mac::default(),
            mtu: 0,
            up: link.header.flags.contains(LinkFlags::Up),
            carrier: false,
            queues: 0,
            attach_mode: AttachMode::None,
            program: 0,
        };
        let (mut receive, mut transmit) = (1, 1);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    let other = io::Error::other("it is not an Ethernet device");
                    interface.mac = Mac(bytes.try_into().map_err(|_| failed(other))?);
                }
                LinkAttribute::Mtu(mtu) => interface.mtu = mtu as usize,
                LinkAttribute::Carrier(carrier) => interface.carrier = carrier != 0,
                LinkAttribute::NumRxQueues(count) => receive = count as usize,
                LinkAttribute::NumTxQueues(count) => transmit = count as usize,
                LinkAttribute::Xdp(facts) => interface.read_xdp(&facts),
                _ => {}
            }
        }
        interface.queues = queues_in_use(name).map_err(failed)?.unwrap_or(receive.min(transmit));
        Ok(interface)
    }

    fn read_xdp(&mut self, facts: &[LinkXdp]) {
        for fact in facts {
            match fact {
                LinkXdp::Attached(XdpAttached::Driver) => self.attach_mode = AttachMode::Native,
                LinkXdp::Attached(XdpAttached::SocketBuffer) => {
                    self.attach_mode = AttachMode::Generic;
                }
                LinkXdp::Attached(XdpAttached::Hardware) => {
                    self.attach_mode = AttachMode::Offloaded;
                }
                LinkXdp::ProgId(program) => self.program = *program,
                _ => {}
            }
        }
    }
}

/// Asks for one link by name.
fn request(name: &str) -> io::Result<LinkMessage> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    // Without statistics the answer is shorter.
    link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(link));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::other(error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("unexpected netlink answer {other:?}"))),
    }
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    receive_max: u32,
    transmit_max: u32,
    other_max: u32,
    combined_max: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// Netlink reports the queues that were allocated; this asks for those in use. `None` when the
/// driver has no say in it.
fn queues_in_use(name: &str) -> io::Result<Option<usize>> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    // SAFETY: an all-zero `ifreq` is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *target = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut channels).cast();
    // SAFETY: SIOCETHTOOL reads an `ifreq`, and with this command writes one `ethtool_channels`
    // where it points to; both live until the call returns.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if answer == 0 {
        let pairs = channels.combined + channels.receive.min(channels.transmit);
        return Ok(Some(pairs as usize));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = Interface::read("seine-nobody").expect_err("there is none");
        assert_eq!(error.to_string(), "no interface `seine-nobody` in this network namespace");
    }

    #[test]
    fn the_loopback_interface_is_read() {
        let interface = Interface::read("lo").expect("lo");
        assert_eq!((interface.index, interface.attach_mode), (1, AttachMode::None));
        assert_eq!(interface.queues, 1);
    }
}
