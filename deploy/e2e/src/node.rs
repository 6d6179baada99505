//! A node: a network namespace in which the real daemons run, with files of its own.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::cni::{Call, Plugin};
use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome};
use crate::journal::Journal;
use crate::manifest::NodeManifest;
use crate::namespace::{Namespace, output};
use crate::underlay::{QUEUES, UPLINK, Underlay};

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    /// What the cluster says of it.
    pub manifest: NodeManifest,
    /// Its network.
    pub namespace: Namespace,
    /// Where host ends of Pod links live. The datapath makes it.
    pub ports_namespace: Namespace,
    /// The plugin, as installed on it.
    pub plugin: Plugin,
    /// Its files: configuration, sockets, logs, state.
    pub directory: PathBuf,
    /// The run it belongs to.
    pub journal: Arc<Journal>,
    datapath: Option<Daemon>,
    agent: Option<Daemon>,
}

/// Where the product's binaries are: beside the harness.
pub fn binary(name: &str) -> Outcome<PathBuf> {
    let own = std::env::current_exe().map_err(Failure::io("find", Path::new("/proc/self/exe")))?;
    // A test binary lies one folder deeper, in `deps`.
    let folders = own.ancestors().skip(1).take(2);
    let mut paths = folders.map(|folder| folder.join(name));
    paths.find(|path| path.is_file()).ok_or_else(|| {
        Failure::Unmet(format!("no binary `{name}` beside {}: build the workspace", own.display()))
    })
}

/// One composed decision in so many is checked against the stages: often enough for a short test.
const SAMPLE_EVERY: u32 = 8;

impl Node {
    /// Makes the namespace, its leg on the underlay, and its files. Starts nothing.
    pub fn create(
        journal: &Arc<Journal>,
        underlay: &Underlay,
        manifest: &NodeManifest,
        manifests: &Path,
    ) -> Outcome<Node> {
        let namespace = Namespace::create(journal, &manifest.name)?;
        underlay.join(&namespace, &manifest.name, &manifest.addresses)?;
        Underlay::route_outside(&namespace, &manifest.addresses)?;
        let ports_name = format!("{}-ports", namespace.name());
        // Made by the datapath, removed with the run.
        journal.namespace(&ports_name)?;
        let directory = journal.directory().join(&manifest.name);
        fs::create_dir_all(&directory).map_err(Failure::io("create", &directory))?;
        let plugin = Plugin {
            binary: binary("seine-cni")?,
            socket: directory.join("agent.sock"),
            node: namespace.clone(),
        };
        let node = Node {
            manifest: manifest.clone(),
            ports_namespace: Namespace::of_name(&ports_name),
            plugin,
            directory,
            journal: Arc::clone(journal),
            namespace,
            datapath: None,
            agent: None,
        };
        node.write("datapath.toml", &node.datapath_configuration())?;
        node.write("agent.toml", &node.agent_configuration(manifests, ""))?;
        Ok(node)
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// A file of the node's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes one.
    pub fn write(&self, name: &str, text: &str) -> Outcome {
        let path = self.file(name);
        fs::write(&path, text).map_err(Failure::io("write", &path))
    }

    /// Its first underlay address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.manifest.addresses.iter().copied().find(|it| it.is_ipv6() == like.is_ipv6())
    }

    /// What the datapath is configured with: two workers, adaptive by default.
    pub fn datapath_configuration(&self) -> String {
        format!(
            "node = \"{}\"\n\
             run_dir = \"{}\"\n\
             ports_namespace = \"{}\"\n\
             [uplink]\n\
             interface = \"{UPLINK}\"\n\
             [workers]\n\
             cores = {:?}\n\
             [connections]\n\
             sample_every = {SAMPLE_EVERY}\n",
            self.name(),
            self.directory.display(),
            self.ports_namespace.name(),
            (0..QUEUES).collect::<Vec<_>>(),
        )
    }

    /// What the agent is configured with; `modes` are lines in addition to it.
    pub fn agent_configuration(&self, manifests: &Path, modes: &str) -> String {
        let directory = self.directory.display();
        format!(
            "node_name = \"{}\"\n\
             manifests = \"{}\"\n\
             datapath_socket = \"{directory}/datapath.sock\"\n\
             cni_socket = \"{directory}/agent.sock\"\n\
             state_dir = \"{directory}/state\"\n\
             {modes}\
             [auditLogging]\n\
             file = \"{directory}/np.log\"\n\
             [vhostUser]\n\
             socketDir = \"{directory}/pods\"\n",
            self.name(),
            manifests.display(),
        )
    }

    /// Starts `seine-datapath` and waits until it answers.
    pub fn start_datapath(&mut self) -> Outcome {
        let mut command = self.namespace.command(binary("seine-datapath")?);
        command.arg("--config").arg(self.file("datapath.toml"));
        let name = format!("seine-datapath {}", self.name());
        let log = self.file("datapath.log");
        let daemon = Daemon::start(&self.journal, &name, &mut command, &log)?;
        let daemon = self.datapath.insert(daemon);
        let socket = self.directory.join("datapath.sock");
        daemon.until("it answers", || crate::counters::answers(&socket))
    }

    /// Starts `seine-agent` and waits until the plugin's STATUS is good.
    pub fn start_agent(&mut self) -> Outcome {
        let mut command = self.namespace.command(binary("seine-agent")?);
        command.arg("--config").arg(self.file("agent.toml"));
        let name = format!("seine-agent {}", self.name());
        let daemon = Daemon::start(&self.journal, &name, &mut command, &self.file("agent.log"))?;
        let daemon = self.agent.insert(daemon);
        let mut status = Call::of("STATUS", "", Path::new(""));
        (status.container_id, status.netns, status.interface) = (None, None, None);
        let plugin = &self.plugin;
        daemon.until("STATUS is good", || plugin.run(&status).is_ok_and(|it| it.success))
    }

    /// The running datapath: its small parent.
    pub fn datapath(&mut self) -> Outcome<&mut Daemon> {
        let name = &self.manifest.name;
        self.datapath.as_mut().ok_or_else(|| Failure::Unmet(format!("{name} has no datapath")))
    }

    /// The running agent.
    pub fn agent(&mut self) -> Outcome<&mut Daemon> {
        let name = &self.manifest.name;
        self.agent.as_mut().ok_or_else(|| Failure::Unmet(format!("{name} has no agent")))
    }

    /// Ends both daemons, the agent first.
    pub fn stop(&mut self) -> Outcome {
        for mut daemon in [self.agent.take(), self.datapath.take()].into_iter().flatten() {
            daemon.stop()?;
        }
        Ok(())
    }

    /// `seinectl` against this node.
    pub fn seinectl(&self, words: &[&str]) -> Outcome<String> {
        output(&mut self.seinectl_command(words)?)
    }

    /// The command that [`Node::seinectl`] runs.
    pub fn seinectl_command(&self, words: &[&str]) -> Outcome<Command> {
        let mut command = Command::new(binary("seinectl")?);
        command.arg("--socket").arg(self.file("datapath.sock")).args(words);
        Ok(command)
    }
}
