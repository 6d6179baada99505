//! A cluster: nodes, the underlay between them, and Pods on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::counters::Counters;
use crate::failure::{Failure, Outcome};
use crate::journal::{self, Journal};
use crate::manifest::{Manifests, NodeManifest, PodManifest};
use crate::node::Node;
use crate::pod::Pod;
use crate::underlay::Underlay;

/// A cluster that is up. Dropped, it is removed, unless it was [kept](Cluster::keep).
#[derive(Debug)]
pub struct Cluster {
    /// In the order of the manifests.
    pub nodes: Vec<Node>,
    /// In the order they were attached.
    pub pods: Vec<Pod>,
    /// Between and beyond the nodes.
    pub underlay: Underlay,
    /// The folder that the agents read.
    pub manifests: PathBuf,
    /// What was made.
    pub journal: Arc<Journal>,
}

/// Removes a run when dropped.
#[derive(Debug)]
struct Remover<'a>(Option<&'a str>);

impl Drop for Remover<'_> {
    fn drop(&mut self) {
        if let Some(run) = self.0
            && let Err(error) = journal::remove_run(run)
        {
            eprintln!("what is left of run `{run}` was not removed: {error}");
        }
    }
}

impl Cluster {
    /// Brings up the nodes of a folder of manifests, and attaches its Pods. The cluster has a copy
    /// of the folder, to which more can be added.
    pub fn from_folder(run: &str, folder: &Path) -> Outcome<Cluster> {
        let manifests = Manifests::read(folder)?;
        let copy = journal::run_directory(run).join("manifests");
        let mut cluster = Cluster::machines(run, &manifests.nodes, &copy)?;
        fs::create_dir_all(&copy).map_err(Failure::io("create", &copy))?;
        for entry in fs::read_dir(folder).map_err(Failure::io("read", folder))?.flatten() {
            let path = copy.join(entry.file_name());
            fs::copy(entry.path(), &path).map_err(Failure::io("write", &path))?;
        }
        cluster.start()?;
        for pod in &manifests.pods {
            cluster.attach(pod)?;
        }
        Ok(cluster)
    }

    /// Brings up a cluster whose manifests are written into its own run directory.
    pub fn from_manifests(run: &str, manifests: &Manifests) -> Outcome<Cluster> {
        let mut cluster = Cluster::stopped(run, manifests)?;
        cluster.start()?;
        for pod in &manifests.pods {
            cluster.attach(pod)?;
        }
        Ok(cluster)
    }

    /// The same with no daemon started and no Pod attached.
    pub fn stopped(run: &str, manifests: &Manifests) -> Outcome<Cluster> {
        let folder = journal::run_directory(run).join("manifests");
        let cluster = Cluster::machines(run, &manifests.nodes, &folder)?;
        manifests.write(&folder)?;
        Ok(cluster)
    }

    /// The machines and the wires alone.
    fn machines(run: &str, nodes: &[NodeManifest], folder: &Path) -> Outcome<Cluster> {
        let journal = Arc::new(Journal::create(run)?);
        let mut remover = Remover(Some(run));
        let underlay = Underlay::create(&journal)?;
        let nodes: Outcome<Vec<Node>> =
            nodes.iter().map(|node| Node::create(&journal, &underlay, node, folder)).collect();
        let (nodes, manifests) = (nodes?, folder.to_owned());
        remover.0 = None;
        Ok(Cluster { nodes, pods: Vec::new(), underlay, manifests, journal })
    }

    /// Starts both daemons on every node.
    pub fn start(&mut self) -> Outcome {
        for node in &mut self.nodes {
            node.start_datapath()?;
        }
        for node in &mut self.nodes {
            node.start_agent()?;
        }
        Ok(())
    }

    /// Adds a machine to a running cluster, and starts its daemons.
    pub fn join(&mut self, manifest: &NodeManifest) -> Outcome {
        let mut node = Node::create(&self.journal, &self.underlay, manifest, &self.manifests)?;
        node.start_datapath()?;
        node.start_agent()?;
        self.nodes.push(node);
        Ok(())
    }

    /// Attaches a Pod to its node.
    pub fn attach(&mut self, manifest: &PodManifest) -> Outcome<&Pod> {
        let pod = Pod::attach(self.node(&manifest.node)?, manifest)?;
        self.pods.push(pod);
        self.pod(&manifest.name)
    }

    /// Detaches a Pod.
    pub fn detach(&mut self, name: &str) -> Outcome {
        let index = self.pods.iter().position(|pod| pod.manifest.name == name);
        let index = index.ok_or_else(|| Failure::Unmet(format!("no pod `{name}`")))?;
        let pod = self.pods.remove(index);
        let node = self.node(&pod.manifest.node.clone())?;
        pod.detach(node)
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Outcome<&Node> {
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.ok_or_else(|| Failure::Unmet(format!("no node `{name}`")))
    }

    /// A node by name, to start and end its daemons.
    pub fn node_mut(&mut self, name: &str) -> Outcome<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.name() == name);
        node.ok_or_else(|| Failure::Unmet(format!("no node `{name}`")))
    }

    /// A Pod by name.
    pub fn pod(&self, name: &str) -> Outcome<&Pod> {
        let pod = self.pods.iter().find(|pod| pod.manifest.name == name);
        pod.ok_or_else(|| Failure::Unmet(format!("no pod `{name}`")))
    }

    /// The counters of every node.
    pub fn counters(&self) -> Outcome<Counters> {
        Counters::read(&self.nodes)
    }

    /// Detaches every Pod, ends the daemons and removes everything; tells what went wrong.
    pub fn close(mut self) -> Outcome {
        while let Some(pod) = self.pods.pop() {
            let node = self.node(&pod.manifest.node.clone())?;
            pod.detach(node)?;
        }
        for node in &mut self.nodes {
            node.stop()?;
        }
        Ok(())
    }

    /// Leaves it up when the harness ends.
    pub fn keep(self) -> Outcome {
        self.journal.keep()?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // What does not end by itself is ended by the journal.
            let _ = node.stop();
        }
        drop(Remover(Some(self.journal.run())));
    }
}
