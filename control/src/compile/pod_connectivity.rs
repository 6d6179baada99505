//! Pods that are attached to this node become ports and endpoints.

use seine_datapath_api::v1;

use crate::attachments::{Attachment, Device};
use crate::model::{AllowedAddress, SocketMode, VlanRange};

/// The endpoint of an attachment.
pub fn endpoint(attachment: &Attachment) -> v1::Object {
    let permit = &attachment.permit;
    v1::Object {
        kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
            name: attachment.endpoint.clone(),
            port: attachment.port.clone(),
            mac: attachment.mac.bytes().to_vec(),
            addresses: attachment.addresses.iter().map(|a| a.addr().to_string()).collect(),
            mtu: attachment.mtu,
            allowed_addresses: permit.allowed_addresses.iter().map(allowed_address).collect(),
            trusted_router: permit.trusted_router,
            vlans: permit.vlans.iter().map(vlans).collect(),
            network_id: attachment.network_id.into(),
            interface_index: attachment.interface_index,
        })),
    }
}

fn allowed_address(allowed: &AllowedAddress) -> v1::AllowedAddress {
    let mac = allowed.mac.map(|mac| mac.bytes().to_vec()).unwrap_or_default();
    v1::AllowedAddress { range: allowed.range.to_string(), mac }
}

fn vlans(range: &VlanRange) -> v1::VlanRange {
    v1::VlanRange { first: range.first().into(), last: range.last().into() }
}

/// How the port of an attachment is opened; the session is filled in by who asks.
pub fn port(attachment: &Attachment) -> v1::OpenPortRequest {
    let name = attachment.port.clone();
    let (interface, vhost_user) = match &attachment.device {
        Device::Veth | Device::AfXdp(_) => (name.clone(), None),
        Device::VhostUser(guest) => {
            let mode = match guest.mode {
                SocketMode::Server => v1::vhost_user::Mode::Server,
                SocketMode::Client => v1::vhost_user::Mode::Client,
            };
            let guest = v1::VhostUser {
                socket: guest.socket.display().to_string(),
                mode: mode.into(),
                mtu: attachment.mtu,
                queues: guest.queues,
                socket_user: guest.user,
                socket_group: guest.group,
            };
            (String::new(), Some(guest))
        }
    };
    v1::OpenPortRequest { session: 0, name, interface, vhost_user }
}

/// How an attachment's sockets are lent, if they are; the session is filled in by who asks.
pub fn loan(attachment: &Attachment) -> Option<v1::LendSocketsRequest> {
    let lent = attachment.lent_sockets()?;
    Some(v1::LendSocketsRequest {
        session: 0,
        name: attachment.port.clone(),
        namespace: attachment.netns.display().to_string(),
        interface: attachment.key.interface.clone(),
        socket: lent.socket.display().to_string(),
        socket_user: lent.user,
        socket_group: lent.group,
    })
}
