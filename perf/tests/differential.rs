//! The compiled tables and the pipeline against the naive evaluator, packet by packet, over
//! generated clusters that change. The seed of a failure is printed; `SEINE_SEED=n` plays it alone.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::IpAddr;

use seine_perf::cases::attempt::{Attempt, Seen};
use seine_perf::cases::file::{CaseFile, Cluster, Pod, Protocol, Step};
use seine_perf::cases::opinion;
use seine_perf::cases::stage::{Policies, Stage};
use seine_perf::cases::world::{Place, full_name};
use seine_perf::generate::parts::PORTS;
use seine_perf::generate::{Generator, OUTSIDERS};
use seine_perf::naive::{self, Action, Query};
use serde_json::{Value, json};

const SEEDS: u64 = 40;
const STEPS: usize = 8;
const PACKETS: usize = 150;

/// A cluster that changes, as a file of one case, in one of both families.
fn generated(seed: u64) -> (CaseFile, Generator) {
    let mut generator = Generator::new(seed);
    let mut clusters = serde_json::Map::new();
    let mut steps = Vec::new();
    for step in 0..STEPS {
        let name = format!("c{step}");
        clusters.insert(name.clone(), generator.cluster());
        steps.push(json!({"cluster": name, "objects": generator.objects()}));
        for _ in 0..1 + generator.random.below(3) {
            generator.change();
        }
    }
    let file = json!({"format": "conf-case/1", "suite": "generated", "clusters": clusters,
        "cases": [{"id": format!("seed-{seed}"), "steps": steps}]});
    let file: CaseFile = serde_json::from_value(file).unwrap();
    (if seed.is_multiple_of(2) { file } else { file.in_ipv6() }, generator)
}

/// One packet, and what may become of it: one possibility for each endpoint of a Service.
struct Try {
    attempt: Attempt,
    queries: Vec<(Query, Option<Place>)>,
}

fn place(pod: &Pod) -> Place {
    Place::Pod(full_name(pod))
}

fn tried(
    generator: &mut Generator,
    cluster: &Cluster,
    step: &Step,
    source_port: u16,
) -> Option<Try> {
    let random = &mut generator.random;
    let v6 = cluster.pods[0].ip.is_ipv6();
    let outsider = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        if v6 { seine_perf::cases::address::address(address) } else { address }
    };
    let to = random.pick(&cluster.pods).clone();
    let (from, source) = if random.once_in(6) {
        let node = to.node.clone().unwrap();
        (Place::Outside(node), outsider(OUTSIDERS[random.below(OUTSIDERS.len())]))
    } else {
        let from = random.pick(&cluster.pods);
        (place(from), from.ip)
    };
    let protocol = *random.pick(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp]);
    let port = *random.pick(&PORTS);
    let icmp = if v6 { (128, 0) } else { (8, 0) };
    let base = Query {
        source,
        destination: to.ip,
        protocol: protocol.number(),
        source_port,
        port,
        icmp,
        service: None,
    };
    let attempt = Attempt {
        from,
        source,
        destination: to.ip,
        server: None,
        protocol,
        source_port,
        port,
        icmp,
    };
    let from_pod = matches!(attempt.from, Place::Pod(_));
    let services: Vec<&Value> =
        step.objects.iter().filter(|object| object["kind"] == "Service").collect();
    if from_pod && random.once_in(6) {
        let destination = outsider(OUTSIDERS[random.below(OUTSIDERS.len())]);
        let query = Query { destination, ..base };
        return Some(Try {
            attempt: Attempt { destination, ..attempt },
            queries: vec![(query, None)],
        });
    }
    if from_pod && !services.is_empty() && random.once_in(3) {
        let service = random.pick(&services);
        return by_service(cluster, service, &attempt, &base);
    }
    if source == to.ip {
        return None;
    }
    let server = Some(place(&to));
    Some(Try {
        attempt: Attempt { server: server.clone(), ..attempt },
        queries: vec![(base, server)],
    })
}

