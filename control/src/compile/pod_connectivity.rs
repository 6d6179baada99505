//! Pods that are attached to this node become endpoints.

use seine_datapath_api::v1;

use crate::attachments::Attachment;

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
