//! Pods reach each other: same node and across, both families, both kinds of underlay.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::failure::{Failure, Outcome, expect};
use crate::measure;
use crate::namespace::Namespace;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "pods of one node and of two reach each other over an IPv4 underlay",
        run: |stage| all_pairs(stage, Underlay::Ipv4),
    },
    Case {
        name: "pods of one node and of two reach each other over an IPv6 underlay",
        run: |stage| all_pairs(stage, Underlay::Ipv6),
    },
    Case {
        name: "a packet too big for the tunnel is answered, and TCP learns the size",
        run: too_big,
    },
    Case { name: "the underlay's own traffic of a node goes on beside the datapath", run: beside },
];

const PODS: &[(&str, u8)] = &[("a", 1), ("b", 1), ("c", 2)];

fn all_pairs(stage: &mut Stage, underlay: Underlay) -> Outcome {
    let cluster = stage.cluster(&manifests(2, underlay, PODS))?;
    for (from, to) in [("a", "b"), ("a", "c"), ("c", "a"), ("c", "b")] {
        for family in Family::BOTH {
            reach(cluster, from, to, family)?;
        }
    }
    Ok(())
}

/// Ping, a TCP connection that carries a mebibyte each way, and UDP datagrams of every size class.
pub(super) fn reach(cluster: &Cluster, from: &str, to: &str, family: Family) -> Outcome {
    let (source, target) = (cluster.pod(from)?, cluster.pod(to)?);
    let address = target.address(family)?;
    measure::ping(&source.namespace, address, 3)?;
    tcp(&source.namespace, &target.namespace, address)?;
    udp(&source.namespace, &target.namespace, address)
}

/// A mebibyte there and back.
pub(crate) fn tcp(from: &Namespace, to: &Namespace, address: IpAddr) -> Outcome {
    let listener = to.enter(|| TcpListener::bind(SocketAddr::new(address, 0)))?;
    let listener = listener.map_err(failed("listen on", address))?;
    let target = listener.local_addr().map_err(failed("listen on", address))?;
    let bytes: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8).collect();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut received = vec![0; bytes.len()];
            stream.read_exact(&mut received)?;
            stream.write_all(&received)
        });
        let client = from.enter(|| -> std::io::Result<bool> {
            let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(&bytes)?;
            let mut echoed = vec![0; bytes.len()];
            stream.read_exact(&mut echoed)?;
            Ok(echoed == bytes)
        });
        if !matches!(client, Ok(Ok(_))) {
            // The server still waits: this connection, from its own side, lets it go.
            let _ = to.enter(|| TcpStream::connect(target));
        }
        let equal = client?.map_err(failed("talk TCP with", address))?;
        expect(equal, || format!("TCP with {address} changed bytes"))?;
        let served = server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        served.map_err(failed("serve TCP on", address))
    })
}

/// One datagram of each size, echoed; the largest has to be fragmented.
pub(crate) fn udp(from: &Namespace, to: &Namespace, address: IpAddr) -> Outcome {
    let any = SocketAddr::new(address, 0);
    let server = to.enter(|| UdpSocket::bind(any))?.map_err(failed("bind to", address))?;
    let target = server.local_addr().map_err(failed("bind to", address))?;
    let limit = Some(Duration::from_secs(3));
    server.set_read_timeout(limit).map_err(failed("bind to", address))?;
    for size in [0, 1, 512, 1400, 4000] {
        let exchange = || -> std::io::Result<bool> {
            let unspecified: IpAddr = match address {
                IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let client = UdpSocket::bind(SocketAddr::new(unspecified, 0))?;
            client.set_read_timeout(limit)?;
            let sent = vec![0xa5; size];
            client.send_to(&sent, target)?;
            let mut buffer = vec![0; 8192];
            let (length, peer) = server.recv_from(&mut buffer)?;
            server.send_to(&buffer[..length], peer)?;
            let (length, _) = client.recv_from(&mut buffer)?;
            Ok(buffer[..length] == sent)
        };
        let equal = from.enter(exchange)?.map_err(failed("talk UDP with", address))?;
        expect(equal, || format!("UDP of {size} bytes with {address} changed"))?;
    }
    Ok(())
}

pub(super) fn failed(action: &'static str, address: IpAddr) -> impl Fn(std::io::Error) -> Failure {
    move |source| Failure::io(action, Path::new(&address.to_string()))(source)
}

/// The Pod is given a bigger MTU than the tunnel has, as if its owner had changed it.
fn too_big(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    let (a, c) = (cluster.pod("a")?, cluster.pod("c")?);
    let ports = &cluster.node("node1")?.ports_namespace;
    // A veth drops what its other end could not have sent, before the datapath sees it.
    ports.ip(&format!("link set {} mtu 1500", a.attachment.host_interface))?;
    a.namespace.ip("link set eth0 mtu 1500")?;
    for family in Family::BOTH {
        let address = c.address(family)?;
        // Fits the interface with either header, and no tunnel.
        let ping = format!("ping -n -M do -s 1440 -c 2 -i 0.2 -W 1 {address}");
        let told = match a.namespace.run(&ping) {
            Ok(text) => text,
            Err(failure) => failure.to_string(),
        };
        // IPv4 says "mtu = 1450" or "mtu=1450", IPv6 "mtu: 1450", by who noticed first.
        let told = told.replace([' ', ':'], "").replace("mtu=", "mtu").to_lowercase();
        expect(told.contains("mtu1450"), || format!("no word of the tunnel's MTU: {told}"))?;
        tcp(&a.namespace, &c.namespace, address)?;
    }
    Ok(())
}

fn beside(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, PODS))?;
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    for address in two.manifest.addresses.iter().copied() {
        measure::ping(&one.namespace, address, 3)?;
        tcp(&one.namespace, &two.namespace, address)?;
        udp(&one.namespace, &two.namespace, address)?;
    }
    Ok(())
}
