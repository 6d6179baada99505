//! Ethernet addresses of Pods.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Why something is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an Ethernet address; one looks like 02:00:0a:0a:01:02")]
pub struct MacError(String);

impl Mac {
    /// The address behind which Services are to the node's kernel (Antrea's global virtual MAC).
    pub const VIRTUAL: Mac = Mac([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);

    /// The address of the Pod that owns `address`: locally administered, and a function of the
    /// IP address, so neighbours that remember an address that was given out again are not wrong.
    /// The second byte tells the families apart; Pod ranges of one family do not overlap, so two
    /// Pods of a cluster differ, unless an IPv6 range gives out more than 2^32 addresses.
    pub fn of_pod(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self([0x02, 0x04, a, b, c, d])
            }
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                Self([0x02, 0x06, a, b, c, d])
            }
        }
    }

    /// Its six bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<&[u8]> for Mac {
    type Error = MacError;

    fn try_from(bytes: &[u8]) -> Result<Self, MacError> {
        bytes.try_into().map(Self).map_err(|_| MacError(format!("{bytes:02x?}")))
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.into());
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        Self::try_from(bytes.as_slice()).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_pods_mac_is_unicast_locally_administered_and_reads_back() {
        let mac = Mac::of_pod("10.10.1.2".parse().unwrap());
        assert_eq!(mac.to_string(), "02:04:0a:0a:01:02");
        assert_eq!(mac.bytes()[0] & 0b11, 0b10);
        assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
        assert!("02:04:0a:0a:01".parse::<Mac>().is_err());
        assert!("2:4:a:a:1:2".parse::<Mac>().is_err());
    }
}
