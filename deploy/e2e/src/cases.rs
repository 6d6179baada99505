//! The cluster tests: sentences about a cluster, each with what it takes to find out.
//!
//! One after the other, since each has the machine's two cores to itself. A test makes its
//! clusters through its [`Stage`], which keeps their logs when it fails and removes them always.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::counters::Sampled;
use crate::failure::{Failure, Outcome};
use crate::manifest::{Manifests, NodeManifest, PodManifest};

mod attachment;
mod cores;
mod denial;
mod endpoint;
mod existing;
mod exposed;
mod guest;
mod host;
mod hostile;
mod hunger;
mod judged;
mod live;
mod loan;
mod modes;
mod permitted;
mod processor;
mod reach;
mod restart;
mod seat;
mod service;
mod socket;
mod startup;
mod trunk;

/// So many tests together send enough for a sample.
const SAMPLED_FROM: usize = 5;

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence.
    pub name: &'static str,
    run: fn(&mut Stage) -> Outcome,
}

/// What a test makes its clusters through.
pub struct Stage {
    run: String,
    cluster: Option<Cluster>,
    /// Composed decisions that were checked against the stages.
    samples: u64,
}

impl Stage {
    /// A cluster of these manifests. One at a time: the one before is removed first.
    pub fn cluster(&mut self, manifests: &Manifests) -> Outcome<&mut Cluster> {
        self.cluster = None;
        let cluster = Cluster::stopped(&self.run, manifests)?;
        let cluster = self.cluster.insert(cluster);
        cluster.start()?;
        for pod in &manifests.pods {
            cluster.attach(pod)?;
        }
        Ok(cluster)
    }

    /// The machines of these manifests, with no daemon started.
    pub fn machines(&mut self, manifests: &Manifests) -> Outcome<&mut Cluster> {
        self.cluster = None;
        Ok(self.cluster.insert(Cluster::stopped(&self.run, manifests)?))
    }

    /// A name for something that is not a cluster of ours.
    pub fn run_name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.run)
    }

    /// Copies every log of the cluster to where it outlives it.
    fn save_logs(&self) -> Option<PathBuf> {
        let cluster = self.cluster.as_ref()?;
        let target = std::env::temp_dir().join(format!("seine-e2e-{}", self.run));
        for node in &cluster.nodes {
            let folder = target.join(node.name());
            fs::create_dir_all(&folder).ok()?;
            for name in ["datapath.log", "agent.log", "datapath.toml", "agent.toml"] {
                // A daemon that was never started has no log.
                let _ = fs::copy(node.file(name), folder.join(name));
            }
        }
        Some(target)
    }
}

/// Every test whose name holds `filter`, in order.
pub fn matching(filter: &str) -> Vec<Case> {
    let all = [
        reach::CASES,
        attachment::CASES,
        live::CASES,
        hostile::CASES,
        host::CASES,
        modes::CASES,
        service::CASES,
        socket::CASES,
        exposed::CASES,
        endpoint::CASES,
        denial::CASES,
        existing::CASES,
        guest::CASES,
        processor::CASES,
        permitted::CASES,
        trunk::CASES,
        loan::CASES,
        cores::CASES,
        restart::CASES,
        startup::CASES,
        judged::CASES,
        hunger::CASES,
    ];
    all.concat().into_iter().filter(|case| case.name.contains(filter)).collect()
}

/// Runs them, prints each with its time, and a last line of sums; how many failed.
pub fn run(cases: &[Case], keep_failed: bool) -> usize {
    let (mut failed, mut samples) = (0, 0);
    for (number, case) in cases.iter().enumerate() {
        let begin = Instant::now();
        let run = format!("t{}-{number}", std::process::id());
        let mut stage = Stage { run, cluster: None, samples: 0 };
        let result = run_one(case, &mut stage);
        let took = begin.elapsed().as_secs_f64();
        samples += stage.samples;
        match result {
            Ok(()) => println!("ok    {:<78} {took:>5.1} s", case.name),
            Err(failure) => {
                failed += 1;
                println!("FAIL  {:<78} {took:>5.1} s\n      {failure}", case.name);
                if let Some(folder) = stage.save_logs() {
                    println!("      logs are in {}", folder.display());
                }
                if keep_failed && let Some(cluster) = stage.cluster.take() {
                    println!("      its cluster is left up: seine-e2e down {}", stage.run);
                    if let Err(failure) = cluster.keep() {
                        println!("      {failure}");
                    }
                }
            }
        }
    }
    println!("{samples} composed decisions were checked against the stages");
    // A few tests alone may send too little for one.
    if samples == 0 && cases.len() >= SAMPLED_FROM {
        println!("FAIL  no composed decision was checked");
        failed += 1;
    }
    println!("cluster tests: {} passed, {failed} failed", cases.len().saturating_sub(failed));
    failed
}

fn run_one(case: &Case, stage: &mut Stage) -> Outcome {
    let result = catch_unwind(AssertUnwindSafe(|| (case.run)(stage)));
    let result = result.unwrap_or_else(|_| Err(Failure::Unmet("the test panicked".to_owned())));
    result?;
    if let Some(cluster) = &stage.cluster {
        let Sampled { samples, mismatches } = Sampled::read(&cluster.nodes);
        stage.samples += samples;
        if mismatches > 0 {
            let what = format!("{mismatches} of {samples} composed decisions are not the stages'");
            return Err(Failure::Unmet(what));
        }
    }
    // Closing is part of every test: DEL succeeds, the daemons end when asked, nothing is left.
    let Some(cluster) = stage.cluster.take() else { return Ok(()) };
    let directory = cluster.journal.directory();
    let namespaces: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.namespace.path()).collect();
    cluster.close()?;
    let left = namespaces.into_iter().chain([directory]).find(|path| path.exists());
    match left {
        Some(path) => Err(Failure::Unmet(format!("{} is still there", path.display()))),
        None => Ok(()),
    }
}

/// Manifests of `nodes` nodes and of Pods given as (name, node's number).
pub fn manifests(nodes: u8, underlay: Underlay, pods: &[(&str, u8)]) -> Manifests {
    Manifests {
        nodes: (1..=nodes).map(|number| node(number, underlay)).collect(),
        pods: pods.iter().map(|(name, number)| pod(name, *number)).collect(),
    }
}

/// Families that the underlay has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    /// Tunnels over IPv4; IPv6 beside it for masqueraded traffic.
    Ipv4,
    /// Nothing but IPv6.
    Ipv6,
}

/// A Node by number.
pub fn node(number: u8, underlay: Underlay) -> NodeManifest {
    let (v4, v6) = (format!("192.0.2.{number}"), format!("2001:db8:0:2::{number}"));
    let addresses = match underlay {
        Underlay::Ipv4 => vec![v4, v6],
        Underlay::Ipv6 => vec![v6],
    };
    let parse = |text: String| text.parse().expect("an address of this file");
    let ranges = [format!("10.10.{number}.0/24"), format!("fd00:10:{number}::/64")];
    NodeManifest {
        name: format!("node{number}"),
        addresses: addresses.into_iter().map(parse).collect(),
        pod_cidrs: ranges.map(|text| text.parse().expect("a range of this file")).to_vec(),
    }
}

/// A Pod on a node by number.
pub fn pod(name: &str, node: u8) -> PodManifest {
    PodManifest {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        node: format!("node{node}"),
    }
}
