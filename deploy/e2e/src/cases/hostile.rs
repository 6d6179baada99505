//! Fail closed: what a hostile Pod tries reaches nobody, whoever has died.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use seine_datapath_api::v1::{
    HelloRequest, ObjectId, TransactionPart, object_id::Kind, transaction_part::Mode,
};

use super::{Case, Stage, Underlay, manifests, reach};
use crate::attack::{ATTACKS, Field, Host, Tunnel};
use crate::bridge::{self, BridgeCluster, BridgePod};
use crate::cluster::Cluster;
use crate::counters;
use crate::failure::{Failure, Outcome, expect};
use crate::frames::{self, Marker};
use crate::measure::pings;
use crate::namespace::Namespace;
use crate::node::Node;
use crate::pod::{Family, Pod};
use crate::raw::Watch;
use crate::underlay::UPLINK;

pub(super) const CASES: &[Case] = &[
    Case { name: "each attack of a hostile pod succeeds on a plain bridge", run: on_a_bridge },
    Case { name: "no attack of a hostile pod reaches anybody", run: all_alive },
    Case {
        name: "a hostile pod that takes another's address is cut off, by its own kernel",
        run: takes_address,
    },
    Case { name: "no attack succeeds while the agent is dead", run: agent_dead },
    Case { name: "no attack succeeds while the datapath is dead", run: datapath_dead },
    Case {
        name: "no attack succeeds while the datapath's worker process is dead",
        run: worker_dead,
    },
    Case {
        name: "no attack succeeds when the datapath restarts and no agent is there",
        run: no_node,
    },
    Case { name: "no attack succeeds before the pod's endpoint is known", run: no_endpoint },
    Case { name: "no attack succeeds from a link that has no port", run: no_port },
    Case { name: "a tunnel packet from a host that is no node is dropped", run: strange_peer },
];

const PODS: &[(&str, u8)] = &[("hostile", 1), ("near", 1), ("far", 2)];

fn on_a_bridge(stage: &mut Stage) -> Outcome {
    let mut cluster = BridgeCluster::create(&stage.run_name("b"))?;
    let hostile = cluster.add(0, "hostile")?;
    let near = cluster.add(0, "near")?;
    let far = cluster.add(1, "far")?;
    let host = |pod: &BridgePod| Host {
        namespace: pod.namespace.clone(),
        mac: pod.mac,
        v4: pod.v4,
        v6: pod.v6,
    };
    let field = Field {
        hostile: host(&hostile),
        near: host(&near),
        far: host(&far),
        gateway: bridge::bridge_mac(0),
        gateway_v4: bridge::gateway_v4(0),
        nodes: [bridge::node_v4(0), bridge::node_v4(1)],
        tunnel: Tunnel::Vxlan,
    };
    expect(pings(&near.namespace, far.v4.into()), || "the plain bridge does not work".to_owned())?;
    for (number, attack) in (0..).zip(ATTACKS) {
        let reached = attack.reaches(&field, number)?;
        expect(reached > 0, || format!("`{}` reaches nobody even on a bridge", attack.name))?;
    }
    Ok(())
}

