//! The demo: a cluster from manifests, every row of the fixed list, a table, and a verdict.

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::attached::{check_attachment, check_uplink};
use crate::cluster::Cluster;
use crate::counters::{Counters, Sampled};
use crate::daemon::Daemon;
use crate::decided::Shop;
use crate::failure::{Failure, Outcome, expect};
use crate::measure::{self, Measured};
use crate::namespace::Namespace;
use crate::node::Node;
use crate::pod::{Family, Pod};
use crate::report::{self, Format, Line};
use crate::rows::{Measure, Row, Way, rows};
use crate::underlay::OUTSIDE;

/// What one run of the demo is told.
#[derive(Clone, Copy, Debug)]
pub struct Demo<'a> {
    /// The run's name, part of every namespace's.
    pub run: &'a str,
    /// The manifests.
    pub folder: &'a Path,
    /// How to print.
    pub format: Format,
    /// Whether to leave the cluster up.
    pub keep: bool,
}

/// The Pods that the rows speak of.
struct Cast<'a> {
    client: &'a Pod,
    near: &'a Pod,
    far: &'a Pod,
}

impl Demo<'_> {
    /// Runs it all; the number of rows that failed.
    pub fn play(&self) -> Outcome<usize> {
        let begin = Instant::now();
        self.format.progress("bringing up the cluster ...");
        let cluster = Cluster::from_folder(self.run, self.folder)?;
        let took = begin.elapsed().as_secs_f64();
        self.format.progress(&format!(
            "{} nodes and {} pods are up after {took:.1} s",
            cluster.nodes.len(),
            cluster.pods.len()
        ));
        let cast = Cast::of(&cluster)?;
        let log = cluster.journal.directory().join("servers.log");
        let mut servers: Vec<Daemon> = Vec::new();
        for pod in [cast.near, cast.far] {
            servers.extend(measure::start_servers(&cluster.journal, &pod.namespace, &log)?);
        }
        let lines = self.print_rows(&cluster, &cast)?;
        let failed = lines.iter().filter(|line| line.failure.is_some()).count();
        let missing = missing(&cluster, &lines);
        for row in &missing {
            self.format.progress(&format!("missing row: {row}"));
        }
        let sampled = Sampled::read(&cluster.nodes);
        let unchecked = sampled.samples == 0 || sampled.mismatches > 0;
        let failed = failed + missing.len() + usize::from(unchecked);
        self.print_end(&cluster, begin, (lines.len(), failed), sampled)?;
        if self.keep {
            print_how_to_use(&cluster, &cast)?;
            std::mem::forget(servers);
            cluster.keep()?;
        } else {
            drop(servers);
            self.format.progress("detaching the pods and removing the cluster ...");
            cluster.close()?;
        }
        Ok(failed)
    }

    fn print_rows(&self, cluster: &Cluster, cast: &Cast<'_>) -> Outcome<Vec<Line>> {
        let mut lines = Vec::new();
        self.format.head();
        let mut print = |line: Line| {
            self.format.line(&line);
            lines.push(line);
        };
        for node in &cluster.nodes {
            print(attach_line(node.name(), "uplink", check_uplink(node)));
        }
        for pod in &cluster.pods {
            let node = cluster.node(&pod.manifest.node)?;
            print(attach_line(&pod.manifest.name, "pod port", check_attachment(node, pod)));
        }
        for row in rows() {
            print(run_row(cluster, cast, row)?);
        }
        for (kind, test, result) in decisions(cluster, cast)? {
            let (note, failure) = match result {
                Ok(note) => (note, None),
                Err(failure) => (String::new(), Some(failure.to_string())),
            };
            print(Line { family: "v4", note, failure, ..line(kind, kind, test) });
        }
        let trace = trace(cluster, cast);
        let line =
            |failure, note| Line { failure, note, ..line("trace", "trace", "seinectl trace") };
        print(match trace {
            Ok(text) => {
                let steps = text.lines().count();
                if self.format == Format::Text {
                    println!("\n{text}");
                }
                line(None, format!("{steps} lines"))
            }
            Err(failure) => line(Some(failure.to_string()), String::new()),
        });
        Ok(lines)
    }

    fn print_end(
        &self,
        cluster: &Cluster,
        begin: Instant,
        (rows, failed): (usize, usize),
        sampled: Sampled,
    ) -> Outcome {
        let counters = named(cluster, &cluster.counters()?);
        let (moved, drops) = (report::moved(&counters), report::drops(&counters));
        let took = begin.elapsed().as_secs();
        if self.format == Format::Json {
            let end = json!({
                "kind": "end", "rows": rows, "failed": failed, "seconds": took,
                "samples": sampled.samples, "mismatches": sampled.mismatches,
                "counters": moved, "drops": drops,
            });
            println!("{end}");
        } else {
            println!("\nfinal counters");
            for text in moved.iter().chain(&drops) {
                println!("     {text}");
            }
            let Sampled { samples, mismatches } = sampled;
            println!("\n{samples} packets under way also took the stages, {mismatches} differed");
            println!("{rows} rows, {failed} failed, {took} s");
        }
        Ok(())
    }
}

