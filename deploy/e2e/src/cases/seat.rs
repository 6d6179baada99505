//! Places for guests: vhost-user ports that a test opens in the agent's place.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use seine_datapath_api::v1;
use seine_datapath_api::v1::vhost_user::Mode;

use crate::cluster::Cluster;
use crate::counters;
use crate::daemon::until;
use crate::failure::Outcome;
use crate::frames::Mac;
use crate::node::Node;

/// Bytes of a guest's largest packet.
pub(super) const MTU: u32 = 1400;

/// A port and its endpoint.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    /// The port's name.
    pub name: &'static str,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Where its front end is met.
    pub socket: PathBuf,
    /// Who listens there.
    pub mode: Mode,
}

impl Seat {
    /// A seat on a node by number.
    pub fn new(node: &Node, name: &'static str, number: u8, mode: Mode) -> Seat {
        let socket = node.file(&format!("{name}.sock"));
        Seat { name, address: Ipv4Addr::new(10, 10, 1, number), socket, mode }
    }

    /// The guest's MAC address.
    pub fn mac(&self) -> Mac {
        let [a, b, c, d] = self.address.octets();
        [2, 0, a, b, c, d]
    }

    /// The same as text.
    pub fn mac_text(&self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    fn endpoint(&self) -> v1::Object {
        v1::Object {
            kind: Some(v1::object::Kind::Endpoint(v1::Endpoint {
                name: format!("default/{}/eth0", self.name),
                port: self.name.into(),
                mac: self.mac().to_vec(),
                addresses: vec![self.address.to_string()],
                mtu: MTU,
            })),
        }
    }

    #[allow(clippy::needless_update, reason = "what else can be said is left out")]
    fn port(&self, session: u64) -> v1::OpenPortRequest {
        v1::OpenPortRequest {
            session,
            name: self.name.into(),
            vhost_user: Some(v1::VhostUser {
                socket: self.socket.display().to_string(),
                mode: self.mode.into(),
                mtu: MTU,
                ..v1::VhostUser::default()
            }),
            ..v1::OpenPortRequest::default()
        }
    }
}

/// Opens the seats on the first node, when the agent has installed what holds `sign`, a word of
/// `seinectl rule stats`. The agent is killed, since it would take them away again.
pub(super) fn open(cluster: &mut Cluster, sign: &str, seats: &[Seat]) -> Outcome {
    let node = cluster.node("node1")?;
    until("the agent has installed everything", 20, || {
        node.seinectl(&["rule", "stats"]).is_ok_and(|stats| stats.contains(sign))
    })?;
    cluster.node_mut("node1")?.agent()?.kill()?;
    let socket = cluster.node("node1")?.file("datapath.sock");
    counters::call(&socket, "ports of guests", async |client| {
        let hello =
            v1::HelloRequest { client: "seine-e2e".into(), version: seine_datapath_api::VERSION };
        let hello = client.hello(hello).await?.into_inner();
        for seat in seats {
            client.open_port(seat.port(hello.session)).await?;
        }
        let part = v1::TransactionPart {
            session: hello.session,
            revision: hello.revision + 1,
            mode: v1::transaction_part::Mode::Delta.into(),
            upserts: seats.iter().map(Seat::endpoint).collect(),
            last: true,
            ..v1::TransactionPart::default()
        };
        client.apply(tonic::codegen::tokio_stream::iter([part])).await
    })?;
    Ok(())
}
