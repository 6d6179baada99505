//! The States that are replayed: generated clusters, each seen from each of its nodes.
//!
//! What the generator makes has few Services, all alike; here come some with node ports, external
//! addresses, policies of traffic and affinity. Which endpoint is chosen is a matter of each
//! switch's own hash, so every Service keeps one.

use std::collections::BTreeMap;

use seine_control::compile::Objects;
use seine_control::model;
use seine_datapath_api::v1::object::Kind;
use seine_pipeline::address::{Mac, PortKind};
use serde_json::{Value, json};

use super::ReplayError;
use crate::cases::address::address;
use crate::cases::desired::port_name;
use crate::cases::file::{CaseFile, Cluster};
use crate::cases::play::desired_objects;
use crate::cases::world::machine::{Machine, Transaction};
use crate::generate::Generator;
use crate::generate::parts::{APPS, NAMESPACES, PORTS, PROTOCOLS};
use crate::generate::random::Random;

/// How often a cluster changes before another one is made.
const STEPS: usize = 3;
/// Services of each step beside those that the generator makes.
const SERVICES: usize = 4;

/// One node of a cluster, at one time.
pub struct State {
    /// Whom there is to talk to.
    pub scene: Scene,
    /// Seine's node with its objects.
    pub machine: Machine,
}

/// A cluster, as it is seen from one of its nodes.
pub struct Scene {
    /// What leads to it again.
    pub seed: u64,
    /// How often the cluster has changed.
    pub step: usize,
    /// Which of its nodes.
    pub node: usize,
    /// The cluster.
    pub cluster: Cluster,
    /// Its objects, as manifests.
    pub manifests: Vec<Value>,
    /// What is sent comes from here.
    pub random: Random,
}

/// The States of one seed.
pub fn generate(seed: u64) -> Result<Vec<State>, ReplayError> {
    let failed = |reason: String| ReplayError::State { seed, reason };
    let v6 = !seed.is_multiple_of(2);
    let mut generator = Generator::new(seed);
    let mut states = Vec::new();
    for step in 0..STEPS {
        let file = json!({"format": "conf-case/1", "suite": "generated",
            "clusters": {"c": generator.cluster()},
            "cases": [{"id": "c", "steps": [{"cluster": "c", "objects": generator.objects()}]}]});
        let file: CaseFile =
            serde_json::from_value(file).map_err(|error| failed(error.to_string()))?;
        let mut file = if v6 { file.in_ipv6() } else { file };
        let (Some(cluster), Some(case)) = (file.clusters.remove("c"), file.cases.first_mut())
        else {
            return Err(failed("there is no cluster".to_owned()));
        };
        let Some(at) = case.steps.first_mut() else { continue };
        for index in 0..SERVICES {
            at.objects.push(service(&mut generator.random, index, v6));
        }
        let desired = desired_objects(&cluster, at).map_err(|error| failed(error.to_string()))?;
        for (node, (name, mut objects)) in desired.into_iter().enumerate() {
            thin(&mut objects, &mut generator.random);
            let machine = machine(&cluster, node, &name, objects).map_err(failed)?;
            let scene = Scene {
                seed,
                step,
                node,
                cluster: cluster.clone(),
                manifests: at.objects.clone(),
                random: Random(seed << 8 | (step as u64) << 4 | node as u64),
            };
            states.push(State { scene, machine });
        }
        for _ in 0..1 + generator.random.below(4) {
            generator.change();
        }
    }
    Ok(states)
}

fn service(random: &mut Random, index: usize, v6: bool) -> Value {
    let at = |last: usize| {
        let v4 = std::net::IpAddr::from([203, 0, 113, last as u8]);
        if v6 { address(v4) } else { v4 }
    };
    let cluster = std::net::IpAddr::from([10, 97, 0, index as u8 + 1]);
    let policy = |random: &mut Random| *random.pick(&["Cluster", "Cluster", "Local"]);
    let mut spec = json!({
        "type": "NodePort",
        "clusterIP": if v6 { address(cluster) } else { cluster },
        "selector": {"app": random.pick(&APPS)},
        "internalTrafficPolicy": policy(random),
        "externalTrafficPolicy": policy(random),
        "externalIPs": [at(100 + index)],
        "ports": [{"name": "p", "port": random.pick(&PORTS), "protocol": random.pick(&PROTOCOLS),
            "targetPort": random.pick(&PORTS), "nodePort": 30000 + index}],
    });
    if random.once_in(4) {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": {"name": format!("extra-{index}"), "namespace": random.pick(&NAMESPACES)}})
}

/// Leaves each Service one endpoint.
fn thin(objects: &mut Objects, random: &mut Random) {
    for object in objects.values_mut() {
        if let Some(Kind::Service(service)) = &mut object.kind
            && service.endpoints.len() > 1
        {
            let kept = random.below(service.endpoints.len());
            service.endpoints.swap(0, kept);
            service.endpoints.truncate(1);
        }
    }
}

/// Seine's node in memory, with a port for each of its Pods.
pub fn machine(
    cluster: &Cluster,
    node: usize,
    name: &str,
    objects: Objects,
) -> Result<Machine, String> {
    let index = |index: usize| u8::try_from(index).unwrap_or(u8::MAX);
    let mut machine = Machine::new(name, index(node)).map_err(|error| error.to_string())?;
    for pod in cluster.pods.iter().filter(|pod| pod.node.as_deref() == Some(name)) {
        let Mac([_, _, rest @ ..]) = Mac(model::Mac::of_pod(pod.ip).bytes());
        let [a, b, c, d] = rest;
        let opened = machine.open(&port_name(pod), PortKind::Pod, Mac([6, 0, a, b, c, d]));
        opened.map_err(|error| error.to_string())?;
    }
    let nodes = cluster.nodes.iter().enumerate();
    let indexes: BTreeMap<String, u8> =
        nodes.map(|(at, node)| (node.name.clone(), index(at))).collect();
    let upserts = objects.into_values().collect();
    let transaction = Transaction { upserts, ..Transaction::default() };
    machine.install(transaction, &indexes).map_err(|error| error.to_string())?;
    Ok(machine)
}
