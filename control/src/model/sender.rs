//! What a Pod asks to send beyond its own addresses, and what of that an operator permits.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Mac, PortRequestError, VlanRange};

/// The annotation that lists addresses.
const ALLOWED_ADDRESSES: &str = "allowed-addresses";
/// The annotation of a router.
const TRUSTED_ROUTER: &str = "trusted-router";
/// The annotation of a trunk.
const VLANS: &str = "vlans";
/// The most ranges of VLANs that a Pod may list, likewise.
const VLAN_RANGES_MAX: usize = 64;
/// The most addresses and ranges that a Pod may list: what the datapath looks through.
const ALLOWED_ADDRESSES_MAX: usize = 64;

/// What a Pod may send beside what is its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderPermit {
    /// Addresses, each with the MAC address that it comes from.
    pub allowed_addresses: Vec<AllowedAddress>,
    /// Whether it may send from any address outside of the cluster.
    pub trusted_router: bool,
    /// VLANs that its frames may be tagged with.
    #[serde(default)]
    pub vlans: Vec<VlanRange>,
}

/// Addresses that a Pod may send from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedAddress {
    /// One, or many.
    pub range: IpNet,
    /// The MAC address that they come from; none: the Pod's own.
    pub mac: Option<Mac>,
}

/// What an operator permits to the Pods of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Permission {
    /// Whose Pods may ask.
    pub namespace: String,
    /// What they list must be within one of these.
    #[serde(default)]
    pub allowed_addresses: Vec<IpNet>,
    /// MAC addresses, beside their own, that they may send from.
    #[serde(default)]
    pub macs: Vec<Mac>,
    /// Whether they may be routers.
    #[serde(default)]
    pub trusted_router: bool,
    /// VLANs that they may be trunks of; what they list must be within one of these.
    #[serde(default)]
    pub vlans: Vec<VlanRange>,
}

impl SenderPermit {
    /// Whether this annotation, named without its prefix, is about it.
    pub fn is_about(name: &str) -> bool {
        [ALLOWED_ADDRESSES, TRUSTED_ROUTER, VLANS].contains(&name)
    }

    /// Reads annotations, given without the prefix of their names.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Self, PortRequestError> {
        let mut permit = Self::default();
        if let Some(value) = annotations.get(ALLOWED_ADDRESSES) {
            let wrong = |reason| wrong(ALLOWED_ADDRESSES, value, reason);
            let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
            permit.allowed_addresses =
                parts.map(allowed_address).collect::<Result<_, _>>().map_err(wrong)?;
            if permit.allowed_addresses.len() > ALLOWED_ADDRESSES_MAX {
                return Err(wrong(format!("{ALLOWED_ADDRESSES_MAX} are the most")));
            }
        }
        if let Some(value) = annotations.get(TRUSTED_ROUTER) {
            permit.trusted_router = match value.trim() {
                "true" => true,
                "false" => false,
                _ => return Err(wrong(TRUSTED_ROUTER, value, "it is true or false".into())),
            };
        }
        if let Some(value) = annotations.get(VLANS) {
            let wrong = |reason| wrong(VLANS, value, reason);
            let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
            let ranges: Result<_, _> = parts.map(str::parse::<VlanRange>).collect();
            permit.vlans = ranges.map_err(|error| wrong(error.to_string()))?;
            if permit.vlans.len() > VLAN_RANGES_MAX {
                return Err(wrong(format!("{VLAN_RANGES_MAX} are the most")));
            }
        }
        Ok(permit)
    }

    /// Refuses what no operator has permitted to the Pods of this namespace.
    pub fn check(
        &self,
        namespace: &str,
        permissions: &[Permission],
    ) -> Result<(), PortRequestError> {
        let own = || permissions.iter().filter(|it| it.namespace == namespace);
        for allowed in &self.allowed_addresses {
            let permits = |it: &Permission| {
                it.allowed_addresses.iter().any(|range| range.contains(&allowed.range))
                    && allowed.mac.is_none_or(|mac| it.macs.contains(&mac))
            };
            if !own().any(permits) {
                return Err(wrong(ALLOWED_ADDRESSES, &allowed.to_string(), unpermitted(namespace)));
            }
        }
        for vlans in &self.vlans {
            if !own().any(|it| it.vlans.iter().any(|permitted| permitted.holds(*vlans))) {
                return Err(wrong(VLANS, &vlans.to_string(), unpermitted(namespace)));
            }
        }
        if self.trusted_router && !own().any(|it| it.trusted_router) {
            return Err(wrong(TRUSTED_ROUTER, "true", unpermitted(namespace)));
        }
        Ok(())
    }
}

fn unpermitted(namespace: &str) -> String {
    format!(
        "no operator permits it to Pods of the namespace `{namespace}` (seine-agent, \
         [[senderPermits]])"
    )
}

