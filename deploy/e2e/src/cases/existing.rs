//! What becomes of connections under way when a policy denies them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::reach::failed;
use super::service::install;
use super::{Case, Stage, Underlay, modes};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Outcome, expect};
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case { name: "a connection under way lives on under a policy that denies it", run: kept },
    Case { name: "with reevaluate a policy ends the connections that it denies", run: ended },
];

const PORT: u16 = 8080;

const DENIAL: &str = "\
apiVersion: crd.antrea.io/v1beta1
kind: ClusterNetworkPolicy
metadata: {name: closed}
spec:
  priority: 5
  tier: application
  appliedTo: [{namespaceSelector: {}}]
  ingress:
    - {name: nobody, action: Drop, ports: [{protocol: TCP, port: 8080}]}
";

/// A TCP connection, and both of its ends.
pub(super) struct Talk {
    client: TcpStream,
    server: TcpStream,
}

impl Talk {
    fn open(cluster: &Cluster, from: &str, to: &str, family: Family) -> Outcome<Talk> {
        let (from, to) = (cluster.pod(from)?, cluster.pod(to)?);
        let target = SocketAddr::new(to.address(family)?, PORT);
        let failed = failed("talk TCP with", target.ip());
        let listener = to.namespace.enter(|| TcpListener::bind(target))?.map_err(&failed)?;
        let connect = || TcpStream::connect_timeout(&target, Duration::from_secs(3));
        let client = from.namespace.enter(connect)?.map_err(&failed)?;
        let (server, _) = listener.accept().map_err(&failed)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true).map_err(&failed)?;
            stream.set_read_timeout(Some(Duration::from_millis(50))).map_err(&failed)?;
        }
        Ok(Talk { client, server })
    }

    /// Whether a byte gets there, and one back, without having to be sent again.
    pub(super) fn goes_on(&mut self) -> bool {
        let mut byte = [0];
        let mut pass = |from: &mut TcpStream, to: &mut TcpStream| {
            from.write_all(b"x").is_ok() && to.read_exact(&mut byte).is_ok()
        };
        pass(&mut self.client, &mut self.server) && pass(&mut self.server, &mut self.client)
    }
}

/// On one node, and across nodes, in both families.
pub(super) fn talks(cluster: &Cluster) -> Outcome<Vec<Talk>> {
    let mut talks = Vec::new();
    for from in ["a", "c"] {
        for family in Family::BOTH {
            talks.push(Talk::open(cluster, from, "b", family)?);
        }
    }
    let well = talks.iter_mut().all(Talk::goes_on);
    expect(well, || "a connection does not carry a byte".to_owned())?;
    Ok(talks)
}

/// Waits until nobody may open such a connection.
pub(super) fn denied(cluster: &Cluster) -> Outcome {
    until("nobody may connect any more", 30, || {
        ["a", "c"].iter().all(|from| Talk::open(cluster, from, "b", Family::V4).is_err())
    })
}

fn kept(stage: &mut Stage) -> Outcome {
    let cluster = modes::cluster(stage, Underlay::Ipv4, "")?;
    let mut talks = talks(cluster)?;
    install(cluster, "closed.yaml", DENIAL)?;
    denied(cluster)?;
    let well = talks.iter_mut().all(Talk::goes_on);
    expect(well, || "a connection was cut although connections are kept".to_owned())
}

fn ended(stage: &mut Stage) -> Outcome {
    let modes = "existingConnections = \"reevaluate\"\n";
    let cluster = modes::cluster(stage, Underlay::Ipv4, modes)?;
    let mut talks = talks(cluster)?;
    let since = Instant::now();
    install(cluster, "closed.yaml", DENIAL)?;
    until("all connections are cut", 30, || talks.iter_mut().all(|talk| !talk.goes_on()))?;
    let cut_ms = since.elapsed().as_millis();
    println!("    {} connections were cut within {cut_ms} ms of the manifest", talks.len());
    let counters = cluster.counters()?;
    expect(counters.dropped("IngressPolicy") > 0, || "no packet was denied".to_owned())
}
