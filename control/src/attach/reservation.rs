//! What an attachment is to be, before anything of it is made: its names, its device, its address.

use ipnet::IpNet;
use tracing::warn;

use super::{AttachError, Attacher, Facts, Request, pod_link, socket_folder};
use crate::attachments::{Attachment, AttachmentKey, Device, LentSockets, VhostUser};
use crate::configuration::VhostUserSettings;
use crate::model::{Mac, PortKind, PortLimits, PortRequest};

impl Attacher {
    /// What the Pod asks of its port. One that the cluster does not know asks for nothing, and it
    /// is waited for first: a runtime starts a Pod because the cluster told it to.
    pub(super) async fn wish(
        &self,
        request: &Request,
        facts: &Facts,
    ) -> Result<PortRequest, AttachError> {
        let Some(name) = &request.pod else { return Ok(PortRequest::default()) };
        let Some(pod) = self.tables.pod(name).await else {
            warn!(pod = %name, "the cluster does not know this Pod: its port is an ordinary one");
            return Ok(PortRequest::default());
        };
        let has_ipv6 = facts.local.pod_cidrs.iter().any(|range| range.addr().is_ipv6());
        let limits = PortLimits { mtu_max: facts.mtu_max, has_ipv6, link_queues: facts.queues };
        let wish = PortRequest::read(&pod.port_annotations, limits)?;
        wish.permit.check(&name.namespace, &self.permissions)?;
        Ok(wish)
    }

    pub(super) fn reserve(
        &self,
        request: &Request,
        facts: &Facts,
        wish: &PortRequest,
    ) -> Result<Attachment, AttachError> {
        let port = port_name(&request.key);
        let device = self.device(request, facts, &port, wish)?;
        if self.attachments.any(|attachment| attachment.port == port) {
            return Err(AttachError::NameTaken(port));
        }
        let mut name = match &request.pod {
            Some(pod) => format!("{pod}/{}", request.key.interface),
            None => format!("_/{}/{}", request.key.container_id, request.key.interface),
        };
        // A Pod's next sandbox may come before the last one is deleted; each keeps its own name.
        if self.attachments.any(|attachment| attachment.endpoint == name) {
            name = format!("{name}@{port}");
        }
        let interface_index = self.attachments.next_index(&request.key.container_id);
        Ok(self.attachments.reserve(|addresses| Attachment {
            key: request.key.clone(),
            netns: request.netns.clone(),
            pod: request.pod.clone(),
            endpoint: name,
            port,
            device,
            network: request.network.clone(),
            network_id: 0,
            interface_index,
            permit: wish.permit.clone(),
            mac: Mac::of_pod(addresses.first().map_or([0; 4].into(), IpNet::addr)),
            addresses,
            mtu: wish.mtu(facts.local.tunnel_mtu),
            detaching: false,
        })?)
    }

    fn device(
        &self,
        request: &Request,
        facts: &Facts,
        port: &str,
        wish: &PortRequest,
    ) -> Result<Device, AttachError> {
        let name = match wish.kind {
            PortKind::Veth => return Ok(Device::Veth),
            PortKind::AfXdp => socket_folder::LENT,
            PortKind::VhostUser { .. } => socket_folder::VHOST_USER,
        };
        // The Pod knows its UID; where nobody tells it, the port's name is as unique.
        let folder = if request.pod_uid.is_empty() { port } else { &request.pod_uid };
        let interface = &request.key.interface;
        let socket = socket_folder::socket(&self.vhost_user, folder, interface, name)?;
        // The folder is for one attachment, whatever its socket.
        let has = |it: &Attachment| it.socket().is_some_and(|own| own.parent() == socket.parent());
        if self.attachments.any(has) {
            return Err(AttachError::SocketTaken(socket));
        }
        let VhostUserSettings { user, group, .. } = self.vhost_user;
        Ok(match wish.kind {
            PortKind::VhostUser { mode, queues } => {
                Device::VhostUser(VhostUser { socket, mode, queues, user, group })
            }
            PortKind::Veth | PortKind::AfXdp => {
                Device::AfXdp(LentSockets { socket, queues: facts.queues, user, group })
            }
        })
    }
}

/// The name of an attachment's host end and port: unique on the node, and the same every time.
pub(super) fn port_name(key: &AttachmentKey) -> String {
    // FNV-1a, 64 bit: it only has to spread; a collision is refused by name.
    let bytes = key.container_id.bytes().chain([0]).chain(key.interface.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}{:014x}", pod_link::PORT_PREFIX, hash & 0x00ff_ffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_fit_an_interface_and_differ_by_container_and_interface() {
        let name = |container: &str, interface: &str| {
            port_name(&AttachmentKey {
                container_id: container.into(),
                interface: interface.into(),
            })
        };
        assert_eq!(name("a", "eth0").len(), 15);
        assert_eq!(name("a", "eth0"), name("a", "eth0"));
        assert_ne!(name("a", "eth0"), name("a", "eth1"));
        assert_ne!(name("ab", "c"), name("a", "bc"));
        assert!(pod_link::is_port_name(&name("a", "eth0")));
        assert!(!pod_link::is_port_name("veth0"));
    }
}
