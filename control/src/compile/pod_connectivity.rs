//! Pods that are attached to this node become ports and endpoints.

use seine_datapath_api::v1;

use crate::attachments::{Attachment, Device};
use crate::model::SocketMode;

/// The endpoint of an attachment.
pub fn endpoint(attachment: &Attachment) -> v1::Object {
    v1::Object {
        kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
            name: attachment.endpoint.clone(),
            port: attachment.port.clone(),
            mac: attachment.mac.bytes().to_vec(),
            addresses: attachment.addresses.iter().map(|a| a.addr().to_string()).collect(),
            mtu: attachment.mtu,
        })),
    }
}

/// How the port of an attachment is opened; the session is filled in by who asks.
pub fn port(attachment: &Attachment) -> v1::OpenPortRequest {
    let name = attachment.port.clone();
    let (interface, vhost_user) = match &attachment.device {
        Device::Veth => (name.clone(), None),
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