fn field(cluster: &Cluster) -> Outcome<Field> {
    let host = |name: &str| -> Outcome<Host> {
        let pod = cluster.pod(name)?;
        Ok(Host {
            namespace: pod.namespace.clone(),
            mac: pod.mac()?,
            v4: v4(pod.address(Family::V4)?),
            v6: v6(pod.address(Family::V6)?),
        })
    };
    let mut nodes = [Ipv4Addr::UNSPECIFIED; 2];
    for (slot, node) in nodes.iter_mut().zip(&cluster.nodes) {
        let address = node.manifest.addresses.first().copied();
        *slot = v4(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
    let (gateway, gateway_v4) = gateway(cluster.pod("hostile")?)?;
    Ok(Field {
        hostile: host("hostile")?,
        near: host("near")?,
        far: host("far")?,
        gateway,
        gateway_v4,
        nodes,
        tunnel: Tunnel::Geneve,
    })
}

/// The gateway as a Pod knows it: by its default route, and by asking for its MAC.
pub(super) fn gateway(pod: &Pod) -> Outcome<(frames::Mac, Ipv4Addr)> {
    let unmet = |what: &str, text: &str| Failure::Unmet(format!("no {what} in `{text}`"));
    let route = pod.namespace.ip("-4 route show default")?;
    let mut words = route.split_whitespace().skip_while(|word| *word != "via").skip(1);
    let address = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
    let address = address.ok_or_else(|| unmet("gateway", &route))?;
    // Answered or not, it fills the neighbour table.
    pings(&pod.namespace, address.into());
    let neighbor = pod.namespace.ip(&format!("neigh show {address}"))?;
    let mut words = neighbor.split_whitespace().skip_while(|word| *word != "lladdr").skip(1);
    let mac = words.next().and_then(parse_mac).ok_or_else(|| unmet("MAC", &neighbor))?;
    Ok((mac, address))
}

fn parse_mac(text: &str) -> Option<frames::Mac> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

/// Tries everything; anything that arrives is a failure.
fn nothing_reaches(field: &Field) -> Outcome {
    for (number, attack) in (0..).zip(ATTACKS) {
        let reached = attack.reaches(field, number)?;
        expect(reached == 0, || format!("`{}` reached a pod, {reached} frames", attack.name))?;
    }
    Ok(())
}

/// What was poisoned would show here: nobody believes the hostile Pod to be somebody else.
fn nobody_believes(field: &Field) -> Outcome {
    let mac = field.hostile.mac.map(|byte| format!("{byte:02x}")).join(":");
    let neighbors = field.near.namespace.ip("neigh show")?;
    let own = [field.hostile.v4.to_string(), field.hostile.v6.to_string()];
    let poisoned = neighbors.lines().find(|line| {
        let address = line.split(' ').next().unwrap_or_default();
        line.contains(&mac) && !own.iter().any(|own| own == address)
    });
    match poisoned {
        Some(line) => Err(Failure::Unmet(format!("the neighbour believes `{line}`"))),
        None => Ok(()),
    }
}

fn attacked(stage: &mut Stage) -> Outcome<(&mut Cluster, Field)> {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    for (from, to) in [("hostile", "near"), ("near", "far")] {
        reach::reach(cluster, from, to, Family::V4)?;
    }
    let field = field(cluster)?;
    Ok((cluster, field))
}

fn all_alive(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    let before = cluster.counters()?;
    nothing_reaches(&field)?;
    nobody_believes(&field)?;
    let moved = cluster.counters()?.since(&before);
    for reason in ["SpoofedSource", "SpoofedArp", "SpoofedNeighbor", "TaggedFrame"] {
        expect(moved.dropped(reason) > 0, || format!("no drop was counted as {reason}"))?;
    }
    // It is cut off from nothing that it may do.
    for to in ["near", "far"] {
        reach::reach(cluster, "hostile", to, Family::V6)?;
    }
    Ok(())
}

fn takes_address(stage: &mut Stage) -> Outcome {
    let (_, field) = attacked(stage)?;
    let own = &field.hostile.namespace;
    own.ip(&format!("addr add {}/32 dev eth0", field.far.v4))?;
    own.ip(&format!("-6 addr add {}/128 dev eth0 nodad", field.far.v6))?;
    let near = field.near.mac.map(|byte| format!("{byte:02x}")).join(":");
    own.ip(&format!("neigh replace {} lladdr {near} dev eth0", field.near.v4))?;
    own.ip(&format!("route replace {}/32 dev eth0 src {}", field.near.v4, field.far.v4))?;
    expect(!pings(own, field.near.v4.into()), || "it got an answer to a false IPv4".to_owned())?;
    let ping = format!("ping -n -W 1 -c 1 -I {} {}", field.far.v6, field.near.v6);
    expect(own.run(&ping).is_err(), || "it got an answer to a false IPv6".to_owned())?;
    nobody_believes(&field)?;
    // The owner of the address notices nothing.
    let near = &field.near.namespace;
    expect(pings(near, field.far.v4.into()), || "the address's owner is cut off".to_owned())
}

fn agent_dead(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    for node in &mut cluster.nodes {
        node.agent()?.kill()?;
    }
    nothing_reaches(&field)?;
    // The datapath goes on with what it knows.
    reach::reach(cluster, "near", "far", Family::V4)?;
    cluster.nodes.iter_mut().try_for_each(Node::start_agent)
}

fn datapath_dead(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    let node = cluster.node_mut("node1")?;
    let children = node.datapath()?.children();
    node.datapath()?.kill()?;
    for child in children {
        if let Some(ticks) = crate::journal::start_time(child) {
            crate::journal::signal(child, ticks, nix::sys::signal::Signal::SIGKILL);
        }
    }
    nothing_reaches(&field)?;
    let reached = pings(&field.hostile.namespace, field.near.v4.into());
    expect(!reached, || "with no datapath pods still reach each other".to_owned())
}

/// The parent starts it again at once, so the attacks fall into death and rebirth.
fn worker_dead(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    for (number, attack) in (0..).zip(ATTACKS) {
        if number % 4 == 0 {
            let children = cluster.node_mut("node1")?.datapath()?.children();
            expect(!children.is_empty(), || "the datapath has no worker process".to_owned())?;
            for child in children {
                if let Some(ticks) = crate::journal::start_time(child) {
                    crate::journal::signal(child, ticks, nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
        let reached = attack.reaches(&field, number)?;
        expect(reached == 0, || format!("`{}` reached a pod, {reached} frames", attack.name))?;
    }
    Ok(())
}

/// A datapath that nobody has told anything: Pods are attached, and no Node is installed.
fn no_node(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    let node = cluster.node_mut("node1")?;
    node.agent()?.kill()?;
    node.datapath()?.stop()?;
    node.start_datapath()?;
    nothing_reaches(&field)?;
    let reached = pings(&field.hostile.namespace, field.near.v4.into());
    expect(!reached, || "pods reach each other before a Node is installed".to_owned())?;
    cluster.node_mut("node1")?.start_agent()?;
    reach::reach(cluster, "hostile", "near", Family::V4)
}

/// The port stays open, and the endpoint is taken away by a session of our own.
fn no_endpoint(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    let name = format!("{}/eth0", cluster.pod("hostile")?.name());
    let node = cluster.node_mut("node1")?;
    node.agent()?.kill()?;
    let reply = counters::call(&node.file("datapath.sock"), "a transaction", async |client| {
        let hello =
            HelloRequest { client: "seine-e2e".to_owned(), version: seine_datapath_api::VERSION };
        let hello = client.hello(hello).await?.into_inner();
        let part = TransactionPart {
            session: hello.session,
            revision: hello.revision + 1,
            mode: Mode::Delta.into(),
            deletes: vec![ObjectId { kind: Kind::Endpoint.into(), name }],
            last: true,
            ..TransactionPart::default()
        };
        let parts = tonic::codegen::tokio_stream::iter([part]);
        client.apply(parts).await
    })?;
    expect(reply.into_inner().deleted == 1, || "the endpoint was not there".to_owned())?;
    let before = cluster.counters()?;
    nothing_reaches(&field)?;
    let dropped = cluster.counters()?.since(&before).dropped("UnknownPort");
    expect(dropped > 0, || "no drop was counted as UnknownPort".to_owned())?;
    let legitimate = pings(&field.hostile.namespace, field.near.v4.into());
    expect(!legitimate, || "a pod without an endpoint reaches another".to_owned())?;
    cluster.node_mut("node1")?.start_agent()?;
    reach::reach(cluster, "hostile", "near", Family::V4)
}

/// A link into the namespace of host ends, as the agent makes it, with no port opened on it.
fn no_port(stage: &mut Stage) -> Outcome {
    let (cluster, mut field) = attacked(stage)?;
    let stranger = Namespace::create(&cluster.journal, "stranger")?;
    let ports = &cluster.node("node1")?.ports_namespace;
    ports.ip(&format!(
        "link add stranger type veth peer name eth0 address 02:00:00:00:00:99 netns {}",
        stranger.name()
    ))?;
    ports.ip("link set stranger up")?;
    stranger.ip("addr add 10.10.1.99/24 dev eth0")?;
    stranger.ip("link set eth0 up")?;
    field.hostile.namespace = stranger.clone();
    field.hostile.mac = [2, 0, 0, 0, 0, 0x99];
    field.hostile.v4 = Ipv4Addr::new(10, 10, 1, 99);
    nothing_reaches(&field)?;
    // Nor does the namespace itself answer or route, whatever it is told to be.
    let mac = ports.ip("-o link show dev stranger")?;
    let mac = mac.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
    field.gateway = mac.and_then(parse_mac).unwrap_or(field.gateway);
    nothing_reaches(&field)?;
    ports.ip("link del stranger")?;
    stranger.remove()
}

/// The host outside speaks Geneve to a node; a node of the cluster does the same and is heard.
fn strange_peer(stage: &mut Stage) -> Outcome {
    let (cluster, field) = attacked(stage)?;
    let marker = Marker::new(200);
    let watch = Watch::start(&field.near.namespace, "eth0", marker)?;
    let near = &field.near;
    let inner = frames::udp(
        Tunnel::Geneve.inner_mac(near.mac),
        field.gateway,
        field.far.v4.into(),
        near.v4.into(),
        marker,
    );
    let payload = Tunnel::Geneve.wrap(&inner);
    let before = cluster.counters()?;
    let target = std::net::SocketAddr::new(field.nodes[0].into(), Tunnel::Geneve.port());
    let speak = |from: &Namespace| -> Outcome {
        let sent = from.enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            (0..3).try_for_each(|_| socket.send_to(&payload, target).map(|_| ()))
        })?;
        sent.map_err(Failure::io("send to", std::path::Path::new(&target.to_string())))?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        Ok(())
    };
    speak(&cluster.underlay.outside)?;
    expect(watch.seen() == 0, || "a stranger's tunnel packet reached a pod".to_owned())?;
    let moved = cluster.counters()?.since(&before);
    expect(moved.dropped("UnknownTunnelPeer") >= 3, || {
        "no drop was counted as UnknownTunnelPeer".to_owned()
    })?;
    // A NIC would complete the checksum that this kernel leaves to its device.
    let peer = &cluster.node("node2")?.namespace;
    peer.run(&format!("ethtool -K {UPLINK} tx off"))?;
    speak(peer)?;
    expect(watch.seen() > 0, || "the same packet from a node of the cluster was lost".to_owned())
}
