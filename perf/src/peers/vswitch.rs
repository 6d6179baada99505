//! Open vSwitch with DPDK, private to one run: its own database, sockets and network namespace, one
//! poller on a core of its own, a vhost-user port for each Pod.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use seine_e2e::daemon::Daemon;
use seine_e2e::failure::{Failure, Outcome};
use seine_e2e::namespace::output;

use super::figures;
use super::room::{GENERATOR_CORE, Room, SWITCH_CORE};
use crate::forward::objects::{FIRST_POD, pod_mac};
use crate::forward::session::{Figures, Poller};
use crate::openflow::FlowSet;
use crate::process;
use crate::virtio::{FrontEnd, FrontEndOptions, Listener, feature};

const BRIDGE: &str = "br0";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Debian's build with DPDK, whatever the alternatives point to.
const SWITCH: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
/// MiB of packet memory. The switch takes what fits of its 262144 buffers.
const MEMORY_MIB: usize = 512;
/// The switch connects to sockets that wait for it, again and again until it succeeds.
const CONNECT_MAX: Duration = Duration::from_secs(60);
/// The ports that are not Pods'.
const OTHER_PORTS: [(&str, &str); 2] = [
    ("gateway", "type=internal"),
    ("uplink", "type=geneve options:remote_ip=flow options:key=flow"),
];

/// How the caches of the poller are set: a row each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caches {
    /// How rows are named.
    pub name: &'static str,
    /// One in so many flows goes into the exact-match cache; 0: none.
    pub exact_one_in: u32,
    /// Whether there is a signature-match cache.
    pub signature: bool,
    /// Whether look-ups are to use AVX-512.
    pub avx512: bool,
}

/// All settings that are measured, the default one first.
pub const CACHES: [Caches; 5] = [
    Caches { name: "as installed", exact_one_in: 100, signature: false, avx512: false },
    Caches { name: "EMC always", exact_one_in: 1, signature: false, avx512: false },
    Caches { name: "EMC never", exact_one_in: 0, signature: false, avx512: false },
    Caches { name: "SMC", exact_one_in: 100, signature: true, avx512: false },
    Caches { name: "AVX-512", exact_one_in: 100, signature: false, avx512: true },
];

/// A running switch. It ends when this is dropped.
#[derive(Debug)]
pub struct OpenVSwitch {
    directory: PathBuf,
    // The switch ends before its database.
    switch: Daemon,
    _database: Daemon,
}

impl OpenVSwitch {
    /// Starts it, with a front end connected to the port of each Pod.
    pub fn start(
        room: &Room,
        pods: usize,
        options: &FrontEndOptions,
    ) -> Outcome<(OpenVSwitch, Vec<FrontEnd>)> {
        let directory = room.path("ovs");
        // What the run before has left is of no use.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).map_err(Failure::io("create", &directory))?;
        let file = |name: &str| directory.join(name).display().to_string();
        output(Command::new("ovsdb-tool").args(["create", &file("conf.db"), SCHEMA]))?;
        let mut command = on_core(GENERATOR_CORE, "ovsdb-server");
        command.arg(file("conf.db")).arg(format!("--remote=punix:{}", file("db.sock")));
        command.arg(format!("--unixctl={}", file("ovsdb.ctl")));
        let log = directory.join("ovsdb-server.log");
        let mut database = Daemon::start(&room.journal, "ovsdb-server", &mut command, &log)?;
        let socket = directory.join("db.sock");
        database.until("ovsdb-server", || socket.exists())?;
        let tso = options.features & feature::HOST_TSO4 != 0;
        let mut memory = String::new();
        let mut extra = room.dpdk_options();
        if room.huge {
            memory = format!("other_config:dpdk-socket-mem={MEMORY_MIB}");
        } else {
            extra += &format!(" -m {MEMORY_MIB}");
        }
        let settings = [
            "other_config:dpdk-init=true".to_owned(),
            format!("other_config:dpdk-extra=\"{extra}\""),
            format!("other_config:pmd-cpu-mask={:#x}", 1 << SWITCH_CORE),
            format!("other_config:dpdk-lcore-mask={:#x}", 1 << GENERATOR_CORE),
            memory,
            if tso { "other_config:userspace-tso-enable=true".to_owned() } else { String::new() },
        ];
        vsctl(&directory, &["--no-wait", "init"])?;
        let mut words = vec!["--no-wait", "set", "Open_vSwitch", "."];
        words.extend(settings.iter().map(String::as_str).filter(|it| !it.is_empty()));
        vsctl(&directory, &words)?;
        let mut command = on_core(GENERATOR_CORE, "unshare");
        command.args(["--net", SWITCH]).arg(format!("unix:{}", file("db.sock")));
        command.arg(format!("--unixctl={}", file("vswitchd.ctl")));
        surroundings(&mut command, &directory);
        let log = directory.join("ovs-vswitchd.log");
        let mut switch = Daemon::start(&room.journal, "ovs-vswitchd", &mut command, &log)?;
        let control = directory.join("vswitchd.ctl");
        switch.until("ovs-vswitchd", || control.exists())?;
        let switch = OpenVSwitch { directory, switch, _database: database };
        let front_ends = switch.plug(pods, options)?;
        Ok((switch, front_ends))
    }