impl<'a> Cast<'a> {
    fn of(cluster: &'a Cluster) -> Outcome<Cast<'a>> {
        let client = cluster.pods.first();
        let other = |same: bool| {
            let client = client?;
            let mut others = cluster.pods.iter().skip(1);
            others.find(|pod| (pod.manifest.node == client.manifest.node) == same)
        };
        match (client, other(true), other(false)) {
            (Some(client), Some(near), Some(far)) => Ok(Cast { client, near, far }),
            _ => Err(Failure::Unmet(
                "the demo needs two Pods on one node and one on another".to_owned(),
            )),
        }
    }
}

/// Rows of the fixed list that no line of the report is for.
fn missing(cluster: &Cluster, lines: &[Line]) -> Vec<String> {
    let has = |kind: &str, way: &str, family: &str, test: &str| {
        lines
            .iter()
            .any(|it| (it.kind, &*it.way, it.family, &*it.test) == (kind, way, family, test))
    };
    let mut missing = Vec::new();
    for Row { way, family, measure } in rows() {
        let (way, family, test) = (way.to_string(), family.name(), measure.to_string());
        if !has("measure", &way, family, &test) {
            missing.push(format!("{way} {family} {test}"));
        }
    }
    let pods = cluster.pods.iter().map(|pod| (pod.manifest.name.as_str(), "pod port"));
    let nodes = cluster.nodes.iter().map(|node| (node.name(), "uplink"));
    for (who, what) in pods.chain(nodes).filter(|(who, what)| !has("attach", who, "", what)) {
        missing.push(format!("{who} {what}"));
    }
    for (kind, test) in DECISIONS {
        if !has(kind, kind, "v4", test) {
            missing.push(format!("{kind} {test}"));
        }
    }
    if !has("trace", "trace", "", "seinectl trace") {
        missing.push("trace".to_owned());
    }
    missing
}

/// The counters with every Pod's port called by the Pod.
fn named(cluster: &Cluster, counters: &Counters) -> Counters {
    counters.renamed(|port| {
        let pod = cluster.pods.iter().find(|pod| pod.attachment.host_interface == port)?;
        Some(pod.manifest.name.clone())
    })
}

fn line(kind: &'static str, way: &str, test: &str) -> Line {
    Line {
        kind,
        way: way.to_owned(),
        family: "",
        test: test.to_owned(),
        value: None,
        unit: "",
        note: String::new(),
        moved: Vec::new(),
        drops: Vec::new(),
        failure: None,
    }
}

fn attach_line(who: &str, what: &str, result: Outcome<String>) -> Line {
    let (note, failure) = match result {
        Ok(note) => (note, None),
        Err(failure) => (String::new(), Some(failure.to_string())),
    };
    Line { note, failure, ..line("attach", who, what) }
}

/// Rows about Services and policies, in order.
const DECISIONS: [(&str, &str); 4] = [
    ("service", "from node 1"),
    ("service", "from node 2"),
    ("policy", "denied"),
    ("policy", "allowed"),
];

/// A Service reached from both nodes, and a policy that denies and then lets through.
fn decisions(
    cluster: &Cluster,
    cast: &Cast<'_>,
) -> Outcome<[(&'static str, &'static str, Outcome<String>); 4]> {
    let shop = Shop::open(cluster, cast.client, [cast.near, cast.far])?;
    let results = [
        shop.shared(cast.client),
        shop.shared(cast.far),
        shop.judged("Reject"),
        shop.judged("Allow"),
    ];
    let mut results = results.into_iter();
    Ok(DECISIONS.map(|(kind, test)| {
        let missing = || Err(Failure::Unmet("it was not run".to_owned()));
        (kind, test, results.next().unwrap_or_else(missing))
    }))
}

/// Runs one row between two readings of every counter.
fn run_row(cluster: &Cluster, cast: &Cast<'_>, row: Row) -> Outcome<Line> {
    let before = cluster.counters()?;
    let measured = measure_row(cluster, cast, row);
    let moved = cluster.counters()?.since(&before);
    let unpaced = matches!(row.measure, Measure::Netperf(_) | Measure::Iperf3);
    let failure = match &measured {
        Err(failure) => Some(failure.to_string()),
        Ok(_) => went_through(cast, row, &moved).or_else(|| report::unexpected(&moved, unpaced)),
    };
    let measured = measured.ok();
    let moved = named(cluster, &moved);
    Ok(Line {
        kind: "measure",
        way: row.way.to_string(),
        family: row.family.name(),
        test: row.measure.to_string(),
        value: measured.as_ref().map(|it| it.value),
        unit: measured.as_ref().map_or("", |it| it.unit),
        note: measured.map(|it| it.note).unwrap_or_default(),
        moved: report::moved(&moved),
        drops: report::drops(&moved),
        failure,
    })
}

fn measure_row(cluster: &Cluster, cast: &Cast<'_>, row: Row) -> Outcome<Measured> {
    let Row { way, family, measure } = row;
    let node = cluster.node(&cast.client.manifest.node)?;
    let client = &cast.client.namespace;
    match (way, measure) {
        (Way::SameNode | Way::Across, _) => {
            let server = if way == Way::SameNode { cast.near } else { cast.far };
            let address = server.address(family)?;
            match measure {
                Measure::Iperf3 => measure::iperf3(client, address),
                Measure::Netperf(test) => measure::netperf(client, address, test, family),
                Measure::Ping | Measure::PingAndConnect => measure::ping(client, address, 5),
            }
        }
        (Way::NodeToPod, _) => {
            let address = cast.client.address(family)?;
            let measured = measure::ping(&node.namespace, address, 5)?;
            let seen = measure::seen_address(&node.namespace, client, address)?;
            note_seen(measured, seen)
        }
        (Way::PodToNode, _) => {
            let address = node_address(node, family)?;
            let measured = measure::ping(client, address, 5)?;
            let seen = measure::seen_address(client, &node.namespace, address)?;
            expect_seen(seen, cast.client.address(family)?)?;
            note_seen(measured, seen)
        }
        (Way::PodToOutside, _) => {
            let outside: &Namespace = &cluster.underlay.outside;
            let address = outside_address(family);
            let measured = measure::ping(client, address, 5)?;
            let seen = measure::seen_address(client, outside, address)?;
            expect_seen(seen, node_address(node, family)?)?;
            note_seen(measured, seen)
        }
    }
}

fn note_seen(measured: Measured, seen: IpAddr) -> Outcome<Measured> {
    Ok(Measured { note: format!("seen as {seen}"), ..measured })
}

fn expect_seen(seen: IpAddr, expected: IpAddr) -> Outcome {
    expect(seen == expected, || format!("the server saw {seen}, and should see {expected}"))
}

/// A node's own address of a family.
fn node_address(node: &Node, family: Family) -> Outcome<IpAddr> {
    let mut addresses = node.manifest.addresses.iter().copied();
    addresses.find(|it| family.has(*it)).ok_or_else(|| {
        Failure::Unmet(format!("{} has no {} InternalIP", node.name(), family.name()))
    })
}

fn outside_address(family: Family) -> IpAddr {
    let text = OUTSIDE[usize::from(family == Family::V6)];
    text.parse().expect("a constant of the underlay")
}

/// Why the packets of a row cannot have passed the datapath, by its counters.
fn went_through(cast: &Cast<'_>, row: Row, moved: &Counters) -> Option<String> {
    let port = |pod: &Pod| moved.port(&pod.manifest.node, &pod.attachment.host_interface);
    let client = port(cast.client);
    let server = match row.way {
        Way::SameNode => port(cast.near),
        Way::Across => port(cast.far),
        Way::NodeToPod | Way::PodToNode | Way::PodToOutside => client,
    };
    let passed = client.receive.min(client.transmit).min(server.receive).min(server.transmit) > 0;
    (!passed).then(|| "the ports' counters did not move".to_owned())
}

/// One described packet, table by table.
fn trace(cluster: &Cluster, cast: &Cast<'_>) -> Outcome<String> {
    let node = cluster.node(&cast.client.manifest.node)?;
    let endpoint = format!("{}/eth0", cast.client.name());
    let target = cast.far.address(Family::V4)?.to_string();
    node.seinectl(&["trace", &endpoint, &target, "tcp/80"])
}

fn print_how_to_use(cluster: &Cluster, cast: &Cast<'_>) -> Outcome {
    let node = cluster.node(&cast.client.manifest.node)?;
    let command = |words: &[&str]| node.seinectl_command(words);
    let endpoint = format!("{}/eth0", cast.client.name());
    let target = cast.far.address(Family::V4)?;
    eprintln!("\nThe cluster is up. Enter a pod:");
    for pod in &cluster.pods {
        eprintln!("  nsenter --net={} bash   # {}", pod.namespace.path().display(), pod.name());
    }
    eprintln!("and there, for example:\n  ping {target}");
    eprintln!("Change its Services and policies in\n  {}", cluster.manifests.display());
    eprintln!("Look at the datapath of {}:", node.name());
    for words in [
        &["port", "list"][..],
        &["rule", "stats"],
        &["drop", "list"],
        &["table", "show", "SpoofGuard"],
    ] {
        eprintln!("  {}", crate::namespace::line_of(&command(words)?));
    }
    let trace = command(&["trace", &endpoint, &target.to_string(), "tcp/80"])?;
    eprintln!("  {}", crate::namespace::line_of(&trace));
    eprintln!("Remove it all:\n  ./deploy/demo down");
    Ok(())
}
