//! Neighbour discovery messages (RFC 4861), which are ICMPv6.

use std::net::Ipv6Addr;

use super::{bytes_at, put};
use crate::address::Mac;

/// Router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// Neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Redirect.
pub const REDIRECT: u8 = 137;

/// Bytes of a solicitation or advertisement without options.
pub const LEN: usize = 24;
/// Bytes of an advertisement with its sender's link-layer address.
pub const ADVERTISEMENT_LEN: usize = LEN + OPTION_LEN;

const OPTION_LEN: usize = 8;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbor {
    /// Whether it asks; otherwise it tells.
    pub solicitation: bool,
    /// Whose link-layer address it is about.
    pub target: Ipv6Addr,
    /// What the option that belongs to this message says: source or target link-layer address.
    pub link_layer: Option<Mac>,
}

impl Neighbor {
    /// Reads the ICMPv6 message `bytes`; `None` when it is another one, or breaks a rule of
    /// RFC 4861 section 7.1: code 0, whole, a unicast target, no empty option, no option twice.
    pub fn parse(bytes: &[u8]) -> Option<Neighbor> {
        let [kind, code] = bytes_at(bytes, 0)?;
        let wanted = match kind {
            SOLICITATION => SOURCE_LINK_LAYER,
            ADVERTISEMENT => TARGET_LINK_LAYER,
            _ => return None,
        };
        let target = Ipv6Addr::from(bytes_at::<16>(bytes, 8)?);
        if code != 0 || target.is_multicast() || target.is_unspecified() {
            return None;
        }
        let mut link_layer = None;
        let mut rest = bytes.get(LEN..)?;
        while let Some([option, length]) = bytes_at(rest, 0) {
            let size = usize::from(length) * OPTION_LEN;
            if size == 0 || size > rest.len() {
                return None;
            }
            if option == wanted {
                if size != OPTION_LEN || link_layer.is_some() {
                    return None;
                }
                link_layer = bytes_at(rest, 2).map(Mac);
            }
            rest = rest.get(size..)?;
        }
        rest.is_empty().then_some(())?;
        Some(Neighbor { solicitation: kind == SOLICITATION, target, link_layer })
    }
}

/// An advertisement that answers a solicitation, to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdvertisementRepr {
    /// Whether the target routes.
    pub router: bool,
    /// Whose address it is about.
    pub target: Ipv6Addr,
    /// Its link-layer address.
    pub mac: Mac,
}

impl AdvertisementRepr {
    /// Writes the message to the front of `bytes`, its checksum zero.
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..ADVERTISEMENT_LEN)?;
        // Solicited and Override: the answer is asked for, and it is the truth.
        let flags = if self.router { 0xe0 } else { 0x60 };
        put(bytes, 0, &[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0])?;
        put(bytes, 8, &self.target.octets())?;
        put(bytes, LEN, &[TARGET_LINK_LAYER, 1])?;
        put(bytes, LEN + 2, &self.mac.0)
    }
}

/// A solicitation to build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SolicitationRepr {
    /// Whose address is wanted.
    pub target: Ipv6Addr,
    /// The asker's link-layer address.
    pub mac: Mac,
}

impl SolicitationRepr {
    /// Writes the message to the front of `bytes`, its checksum zero. It is as long as
    /// [`ADVERTISEMENT_LEN`].
    pub fn emit(&self, bytes: &mut [u8]) -> Option<()> {
        bytes.get(..ADVERTISEMENT_LEN)?;
        put(bytes, 0, &[SOLICITATION, 0, 0, 0, 0, 0, 0, 0])?;
        put(bytes, 8, &self.target.octets())?;
        put(bytes, LEN, &[SOURCE_LINK_LAYER, 1])?;
        put(bytes, LEN + 2, &self.mac.0)
    }

    /// The multicast group that a solicitation for `target` is sent to (RFC 4291 section 2.7.1).
    pub fn group(target: Ipv6Addr) -> Ipv6Addr {
        let [.., a, b, c] = target.octets();
        Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
    }

    /// The MAC address of that group (RFC 2464 section 7).
    pub fn group_mac(target: Ipv6Addr) -> Mac {
        let [.., a, b, c] = target.octets();
        Mac([0x33, 0x33, 0xff, a, b, c])
    }
}