fn wrong(name: &str, value: &str, reason: String) -> PortRequestError {
    PortRequestError { name: name.into(), value: value.into(), reason }
}

impl std::fmt::Display for AllowedAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.mac {
            None => write!(f, "{}", self.range),
            Some(mac) => write!(f, "{}@{mac}", self.range),
        }
    }
}

/// "10.99.0.5", "10.99.1.0/24", "10.99.0.5@00:00:5e:00:01:0a".
fn allowed_address(text: &str) -> Result<AllowedAddress, String> {
    let (range, mac) = text.split_once('@').map_or((text, None), |(it, mac)| (it, Some(mac)));
    let mac = mac.map(|mac| mac.parse::<Mac>().map_err(|error| error.to_string())).transpose()?;
    let range = match range.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => range
            .parse::<IpNet>()
            .map_err(|_| format!("`{range}` is neither an address nor a range"))?,
    };
    if range.trunc() != range {
        return Err(format!("`{range}` has host bits set; {} is meant", range.trunc()));
    }
    if range.prefix_len() == 0 {
        return Err(format!("`{range}` is everything; ask for {TRUSTED_ROUTER} instead"));
    }
    if mac.is_some_and(|mac| mac.bytes()[0] & 1 != 0) {
        return Err("a group's MAC address sends nothing".into());
    }
    Ok(AllowedAddress { range, mac })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn read(name: &str, value: &str) -> Result<SenderPermit, PortRequestError> {
        SenderPermit::read(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn addresses_ranges_and_mac_addresses_are_read() {
        let text = "10.99.0.5, fd00:99::/64,10.99.0.6@00:00:5e:00:01:0a";
        let permit = read(ALLOWED_ADDRESSES, text).unwrap();
        let shown: Vec<_> = permit.allowed_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.99.0.5/32", "fd00:99::/64", "10.99.0.6/32@00:00:5e:00:01:0a"]);
        assert!(read(TRUSTED_ROUTER, "true").unwrap().trusted_router);
        assert_eq!(read(TRUSTED_ROUTER, "false").unwrap(), SenderPermit::default());
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (value, says) in [
            ("10.99.0", "`10.99.0` is neither"),
            ("10.99.0.1/24", "10.99.0.0/24 is meant"),
            ("0.0.0.0/0", "ask for trusted-router"),
            ("10.9.0.1@1:2", "is not an Ethernet address"),
            ("10.9.0.1@01:00:5e:00:00:01", "a group's"),
            (&"10.9.0.1,".repeat(65), "64 are the most"),
        ] {
            let error = read(ALLOWED_ADDRESSES, value).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(read(TRUSTED_ROUTER, "yes").is_err());
        let error = read(VLANS, "100,0").unwrap_err().to_string();
        assert!(error.contains("`0` is no VLAN"), "{error}");
        assert!(read(VLANS, &"5,".repeat(65)).is_err());
    }

    #[test]
    fn nothing_is_permitted_but_what_an_operator_has_listed_for_the_namespace() {
        let permission = Permission {
            namespace: "nfv".into(),
            allowed_addresses: vec!["10.99.0.0/16".parse().unwrap()],
            macs: vec!["00:00:5e:00:01:0a".parse().unwrap()],
            trusted_router: false,
            vlans: vec!["100".parse().unwrap(), "200-299".parse().unwrap()],
        };
        let permissions = [permission];
        let may = |namespace: &str, name: &str, value: &str| {
            read(name, value).unwrap().check(namespace, &permissions).is_ok()
        };
        assert!(may("nfv", ALLOWED_ADDRESSES, "10.99.0.5,10.99.1.0/24"));
        assert!(may("nfv", ALLOWED_ADDRESSES, "10.99.0.5@00:00:5e:00:01:0a"));
        assert!(!may("nfv", ALLOWED_ADDRESSES, "10.99.0.5@00:00:5e:00:01:0b"));
        assert!(!may("nfv", ALLOWED_ADDRESSES, "10.99.0.5,10.98.0.5"));
        assert!(!may("nfv", ALLOWED_ADDRESSES, "10.0.0.0/8"));
        assert!(!may("nfv", TRUSTED_ROUTER, "true"));
        assert!(may("nfv", VLANS, "100,200-203,299"));
        assert!(!may("nfv", VLANS, "100-200"));
        assert!(!may("nfv", VLANS, "100,300"));
        assert!(!may("web", VLANS, "100"));
        assert!(!may("web", ALLOWED_ADDRESSES, "10.99.0.5"));
        assert!(may("web", TRUSTED_ROUTER, "false"));
        let error = read(TRUSTED_ROUTER, "true").unwrap().check("web", &[]).unwrap_err();
        assert!(error.to_string().contains("no operator permits it to Pods"), "{error}");
    }
}
