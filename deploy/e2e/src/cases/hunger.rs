//! Who uses the cores: the Pod that sends most is named, and whoever only gets packets is not.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::reach::failed;
use super::{Case, Stage, Underlay, manifests};
use crate::failure::{Failure, Outcome, expect};
use crate::node::Node;
use crate::pod::{Family, Pod};

pub(super) const CASES: &[Case] = &[
    Case { name: "the pod that floods is named as the one that uses most of a core", run: flood },
    Case { name: "a trace tells which connection its packet belongs to", run: belong },
];

/// How long a Pod that does not flood waits between two packets.
const PAUSE: Duration = Duration::from_millis(5);

fn flood(stage: &mut Stage) -> Outcome {
    let cluster =
        stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1), ("b", 1), ("target", 1)]))?;
    let node = cluster.node("node1")?;
    let target = cluster.pod("target")?;
    let conversations = [
        Conversation::open(cluster.pod("a")?, target)?,
        Conversation::open(cluster.pod("b")?, target)?,
    ];
    // Either of them, so that it is not the one that comes first for another reason.
    for hungry in [0, 1] {
        let stop = AtomicBool::new(false);
        let top = std::thread::scope(|scope| {
            for (number, conversation) in conversations.iter().enumerate() {
                let pause = (number != hungry).then_some(PAUSE);
                let stop = &stop;
                scope.spawn(move || conversation.send(pause, stop));
            }
            let top = top(node);
            stop.store(true, Ordering::Relaxed);
            top
        })?;
        let names: Vec<&str> = top.iter().map(|(name, _)| name.as_str()).collect();
        let [flooder, other] = [hungry, 1 - hungry].map(|it| conversations[it].pod.name());
        expect(names.first() == Some(&flooder.as_str()), || format!("{flooder}: {top:?}"))?;
        expect(names.contains(&other.as_str()), || format!("{other} is missing: {top:?}"))?;
        let part = |name: &str| top.iter().find(|(it, _)| it == name).map_or(0.0, |it| it.1);
        let (much, little) = (part(&flooder), part(&other));
        expect(much > 2.0 * little, || format!("{much} and {little} of a core"))?;
        expect(part(&target.name()) < little, || format!("who receives pays: {top:?}"))?;
    }
    let queues = node.seinectl(&["worker", "list", "--queues"])?;
    expect(queues.contains(&format!("{}/eth0", conversations[0].pod.name())), || queues.clone())
}

/// Pods with the cores' worth of cycles they use, most hungry first.
fn top(node: &Node) -> Outcome<Vec<(String, f64)>> {
    let text = node.seinectl(&["pod", "top", "-o", "json"])?;
    let top: Value = serde_json::from_str(&text).map_err(|_| Failure::Unmet(text.clone()))?;
    let pods = top["pods"].as_array().into_iter().flatten();
    let entry = |pod: &Value| Some((pod["name"].as_str()?.to_owned(), pod["cores"].as_f64()?));
    Ok(pods.filter_map(entry).collect())
}

fn belong(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1), ("b", 1)]))?;
    let (node, a, b) = (cluster.node("node1")?, cluster.pod("a")?, cluster.pod("b")?);
    let Conversation { own, other, .. } = Conversation::open(a, b)?;
    let (asked, answered) = (format!("udp/{}", other.port()), format!("udp/{}", own.port()));
    let trace = |from: &Pod, to: &Pod, what: &str, source_port: u16| {
        let (from, to, port) = (from.name(), to.name(), source_port.to_string());
        node.seinectl(&["trace", &from, &to, what, "--source-port", &port])
    };
    let connection = format!("Belongs to connection udp {own} > {other}");
    for (text, way) in [
        (trace(a, b, &asked, own.port())?, "from who began it"),
        (trace(b, a, &answered, other.port())?, "as an answer"),
    ] {
        let line = format!("{connection}, {way}: Answered");
        expect(text.contains(&line), || format!("no `{line}` in\n{text}"))?;
    }
    let stranger = trace(a, b, &asked, 9)?;
    expect(!stranger.contains("Belongs to"), || stranger.clone())?;
    // Another protocol is another connection.
    let sctp = node.seinectl(&["trace", &a.name(), &b.name(), "sctp/80"])?;
    expect(sctp.contains("Output by ") && sctp.contains(" SCTP "), || sctp.clone())?;
    // No connection begins with the middle of a handshake.
    let words = ["trace", &a.name(), &b.name(), "tcp/80", "--tcp-flags", "syn,ack"];
    let stray = node.seinectl(&words)?;
    expect(stray.contains("Drop InvalidConnection"), || stray.clone())
}

/// Datagrams from one Pod to another, asked and answered once.
struct Conversation<'a> {
    pod: &'a Pod,
    socket: UdpSocket,
    /// Its far end, which answers no more but is there.
    _server: UdpSocket,
    own: SocketAddr,
    other: SocketAddr,
}

impl<'a> Conversation<'a> {
    fn open(pod: &'a Pod, target: &Pod) -> Outcome<Conversation<'a>> {
        let (from, to) = (pod.address(Family::V4)?, target.address(Family::V4)?);
        let bind = |at| move || UdpSocket::bind(SocketAddr::new(at, 0));
        let server = target.namespace.enter(bind(to))?.map_err(failed("bind to", to))?;
        let socket = pod.namespace.enter(bind(from))?.map_err(failed("bind to", from))?;
        let exchange = || -> std::io::Result<(SocketAddr, SocketAddr)> {
            let (own, other) = (socket.local_addr()?, server.local_addr()?);
            let limit = Some(Duration::from_secs(3));
            server.set_read_timeout(limit)?;
            socket.set_read_timeout(limit)?;
            socket.connect(other)?;
            socket.send(b"asked")?;
            let (_, peer) = server.recv_from(&mut [0; 16])?;
            server.send_to(b"answered", peer)?;
            socket.recv(&mut [0; 16])?;
            Ok((own, other))
        };
        let (own, other) = exchange().map_err(failed("talk UDP with", to))?;
        Ok(Conversation { pod, socket, _server: server, own, other })
    }

    /// Sends until it is stopped.
    fn send(&self, pause: Option<Duration>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            // A send that finds no room is none: the flood goes on all the same.
            let _ = self.socket.send(&[0xa5; 18]);
            if let Some(pause) = pause {
                std::thread::sleep(pause);
            }
        }
    }
}
