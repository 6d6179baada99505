//! Proto objects into the pipeline's: the edge at which text becomes types.
//!
//! Whatever can be judged by looking at one object is judged here, and the refusal names object,
//! field and reason. What needs the other objects is judged by `State::apply`.

mod policy;

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
pub use policy::group_delta;
use seine_datapath_api::v1;
use seine_pipeline::address::{Mac, Vlan};
use seine_pipeline::adjacency::AdjacencyId;
use seine_pipeline::state::{
    AllowedAddress, EncapMode, Endpoint, ExistingConnections, Kind, Node, Object, ObjectId, Peer,
    Permit, Refusal, TunnelType, VlanRange,
};

/// Bytes of the longest name of an object: a Pod's, a Namespace's and an interface's together.
pub const NAME_BYTES_MAX: usize = 63 + 1 + 253 + 1 + 15;

/// Bytes of the longest name of an interface or a port, as in Linux.
pub const INTERFACE_NAME_BYTES_MAX: usize = 15;

/// The smallest MTU a link may have: what IPv6 asks for would be 1280, IPv4's is smaller.
const MTU_MIN: u32 = 576;

/// Why a transaction was not even tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// An object is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// An object says nothing.
    #[error("an object is of no kind that this datapath knows")]
    NoKind,
    /// An identifier without kind.
    #[error("object id `{0}` has no kind, or one that this datapath does not know")]
    NoIdKind(String),
}

/// A proto object, typed. A peer still lacks its adjacency, which the writer chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// Ready as it is.
    Object(Object),
    /// A peer, to be completed.
    Peer(DesiredPeer),
}

/// A peer as the agent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPeer {
    name: String,
    pod_cidrs: Vec<IpNet>,
    gateway_addresses: Vec<IpAddr>,
    tunnel_address: IpAddr,
}

impl DesiredPeer {
    /// The peer with the next hop that was chosen for it.
    pub fn with(self, adjacency: AdjacencyId) -> Object {
        let DesiredPeer { name, pod_cidrs, gateway_addresses, tunnel_address } = self;
        Object::Peer(Peer { name, pod_cidrs, gateway_addresses, tunnel_address, adjacency })
    }
}

impl Desired {
    /// Which object it is.
    pub fn id(&self) -> ObjectId {
        match self {
            Desired::Object(object) => object.id(),
            Desired::Peer(peer) => ObjectId { kind: Kind::Peer, name: peer.name.clone() },
        }
    }
}

/// Types one object.
pub fn object(object: v1::Object) -> Result<Desired, ObjectError> {
    Ok(match object.kind.ok_or(ObjectError::NoKind)? {
        v1::object::Kind::Node(node) => Desired::Object(Object::Node(self::node(node)?)),
        v1::object::Kind::Peer(peer) => Desired::Peer(self::peer(peer)?),
        v1::object::Kind::Endpoint(endpoint) => {
            Desired::Object(Object::Endpoint(self::endpoint(endpoint)?))
        }
        v1::object::Kind::Group(group) => Desired::Object(Object::Group(policy::group(group)?)),
        v1::object::Kind::Rule(rule) => Desired::Object(Object::Rule(policy::rule(rule)?)),
        v1::object::Kind::Service(service) => {
            Desired::Object(Object::Service(policy::service(service)?))
        }
    })
}

/// Types an identifier. Ports are the datapath's own and have none.
pub fn object_id(id: v1::ObjectId) -> Result<ObjectId, ObjectError> {
    let kind = match id.kind() {
        v1::object_id::Kind::Unspecified => return Err(ObjectError::NoIdKind(id.name)),
        v1::object_id::Kind::Node => Kind::Node,
        v1::object_id::Kind::Peer => Kind::Peer,
        v1::object_id::Kind::Endpoint => Kind::Endpoint,
        v1::object_id::Kind::Group => Kind::Group,
        v1::object_id::Kind::Rule => Kind::Rule,
        v1::object_id::Kind::Service => Kind::Service,
    };
    Ok(ObjectId { kind, name: id.name })
}

