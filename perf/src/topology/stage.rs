//! Brings up what a run needs, and removes it again, also what an earlier run left behind.

use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::journal;
use seine_e2e::manifest::{Manifests, NodeManifest, PodManifest};
use seine_e2e::namespace::Namespace;

use crate::output::Output;

/// Begins the name of every run of ours.
pub(crate) const RUN: &str = "perf-";
/// The namespace of all Pods here.
const NAMESPACE: &str = "perf";

/// What a run needs of a Seine cluster.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// Nodes, one or two.
    pub nodes: usize,
    /// Pods that the cluster knows on the first node: "pod0", "pod1" and so on.
    pub pods: usize,
    /// Pods that it knows on the second node: "far0" and so on.
    pub far: usize,
}

impl Stage {
    /// Brings it up with both daemons on every node, and attaches no Pod yet.
    pub fn start(&self, output: &Output) -> Outcome<Cluster> {
        refuse_unless_root()?;
        remove_what_was_left(output)?;
        output.progress("bringing up the cluster ...");
        let run = format!("{RUN}{}", std::process::id());
        let mut cluster = Cluster::stopped(&run, &self.manifests())?;
        cluster.start()?;
        Ok(cluster)
    }

    fn manifests(&self) -> Manifests {
        let near = (0..self.pods).map(near);
        let far = (0..self.far).map(far);
        Manifests { nodes: (1..=self.nodes).map(node).collect(), pods: near.chain(far).collect() }
    }
}

/// A Pod of the first node.
pub fn near(index: usize) -> PodManifest {
    PodManifest { namespace: NAMESPACE.into(), name: format!("pod{index}"), node: "node1".into() }
}

/// A Pod of the second node.
pub fn far(index: usize) -> PodManifest {
    PodManifest { namespace: NAMESPACE.into(), name: format!("far{index}"), node: "node2".into() }
}

fn node(number: usize) -> NodeManifest {
    let parse = |text: String| text.parse().expect("an address made of small numbers");
    NodeManifest {
        name: format!("node{number}"),
        addresses: vec![
            parse(format!("192.0.2.{number}")),
            parse(format!("2001:db8:0:2::{number}")),
        ],
        pod_cidrs: [format!("10.10.{number}.0/24"), format!("fd00:10:{number}::/64")]
            .iter()
            .map(|text| text.parse().expect("a range made of small numbers"))
            .collect(),
    }
}

/// Says what to do where nothing can be made.
pub(crate) fn refuse_unless_root() -> Outcome {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::Unmet("network namespaces are to be made: run as root".to_owned()))
}

/// Removes what runs that nobody owns any more have left.
pub(crate) fn remove_what_was_left(output: &Output) -> Outcome {
    for run in journal::runs()? {
        if run.name.starts_with(RUN) && !run.owned && !run.kept {
            output.progress(&format!("removing what run `{}` left behind", run.name));
            journal::remove_run(&run.name)?;
        }
    }
    Ok(())
}

/// A namespace for a container that is not attached yet.
pub fn sandbox(cluster: &Cluster, name: &str) -> Outcome<Namespace> {
    Namespace::create(&cluster.journal, name)
}