    fn plug(&self, pods: usize, options: &FrontEndOptions) -> Outcome<Vec<FrontEnd>> {
        let own = ["datapath_type=netdev", "protocols=OpenFlow13,OpenFlow15", "fail_mode=secure"];
        let mut words = vec!["add-br", BRIDGE, "--", "set", "bridge", BRIDGE];
        words.extend(own);
        vsctl(&self.directory, &words)?;
        let mut words = Vec::new();
        let mut port = |name: &str, number: usize, kind: &str| {
            words.extend(
                ["--", "add-port", BRIDGE, name, "--", "set", "interface", name].map(String::from),
            );
            words.push(format!("ofport_request={number}"));
            words.extend(kind.split(' ').map(String::from));
        };
        for (index, (name, kind)) in OTHER_PORTS.iter().enumerate() {
            port(name, port_number(index), kind);
        }
        let mut listeners = Vec::new();
        for pod in 0..pods {
            let path = self.directory.join(format!("{}.sock", pod_port(pod)));
            listeners.push(Listener::bind(&path).map_err(unmet)?);
            let path = path.display();
            let kind = format!("type=dpdkvhostuserclient options:vhost-server-path={path}");
            port(&pod_port(pod), port_number(pod + FIRST_POD), &kind);
        }
        vsctl(&self.directory, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let accept = |it: &Listener| it.accept(options, CONNECT_MAX).map_err(unmet);
        listeners.iter().map(accept).collect()
    }

    /// The numbers of all ports, by their names.
    pub fn port_numbers(pods: usize) -> BTreeMap<String, u32> {
        let others =
            OTHER_PORTS.iter().enumerate().map(|(index, (name, _))| (index, (*name).to_owned()));
        let pods = (0..pods).map(|pod| (pod + FIRST_POD, pod_port(pod)));
        others.chain(pods).map(|(index, name)| (name, port_number(index) as u32)).collect()
    }

    /// Makes it a plain switch that knows where everybody is.
    pub fn switch_by_address(&self, pods: usize) -> Outcome {
        self.ofctl(&["del-flows", BRIDGE])?;
        self.ofctl(&["add-flow", BRIDGE, "priority=0,actions=NORMAL"])?;
        for pod in 0..pods {
            let mac = pod_mac(pod).to_string();
            self.appctl(&["fdb/add", BRIDGE, &pod_port(pod), "0", &mac])?;
        }
        Ok(())
    }

    /// Gives it these flows and no others.
    pub fn switch_by_flows(&self, set: &FlowSet) -> Outcome {
        let write = |name: &str, lines: &[String]| {
            let path = self.directory.join(name);
            let text = lines.join("\n") + "\n";
            fs::write(&path, text).map_err(Failure::io("write", &path))?;
            Ok::<String, Failure>(path.display().to_string())
        };
        let (groups, flows) = (write("groups", &set.groups)?, write("flows", &set.flows)?);
        self.ofctl(&["del-flows", BRIDGE])?;
        self.ofctl(&["del-groups", BRIDGE])?;
        if !set.groups.is_empty() {
            self.ofctl(&["add-groups", BRIDGE, &groups])?;
        }
        self.ofctl(&["--bundle", "add-flows", BRIDGE, &flows])?;
        Ok(())
    }

    /// Sets the caches. What this build does not have is said, in words.
    pub fn set_caches(&self, caches: Caches) -> Outcome<Result<(), String>> {
        let available = self.appctl(&["dpif-netdev/dpif-impl-get"])?;
        if caches.avx512 && !available.contains("avx512") {
            let built = available.lines().skip(1).filter_map(|it| it.split_whitespace().next());
            let built = built.collect::<Vec<_>>().join(", ");
            return Ok(Err(format!("this build has no AVX-512: only {built}")));
        }
        let exact = format!("other_config:emc-insert-inv-prob={}", caches.exact_one_in);
        let signature = format!("other_config:smc-enable={}", caches.signature);
        vsctl(&self.directory, &["set", "Open_vSwitch", ".", &exact, &signature])?;
        let (processing, parser, rank) = if caches.avx512 {
            ("dpif_avx512", "study", "9")
        } else {
            ("dpif_scalar", "scalar", "0")
        };
        self.appctl(&["dpif-netdev/dpif-impl-set", processing])?;
        self.appctl(&["dpif-netdev/miniflow-parser-set", parser])?;
        if available.contains("avx512") {
            self.appctl(&["dpif-netdev/subtable-lookup-prio-set", "avx512_gather", rank])?;
        }
        Ok(Ok(()))
    }

    /// Forgets all connections.
    pub fn forget_connections(&self) -> Outcome {
        self.appctl(&["dpctl/flush-conntrack"]).map(|_| ())
    }

    /// Forgets what packets led to, in the datapath and where it is known why; the flows stay.
    pub fn forget_look_ups(&self) -> Outcome {
        self.appctl(&["revalidator/purge"]).map(|_| ())
    }

    /// What packets led to since that was forgotten.
    pub fn look_ups(&self) -> Outcome<String> {
        self.appctl(&["dpctl/dump-flows"])
    }

    /// All flows and groups as the switch has them, with their counters.
    pub fn dump(&self) -> Outcome<String> {
        let groups = self.ofctl(&["dump-groups", BRIDGE])?;
        Ok(groups + &self.ofctl(&["--no-names", "dump-flows", BRIDGE])?)
    }

    /// How many flows it has.
    pub fn flow_count(&self) -> Outcome<usize> {
        let dump = self.ofctl(&["--no-stats", "dump-flows", BRIDGE])?;
        Ok(dump.lines().filter(|line| line.contains("actions=")).count())
    }

    fn appctl(&self, words: &[&str]) -> Outcome<String> {
        let mut command = Command::new("ovs-appctl");
        surroundings(&mut command, &self.directory);
        output(command.arg("-t").arg(self.directory.join("vswitchd.ctl")).args(words))
    }

    fn ofctl(&self, words: &[&str]) -> Outcome<String> {
        let mut command = Command::new("ovs-ofctl");
        surroundings(&mut command, &self.directory);
        output(command.args(["-O", "OpenFlow15"]).args(words))
    }
}

impl Poller for OpenVSwitch {
    fn begin(&mut self) -> Outcome {
        self.appctl(&["dpif-netdev/pmd-stats-clear"]).map(|_| ())
    }

    fn end(&mut self) -> Outcome<Figures> {
        let text = self.appctl(&["dpif-netdev/pmd-stats-show"])?;
        figures::of_open_vswitch(&text)
            .ok_or_else(|| Failure::Unmet(format!("no poller's figures are in: {text}")))
    }

    fn on_core_ns(&self) -> Outcome<u64> {
        process::on_core_ns(self.switch.id(), "pmd-c")
    }
}

fn vsctl(directory: &Path, words: &[&str]) -> Outcome<String> {
    let database = format!("--db=unix:{}", directory.join("db.sock").display());
    output(Command::new("ovs-vsctl").arg(database).arg("--timeout=60").args(words))
}

fn on_core(core: usize, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]);
    command
}

/// Keeps every file of Open vSwitch in one directory.
fn surroundings(command: &mut Command, directory: &Path) {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, directory);
    }
}

fn unmet(error: crate::virtio::HandshakeError) -> Failure {
    Failure::Unmet(error.to_string())
}

/// The name of a Pod's port, as objects have it.
fn pod_port(pod: usize) -> String {
    format!("pod{pod}")
}

/// OpenFlow numbers ports from 1.
fn port_number(index: usize) -> usize {
    index + 1
}
