//! Holds what a step expects against what its packets meet.

use std::net::IpAddr;

use regex::Regex;
use seine_datapath_api::v1::rule;

use super::attempt::{Attempt, Seen};
use super::expectation::{Decision, Expected, Matrix, Probe, Source, Target};
use super::file::{Cluster, Pod, Protocol, Step};
use super::report::Fault;
use super::resolve::Question;
use super::stage::{Policies, Stage};
use super::world::{Place, full_name};

/// Looks at everything that a step expects. Returns how much that is.
pub fn look(stage: &mut Stage, cluster: &Cluster, step: &Step, faults: &mut Vec<Fault>) -> usize {
    let mut look = Look { stage, cluster, step, faults, assertions: 0 };
    for matrix in &step.matrices {
        look.matrix(matrix);
    }
    for (index, probe) in step.probes.iter().enumerate() {
        look.probe(probe);
        look.audit(index);
    }
    for decision in &step.decisions {
        look.decision(decision);
    }
    look.assertions
}

/// Longer than any connection is remembered.
const DAY_MS: u64 = 10 * 24 * 3600 * 1000;

struct Look<'a> {
    stage: &'a mut Stage,
    cluster: &'a Cluster,
    step: &'a Step,
    faults: &'a mut Vec<Fault>,
    assertions: usize,
}

impl Look<'_> {
    fn matrix(&mut self, matrix: &Matrix) {
        for policies in [Policies::All, Policies::Egress, Policies::Ingress] {
            // Connections of the matrix before are forgotten.
            self.stage.world(policies).wait(DAY_MS);
        }
        let rows = [
            (Policies::All, Some(&matrix.combined)),
            (Policies::Egress, matrix.egress.as_ref()),
            (Policies::Ingress, matrix.ingress.as_ref()),
        ];
        for (policies, rows) in rows {
            let Some(rows) = rows else { continue };
            for (i, from) in matrix.pods.iter().enumerate() {
                for (j, to) in matrix.pods.iter().enumerate() {
                    // What a Pod sends to itself never comes to a node: no packet could show what
                    // policies say of it. The naive evaluator is held against these.
                    if i == j {
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
        let attempt = self.resolve(probe).and_then(|()| self.attempt_of(probe));
        match attempt {
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

    /// Lets the client of a probe at a name ask for it first.
    fn resolve(&mut self, probe: &Probe) -> Result<(), String> {
        let (Target::Name { fqdn, dns_transport, .. }, Source::Pod { pod }) =
            (&probe.to, &probe.from)
        else {
            return Ok(());
        };
        let client = self.cluster.pod(pod)?;
        let known = self.step.dns.iter().find(|(name, _)| name.eq_ignore_ascii_case(fqdn));
        let (_, addresses) = known.ok_or_else(|| format!("the zone does not know {fqdn}"))?;
        let question = Question {
            from: place(client),
            source: client.ip,
            source_port: self.stage.source_port(),
            name: fqdn,
            addresses,
            transport: dns_transport.unwrap_or(Protocol::Udp),
        };
        question.ask(self.stage.world(Policies::All))
    }

    /// What the nodes have written down of the probe just made.
    fn audit(&mut self, probe: usize) {
        let lines = self.stage.world(Policies::All).audit();
        for audit in self.step.audit.iter().filter(|audit| audit.probe == probe) {
            self.assertions += 1;
            let fault = match Regex::new(&audit.regex) {
                Err(error) => Some(error.to_string()),
                Ok(wanted) => {
                    let of_node = lines.iter().filter(|(node, _)| *node == audit.node);
                    let found = of_node.clone().any(|(_, line)| wanted.is_match(line));
                    (!found).then(|| format!("{:?}", of_node.collect::<Vec<_>>()))
                }
            };
            if let Some(got) = fault {
                let expected = format!("{} writes {}", audit.node, audit.regex);
                self.faults.push(Fault { expected, ..Fault::of_step(got) });
            }
        }
    }

    /// Which policy decides about the first matrix's traffic, by the rules that matched.
    fn decision(&mut self, decision: &Decision) {
        self.assertions += 1;
        let ends = self
            .cluster
            .pod(&decision.from)
            .and_then(|from| Ok((from, self.cluster.pod(&decision.to)?)));
        let (Ok((from, to)), Some(matrix)) = (ends, self.step.matrices.first()) else { return };
        let attempt = self.between(from, to, matrix.protocol, matrix.port);
        let world = self.stage.world(Policies::All);
        world.tell(true);
        attempt.knock(world);
        let deciders = world.deciders();
        let told = world.told().join("; ");
        world.tell(false);
        let (action, policy) = self.decided(&deciders);
        // Isolation is by all of Kubernetes' policies together, and bears no name.
        let named = policy == decision.policy || action == "Isolate";
        if action != decision.action || !named {
            self.faults.push(Fault {
                source: decision.from.clone(),
                target: decision.to.clone(),
                port: format!("{}/{}", matrix.protocol, matrix.port),
                expected: format!("{} by {}", decision.action, decision.policy),
                got: format!("{action} by {policy}"),
                rule: told,
                ..Fault::of_step(String::new())
            });
        }
    }

    /// The last rule that did more than to pass it on decides.
    fn decided(&self, deciders: &[(String, String)]) -> (&'static str, String) {
        let rules = deciders.iter().rev().filter_map(|(_, name)| self.stage.rule(name));
        let deciding = rules.into_iter().find_map(|rule| {
            let action = match rule.action() {
                rule::Action::Allow => "Allow",
                rule::Action::Drop => "Drop",
                rule::Action::Reject => "Reject",
                rule::Action::Isolate => "Isolate",
                rule::Action::Pass | rule::Action::Unspecified => return None,
            };
            // "AntreaClusterNetworkPolicy:name", "K8sNetworkPolicy:namespace/name".
            let policy = rule.policy.rsplit([':', '/']).next().unwrap_or_default();
            Some((action, policy.to_owned()))
        });
        deciding.unwrap_or_else(|| ("<NONE>", "<NONE>".to_owned()))
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
        if holds(expected, &seen) {
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

/// Whether what is seen is what is expected.
fn holds(expected: Expected, seen: &Seen) -> bool {
    match (expected, seen) {
        (Expected::Allow, Seen::Answer) | (Expected::Reject, Seen::Refusal) => true,
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