fn by_service(cluster: &Cluster, service: &Value, attempt: &Attempt, base: &Query) -> Option<Try> {
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    let wanted = &spec["ports"][0];
    let protocol = match wanted["protocol"].as_str()? {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let name = format!("{}/{}", metadata["namespace"].as_str()?, metadata["name"].as_str()?);
    let endpoints: Vec<&Pod> = cluster
        .pods
        .iter()
        .filter(|pod| {
            metadata["namespace"] == pod.namespace.as_str()
                && spec["selector"]["app"].as_str() == pod.labels.get("app").map(String::as_str)
        })
        .collect();
    // Without endpoints it is refused, whatever the policies say; through it to itself it is let
    // through, whatever they say. Both have tests of their own.
    if endpoints.is_empty() || endpoints.iter().any(|pod| pod.ip == attempt.source) {
        return None;
    }
    let target = u16::try_from(wanted["targetPort"].as_u64()?).ok()?;
    let query = |pod: &&Pod| {
        let query = Query {
            destination: pod.ip,
            protocol: protocol.number(),
            port: target,
            service: Some(name.clone()),
            ..base.clone()
        };
        (query, Some(place(pod)))
    };
    let attempt = Attempt {
        destination: spec["clusterIP"].as_str()?.parse().ok()?,
        protocol,
        port: u16::try_from(wanted["port"].as_u64()?).ok()?,
        ..attempt.clone()
    };
    Some(Try { attempt, queries: endpoints.iter().map(query).collect() })
}

/// Whether one of the possible verdicts is what is seen.
fn agrees(naive: &naive::Cluster, stage: &mut Stage, tried: &Try) -> Result<Action, String> {
    let mut verdicts = Vec::new();
    let mut seen = None;
    for (query, server) in &tried.queries {
        let verdict = naive.judge(query);
        // Which endpoint is chosen is not to be foreseen; only one of them can be where it arrives.
        let attempt = Attempt { server: server.clone(), ..tried.attempt.clone() };
        let found = attempt.make(stage.world(Policies::All));
        let alike = match (&found, verdict.action) {
            (Seen::Answer, action) => action.passes(),
            (Seen::Refusal, action) => action == Action::Reject,
            (Seen::Silence(reason), Action::Drop | Action::Isolate) => {
                reason.name().contains("Policy") || reason.name().contains("Isolation")
            }
            _ => false,
        };
        if alike {
            return Ok(verdict.action);
        }
        verdicts.push(verdict);
        seen = Some(found);
    }
    let world = stage.world(Policies::All);
    world.tell(true);
    let source_port = tried.attempt.source_port ^ 1;
    let _ = Attempt { source_port, ..tried.attempt.clone() }.make(world);
    let told = world.told().join("; ");
    world.tell(false);
    Err(format!("{:?}\nseen: {seen:?}\nnaive: {verdicts:?}\ntold: {told}", tried.attempt))
}

fn plays(seed: u64) -> [usize; 4] {
    let (file, mut generator) = generated(seed);
    let mut stage: Option<Stage> = None;
    let mut counts = [0; 4];
    let mut source_port = 40000;
    for (index, step) in file.cases[0].steps.iter().enumerate() {
        let cluster = &file.clusters[&step.cluster];
        let mut set = stage.take().unwrap_or_else(|| Stage::new(cluster).unwrap());
        set.set(cluster, step).unwrap_or_else(|error| panic!("seed {seed} step {index}: {error}"));
        let naive = opinion(cluster, step);
        for _ in 0..PACKETS {
            source_port = if source_port >= 56000 { 40000 } else { source_port + 2 };
            let Some(tried) = tried(&mut generator, cluster, step, source_port) else { continue };
            match agrees(&naive, &mut set, &tried) {
                Ok(Action::None | Action::Pass) => counts[0] += 1,
                Ok(Action::Allow) => counts[1] += 1,
                Ok(Action::Drop | Action::Isolate) => counts[2] += 1,
                Ok(Action::Reject) => counts[3] += 1,
                Err(difference) => {
                    panic!("SEINE_SEED={seed}, step {index}: {difference}")
                }
            }
        }
        stage = Some(set);
    }
    counts
}

#[test]
fn packets_meet_what_the_documentation_says_while_everything_changes() {
    let one = std::env::var("SEINE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = one.map_or((0..SEEDS).collect(), |seed| vec![seed]);
    let mut counts = [0; 4];
    for seed in &seeds {
        let found = plays(*seed);
        counts = std::array::from_fn(|index| counts[index] + found[index]);
    }
    println!(
        "no policy {}, allowed {}, dropped {}, rejected {}",
        counts[0], counts[1], counts[2], counts[3]
    );
    // A generator that makes nothing happen would agree with anything.
    assert!(counts.iter().all(|count| *count > seeds.len() * 10), "{counts:?}");
}
