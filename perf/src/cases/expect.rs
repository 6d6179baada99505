//! Holds what a step expects against what its packets meet.

use std::net::IpAddr;

use super::attempt::{Attempt, Seen};
use super::expectation::{Expected, Matrix, Probe, Source, Target};
use super::file::{Cluster, Pod, Protocol, Step};
use super::report::Fault;
use super::stage::{Policies, Stage};
use super::world::{Place, full_name};

/// Looks at everything that a step expects. Returns how much that is.
pub fn look(stage: &mut Stage, cluster: &Cluster, step: &Step, faults: &mut Vec<Fault>) -> usize {
    let mut look = Look { stage, cluster, step, faults, assertions: 0 };
    for matrix in &step.matrices {
        look.matrix(matrix);
    }
    for probe in &step.probes {
        look.probe(probe);
    }
    look.assertions
}

struct Look<'a> {
    stage: &'a mut Stage,
    cluster: &'a Cluster,
    step: &'a Step,
    faults: &'a mut Vec<Fault>,
    assertions: usize,
}

impl Look<'_> {
    fn matrix(&mut self, matrix: &Matrix) {
        let rows = [
            (Policies::All, Some(&matrix.combined)),
            (Policies::Egress, matrix.egress.as_ref()),
            (Policies::Ingress, matrix.ingress.as_ref()),
        ];
        for (policies, rows) in rows {
            let Some(rows) = rows else { continue };
            for (i, from) in matrix.pods.iter().enumerate() {
                for (j, to) in matrix.pods.iter().enumerate() {
                    // What a Pod sends to itself never comes to a node. Of egress policies the
                    // node would still be asked first, but not of ingress policies.
                    if i == j && policies == Policies::Ingress {
                        continue;
                    }
                    let Some(expected) = Matrix::expected(rows, i, j) else { continue };
                    let ends = self.cluster.pod(from).and_then(|f| Ok((f, self.cluster.pod(to)?)));
                    let Ok((from, to)) = ends else { continue };
                    let attempt = self.between(from, to, matrix.protocol, matrix.port);
                    self.check(policies, attempt, expected, &full_name(from), &full_name(to));
                }
            }
        }
    }

    fn between(&mut self, from: &Pod, to: &Pod, protocol: Protocol, port: u16) -> Attempt {
        Attempt {
            from: place(from),
            source: from.ip,
            destination: to.ip,
            server: (!to.host_network).then(|| place(to)),
            protocol,
            source_port: self.stage.source_port(),
            port,
            icmp: if from.ip.is_ipv4() { (8, 0) } else { (128, 0) },
        }
    }

    fn probe(&mut self, probe: &Probe) {
        match self.attempt_of(probe) {
            Ok(attempt) => {
                let (from, to) = (format!("{:?}", probe.from), format!("{:?}", probe.to));
                self.check(Policies::All, attempt, probe.expect, &from, &to);
            }
            Err(reason) => {
                self.assertions += 1;
                let expected = probe.expect.to_string();
                self.faults.push(Fault { expected, ..Fault::of_step(reason) });
            }
        }
    }

    fn attempt_of(&mut self, probe: &Probe) -> Result<Attempt, String> {
        let (from, source) = match &probe.from {
            Source::Pod { pod } => {
                let pod = self.cluster.pod(pod)?;
                (place(pod), pod.ip)
            }
            Source::Node { node, ip } => (Place::Outside(node.clone()), *ip),
            Source::External { external } => (self.door(&probe.to)?, *external),
        };
        let (destination, server, port) = match &probe.to {
            Target::Pod { pod } => {
                let pod = self.cluster.pod(pod)?;
                (pod.ip, (!pod.host_network).then(|| place(pod)), probe.port)
            }
            Target::Service { service, backend } => {
                let backend = place(self.cluster.pod(backend)?);
                (self.service_address(service)?, Some(backend), probe.port)
            }
            Target::NodePort { node_port, node, .. } => {
                (self.node_address(node)?, None, Some(*node_port))
            }
            Target::Name { ip, .. } | Target::Address { ip, .. } => (*ip, None, probe.port),
            Target::Group { .. } => return Err("multicast is not played".to_owned()),
        };
        Ok(Attempt {
            from,
            source,
            destination,
            server,
            protocol: probe.protocol,
            source_port: probe.source_port.unwrap_or_else(|| self.stage.source_port()),
            port: port.unwrap_or(0),
            icmp: (probe.icmp_type.unwrap_or(8), probe.icmp_code.unwrap_or(0)),
        })
    }

    /// By which node somebody outside comes in.
    fn door(&self, target: &Target) -> Result<Place, String> {
        let node = match target {
            Target::NodePort { node, .. } => Some(node.clone()),
            Target::Pod { pod } => self.cluster.pod(pod)?.node.clone(),
            _ => self.cluster.nodes.first().map(|node| node.name.clone()),
        };
        node.map(Place::Outside).ok_or_else(|| "the cluster has no node".to_owned())
    }

    fn node_address(&self, name: &str) -> Result<IpAddr, String> {
        let node = self.cluster.nodes.iter().find(|node| node.name == name);
        node.map(|node| node.ip).ok_or_else(|| format!("no node is called `{name}`"))
    }

    fn service_address(&self, name: &str) -> Result<IpAddr, String> {
        let found = super::manifest::manifests(self.cluster, &self.step.objects);
        let service = found.iter().find(|object| {
            let metadata = &object["metadata"];
            object["kind"] == "Service"
                && name.split_once('/')
                    == metadata["namespace"].as_str().zip(metadata["name"].as_str())
        });
        let address = service.and_then(|service| service["spec"]["clusterIP"].as_str());
        address
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| format!("no Service is called `{name}`, or it has no address"))
    }

    fn check(
        &mut self,
        policies: Policies,
        attempt: Attempt,
        expected: Expected,
        from: &str,
        to: &str,
    ) {
        self.assertions += 1;
        let source_port = self.stage.source_port();
        let world = self.stage.world(policies);
        let make = |attempt: &Attempt, world: &mut _| match policies {
            Policies::All => attempt.make(world),
            Policies::Egress | Policies::Ingress => attempt.knock(world),
        };
        let seen = make(&attempt, world);
        if holds(expected, &seen, attempt.source == attempt.destination) {
            return;
        }
        // Once more, asking why: nothing is told where nobody asks.
        world.tell(true);
        let again = Attempt { source_port, ..attempt.clone() };
        let _ = make(&again, world);
        let rule = world.told().join("; ");
        world.tell(false);
        self.faults.push(Fault {
            source: from.to_owned(),
            target: to.to_owned(),
            port: format!("{}/{} {policies:?}", attempt.protocol, attempt.port),
            expected: expected.to_string(),
            got: format!("{seen:?}"),
            rule,
            ..Fault::of_step(String::new())
        });
    }
}

/// Whether what is seen is what is expected. A Pod does not reach itself by way of its node: there,
/// what policy lets through ends at routing.
fn holds(expected: Expected, seen: &Seen, itself: bool) -> bool {
    use seine_pipeline::verdict::DropReason;
    match (expected, seen) {
        (Expected::Allow, Seen::Answer) | (Expected::Reject, Seen::Refusal) => true,
        (Expected::Allow, Seen::Silence(DropReason::Hairpin)) => itself,
        (Expected::Drop, Seen::Silence(reason)) => is_policy(*reason),
        _ => false,
    }
}

/// Whether a drop is by policy, and not by accident.
fn is_policy(reason: seine_pipeline::verdict::DropReason) -> bool {
    reason.name().contains("Policy") || reason.name().contains("Isol")
}

fn place(pod: &Pod) -> Place {
    match &pod.node {
        Some(node) if pod.host_network => Place::Outside(node.clone()),
        _ => Place::Pod(full_name(pod)),
    }
}