fn node(node: v1::Node) -> Result<Node, Refusal> {
    let subject = Subject::new(Kind::Node, &node.name)?;
    Ok(Node {
        pod_cidrs: subject.each("pod_cidrs", &node.pod_cidrs)?,
        gateway_addresses: subject.each("gateway_addresses", &node.gateway_addresses)?,
        tunnel_address: subject.parse("tunnel_address", &node.tunnel_address)?,
        tunnel_mtu: subject.mtu("tunnel_mtu", node.tunnel_mtu)?,
        encap_mode: match node.encap_mode() {
            v1::node::EncapMode::Encap => EncapMode::Encap,
            v1::node::EncapMode::NoEncap => EncapMode::NoEncap,
        },
        tunnel_type: match node.tunnel_type() {
            v1::node::TunnelType::Geneve => TunnelType::Geneve,
            v1::node::TunnelType::Vxlan => TunnelType::Vxlan,
        },
        node_port_addresses: subject.each("node_port_addresses", &node.node_port_addresses)?,
        existing_connections: match node.existing_connections() {
            v1::node::ExistingConnections::Keep => ExistingConnections::Keep,
            v1::node::ExistingConnections::Reevaluate => ExistingConnections::Reevaluate,
        },
        name: node.name,
    })
}

fn peer(peer: v1::Peer) -> Result<DesiredPeer, Refusal> {
    let subject = Subject::new(Kind::Peer, &peer.name)?;
    Ok(DesiredPeer {
        pod_cidrs: subject.each("pod_cidrs", &peer.pod_cidrs)?,
        gateway_addresses: subject.each("gateway_addresses", &peer.gateway_addresses)?,
        tunnel_address: subject.parse("tunnel_address", &peer.tunnel_address)?,
        name: peer.name,
    })
}

fn endpoint(endpoint: v1::Endpoint) -> Result<Endpoint, Refusal> {
    let subject = Subject::new(Kind::Endpoint, &endpoint.name)?;
    if endpoint.port.is_empty() || endpoint.port.len() > INTERFACE_NAME_BYTES_MAX {
        let reason = format!("`{}` is not 1 to {INTERFACE_NAME_BYTES_MAX} bytes", endpoint.port);
        return Err(subject.refuse("port", reason));
    }
    let network_id = u16::try_from(endpoint.network_id).map_err(|_| {
        subject.refuse("network_id", format!("{} is above 65535", endpoint.network_id))
    })?;
    Ok(Endpoint {
        permit: permit(&subject, &endpoint)?,
        network_id,
        interface_index: endpoint.interface_index,
        mac: subject.mac("mac", &endpoint.mac)?,
        addresses: subject.each("addresses", &endpoint.addresses)?,
        mtu: subject.mtu("mtu", endpoint.mtu)?,
        port: endpoint.port,
        name: endpoint.name,
    })
}

fn permit(subject: &Subject<'_>, endpoint: &v1::Endpoint) -> Result<Permit, Refusal> {
    let field = "allowed_addresses";
    let allowed = endpoint.allowed_addresses.iter().map(|allowed| {
        let range = match allowed.range.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => subject.parse::<IpNet>(field, &allowed.range)?,
        };
        let mac = (!allowed.mac.is_empty()).then(|| subject.mac(field, &allowed.mac));
        Ok(AllowedAddress { range, mac: mac.transpose()? })
    });
    Ok(Permit {
        allowed_addresses: allowed.collect::<Result<_, Refusal>>()?,
        trusted_router: endpoint.trusted_router,
        vlans: endpoint
            .vlans
            .iter()
            .map(|range| vlans(subject, range))
            .collect::<Result<_, _>>()?,
    })
}

fn vlans(subject: &Subject<'_>, range: &v1::VlanRange) -> Result<VlanRange, Refusal> {
    let vlan = |number: u32| {
        let vlan = u16::try_from(number).ok().and_then(Vlan::new);
        let refuse = || subject.refuse("vlans", format!("{number} is not one of 1 to 4094"));
        vlan.ok_or_else(refuse)
    };
    Ok(VlanRange { first: vlan(range.first)?, last: vlan(range.last)? })
}

/// The object that is being typed, for refusals.
struct Subject<'a> {
    kind: Kind,
    name: &'a str,
}

impl<'a> Subject<'a> {
    fn new(kind: Kind, name: &'a str) -> Result<Subject<'a>, Refusal> {
        let subject = Subject { kind, name };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let reason = format!("{} bytes, where 1 to {NAME_BYTES_MAX} are allowed", name.len());
            return Err(subject.refuse("name", reason));
        }
        Ok(subject)
    }

    fn port(&self, field: &'static str, port: u32) -> Result<u16, Refusal> {
        u16::try_from(port).map_err(|_| self.refuse(field, format!("{port} is above 65535")))
    }

