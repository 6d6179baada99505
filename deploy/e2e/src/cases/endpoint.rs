//! An endpoint of a Service goes, and those who talk to the others do not notice.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::exposed::{addresses, parsed, service};
use super::restart::Session;
use super::service::install;
use super::{Case, Stage, Underlay, manifests};
use crate::cluster::Cluster;
use crate::daemon::until;
use crate::failure::{Failure, Outcome, expect};
use crate::namespace::Namespace;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[Case {
    name: "when an endpoint dies, connections to the others stay and new ones go to them",
    run: dies,
}];

/// Connections in a batch: chance leaves no endpoint of three out.
const BATCH: usize = 40;
const LIMIT: Duration = Duration::from_secs(20);

/// An endpoint that accepts.
struct Server {
    name: &'static str,
    listener: TcpListener,
}

fn failed(action: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
    Failure::io(action, Path::new("the Service"))
}

impl Server {
    fn of(cluster: &Cluster, name: &'static str) -> Outcome<Server> {
        let pod = cluster.pod(name)?;
        let address = SocketAddr::new(pod.address(Family::V4)?, 8080);
        let listener = pod.namespace.enter(|| TcpListener::bind(address))?;
        let listener = listener.map_err(failed("serve"))?;
        listener.set_nonblocking(true).map_err(failed("serve"))?;
        Ok(Server { name, listener })
    }
}

/// Connects to the Service; by which endpoint it was accepted, and the connection.
fn connect(from: &Namespace, servers: &[Server]) -> Outcome<(&'static str, Session)> {
    let target = SocketAddr::new(parsed(addresses(Family::V4).cluster), 80);
    let client = from.enter(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))?;
    let client = client.map_err(failed("connect to"))?;
    let own = client.local_addr().map_err(failed("connect to"))?;
    let mut found = None;
    until("the connection is accepted", 20, || {
        found = servers.iter().find_map(|it| {
            // Another peer is a connection whose client has given up.
            let accepted = it.listener.accept().ok().filter(|(_, peer)| *peer == own);
            accepted.map(|(stream, _)| (it.name, stream))
        });
        found.is_some()
    })?;
    let Some((name, server)) = found else { return Err(Failure::Unmet("not accepted".into())) };
    server.set_nonblocking(false).map_err(failed("serve"))?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(LIMIT)).map_err(failed("talk to"))?;
    }
    Ok((name, Session { client, server }))
}

/// As many connections at once as a batch has.
fn batch(from: &Namespace, servers: &[Server]) -> Outcome<Vec<(&'static str, Session)>> {
    (0..BATCH).map(|_| connect(from, servers)).collect()
}

fn dies(stage: &mut Stage) -> Outcome {
    let pods = [("a", 1), ("b", 1), ("c", 2), ("d", 1)];
    let cluster = stage.cluster(&manifests(2, Underlay::Ipv4, &pods))?;
    let client = cluster.pod("a")?.namespace.clone();
    let mut servers = ["b", "c", "d"]
        .map(|name| Server::of(cluster, name))
        .into_iter()
        .collect::<Outcome<Vec<_>>>()?;
    install(cluster, "shop.yaml", &service(cluster, "Cluster", &["b", "c", "d"])?)?;
    until("the Service is reached", 20, || connect(&client, &servers).is_ok())?;
    let (doomed, mut staying): (Vec<_>, Vec<_>) =
        batch(&client, &servers)?.into_iter().partition(|(name, _)| *name == "d");
    for name in ["b", "c"] {
        let some = staying.iter().any(|(it, _)| *it == name);
        expect(some, || format!("none of {BATCH} connections went to {name}"))?;
    }
    expect(!doomed.is_empty(), || "no connection went to the endpoint that is to die".into())?;

    let over = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let talking = scope.spawn(|| -> Outcome {
            while !over.load(Ordering::Relaxed) {
                for (name, session) in &mut staying {
                    session.speak(&format!("to {name} when another endpoint died"))?;
                }
            }
            Ok(())
        });
        let moved = die(cluster, &client, &mut servers);
        over.store(true, Ordering::Relaxed);
        talking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        moved
    })?;
    for name in ["b", "c"] {
        let some = moved.iter().any(|(it, _)| *it == name);
        expect(some, || format!("none of {BATCH} new connections went to {name}"))?;
    }
    for (name, session) in &mut staying {
        session.speak(&format!("to {name} after another endpoint died"))?;
    }
    drop(doomed);
    Ok(())
}

/// The Pod `d` is gone first, and the Service learns of it later. Then new connections.
fn die(
    cluster: &mut Cluster,
    client: &Namespace,
    servers: &mut Vec<Server>,
) -> Outcome<Vec<(&'static str, Session)>> {
    cluster.detach("d")?;
    servers.retain(|it| it.name != "d");
    install(cluster, "shop.yaml", &service(cluster, "Cluster", &["b", "c"])?)?;
    let mut last = None;
    until("every new connection goes to an endpoint that lives", 60, || {
        last = batch(client, servers).ok();
        last.is_some()
    })?;
    Ok(last.unwrap_or_default())
}
