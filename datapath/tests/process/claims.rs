//! What the uplink takes from the kernel.

use seine_datapath_api::v1;

use crate::node::node_object;
use crate::node_with_two_pods;

#[tokio::test]
async fn the_uplink_claims_the_tunnel_address_once_it_is_known() {
    let (mut node, session) = node_with_two_pods().await;
    for (revision, mode, tunnel) in [
        (101, v1::node::EncapMode::Encap, v1::node::TunnelType::Vxlan),
        (102, v1::node::EncapMode::NoEncap, v1::node::TunnelType::Vxlan),
    ] {
        let mut object = node_object();
        if let Some(v1::object::Kind::Node(node)) = &mut object.kind {
            node.set_encap_mode(mode);
            node.set_tunnel_type(tunnel);
        }
        let part = v1::TransactionPart {
            session,
            revision,
            mode: v1::transaction_part::Mode::Delta.into(),
            upserts: vec![object],
            last: true,
            ..v1::TransactionPart::default()
        };
        node.client.apply(tokio_stream::iter([part])).await.unwrap();
    }
    let claims: Vec<_> = node.claims.lock().unwrap().iter().map(|claims| claims.tunnel).collect();
    assert_eq!(
        claims,
        [Some("192.0.2.1:6081".parse().unwrap()), Some("192.0.2.1:4789".parse().unwrap()), None]
    );
}