    fn protocol(&self, field: &'static str, number: u32) -> Result<u8, Refusal> {
        u8::try_from(number).map_err(|_| self.refuse(field, format!("{number} is above 255")))
    }

    fn refuse(&self, field: &'static str, reason: String) -> Refusal {
        Refusal { kind: self.kind, name: self.name.to_owned(), field, reason }
    }

    fn parse<T: FromStr<Err: Display>>(
        &self,
        field: &'static str,
        text: &str,
    ) -> Result<T, Refusal> {
        text.parse().map_err(|error| self.refuse(field, format!("`{text}`: {error}")))
    }

    fn each<T: FromStr<Err: Display>>(
        &self,
        field: &'static str,
        texts: &[String],
    ) -> Result<Vec<T>, Refusal> {
        texts.iter().map(|text| self.parse(field, text)).collect()
    }

    fn mac(&self, field: &'static str, bytes: &[u8]) -> Result<Mac, Refusal> {
        let mac = <[u8; 6]>::try_from(bytes).map(Mac).map_err(|_| {
            self.refuse(field, format!("{} bytes, where a MAC address has 6", bytes.len()))
        })?;
        if !mac.is_unicast() {
            return Err(self.refuse(field, format!("{mac} is not a unicast address")));
        }
        Ok(mac)
    }

    fn mtu(&self, field: &'static str, bytes: u32) -> Result<u16, Refusal> {
        u16::try_from(bytes).ok().filter(|_| bytes >= MTU_MIN).ok_or_else(|| {
            self.refuse(
                field,
                format!("{bytes} bytes, where {MTU_MIN} to {} are allowed", u16::MAX),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn good() -> v1::Endpoint {
        v1::Endpoint {
            name: "default/web-0/eth0".into(),
            port: "sn0123456789".into(),
            mac: vec![2, 0, 0, 0, 0, 1],
            addresses: vec!["10.10.1.2".into(), "fd00:10:1::2".into()],
            mtu: 1450,
            ..v1::Endpoint::default()
        }
    }

    fn refusal(change: impl FnOnce(&mut v1::Endpoint)) -> String {
        let mut endpoint = good();
        change(&mut endpoint);
        let kind = Some(v1::object::Kind::Endpoint(endpoint));
        object(v1::Object { kind }).unwrap_err().to_string()
    }

    #[test]
    fn an_endpoint_becomes_typed() {
        let kind = Some(v1::object::Kind::Endpoint(good()));
        let Desired::Object(Object::Endpoint(endpoint)) = object(v1::Object { kind }).unwrap()
        else {
            panic!("not an endpoint");
        };
        assert_eq!(endpoint.mac, Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(endpoint.addresses[1], "fd00:10:1::2".parse::<IpAddr>().unwrap());
        assert_eq!(endpoint.mtu, 1450);
    }

    #[test]
    fn a_refusal_names_object_field_and_reason() {
        assert_eq!(
            refusal(|endpoint| endpoint.addresses[0] = "10.10.1.300".into()),
            "endpoint `default/web-0/eth0` is refused: addresses: `10.10.1.300`: \
             invalid IP address syntax"
        );
        assert!(refusal(|endpoint| endpoint.mac[0] = 1).contains("mac: 01:00:00:00:00:01 is not"));
        assert!(refusal(|endpoint| endpoint.mac.push(0)).contains("7 bytes"));
        assert!(refusal(|endpoint| endpoint.mtu = 65536).contains("65536 bytes"));
        assert!(refusal(|endpoint| endpoint.port.clear()).contains("port: `` is not"));
        assert!(refusal(|endpoint| endpoint.name.clear()).contains("name: 0 bytes"));
        assert!(refusal(|endpoint| endpoint.network_id = 65536).contains("network_id: 65536"));
        let allow =
            |range: &str, mac: &[u8]| v1::AllowedAddress { range: range.into(), mac: mac.to_vec() };
        let refused = refusal(|endpoint| endpoint.allowed_addresses = vec![allow("x", &[])]);
        assert!(refused.contains("allowed_addresses: `x`"), "{refused}");
        let refused = refusal(|endpoint| endpoint.allowed_addresses = vec![allow("::1", &[1])]);
        assert!(refused.contains("1 bytes, where a MAC"), "{refused}");
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(object(v1::Object { kind: None }), Err(ObjectError::NoKind));
        let id = v1::ObjectId { kind: 99, name: "x".into() };
        assert_eq!(object_id(id), Err(ObjectError::NoIdKind("x".into())));
    }
}
