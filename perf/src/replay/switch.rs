//! A private Open vSwitch: its own database, processes and sockets, in a directory that goes when
//! it goes.
//!
//! Its datapath is the one in user space, its ports are `dummy` ones: each is a unix socket that
//! frames go into and come out of, with two bytes of length in front. To know that a frame was
//! dropped, another one follows it by the same port that is sent on to a port of its own: when that
//! has come out, the first has been dealt with; when a second one has, everything is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::ReplayError;
use crate::openflow::FlowSet;

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const BRIDGE: &str = "br";
/// The number of the port that following frames come out of.
const FOLLOWERS: u32 = 1000;
/// Ethernet's type for experiments (IEEE 802), of frames that follow others.
const FOLLOWER: [u8; 18] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 0, 0, 0, 0];
/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running switch with one bridge.
pub struct Switch {
    ports: BTreeMap<u32, UnixStream>,
    followers: UnixStream,
    // In the order in which they go.
    _switch: Process,
    _database: Process,
    directory: TempDir,
}

impl Switch {
    /// Starts one whose bridge has ports with these numbers.
    pub fn start(numbers: &[u32]) -> Result<Switch, ReplayError> {
        let directory = tempfile::tempdir().map_err(ReplayError::io("make a directory"))?;
        let at = |name: &str| directory.path().join(name);
        run(Command::new("ovsdb-tool").arg("create").arg(at("conf.db")).arg(SCHEMA))?;
        let log = File::create(at("log")).map_err(ReplayError::io("make a log"))?;
        let control = |name: &str| format!("--unixctl={}", at(name).display());
        let mut command = Command::new("ovsdb-server");
        command.arg(at("conf.db")).arg(format!("--remote=punix:{}", at("db").display()));
        let database = start(command.arg(control("database.ctl")), directory.path(), &log)?;
        until("ovsdb-server listens", || at("db").exists())?;
        let server = format!("--db=unix:{}", at("db").display());
        run(Command::new("ovs-vsctl").args([&server, "--timeout=20", "--no-wait", "init"]))?;
        let mut command = Command::new("ovs-vswitchd");
        command.arg(format!("unix:{}", at("db").display())).arg(control("switch.ctl"));
        command.args(["--enable-dummy", "--disable-system"]);
        let switch = start(&mut command, directory.path(), &log)?;
        let mut command = Command::new("ovs-vsctl");
        command.args([&server, "--timeout=20", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE]);
        command.args(["datapath_type=dummy", "fail-mode=secure", "protocols=OpenFlow15"]);
        let numbers = numbers.iter().copied().chain([FOLLOWERS]);
        for number in numbers.clone() {
            let name = format!("p{number}");
            command.args(["--", "add-port", BRIDGE, &name, "--", "set", "interface", &name]);
            command.args(["type=dummy", &format!("ofport_request={number}")]);
            command.arg(format!("options:pstream=punix:{}", at(&name).display()));
        }
        run(&mut command)?;
        let mut ports = BTreeMap::new();
        for number in numbers {
            ports.insert(number, connect(&at(&format!("p{number}")))?);
        }
        let followers = ports.remove(&FOLLOWERS).ok_or(ReplayError::Switch {
            what: "open the ports".to_owned(),
            told: "there are none".to_owned(),
        })?;
        let waits = followers.set_read_timeout(Some(PATIENCE));
        waits.map_err(ReplayError::io("set a timeout"))?;
        let mut switch =
            Switch { ports, followers, _switch: switch, _database: database, directory };
        // The flows decide about every packet, not what was made of them for another one.
        switch.appctl(&["upcall/disable-megaflows"])?;
        switch.load(&FlowSet::default())?;
        switch.greet()?;
        Ok(switch)
    }

    /// Makes sure that every socket is known to the switch, or it would lose what leaves by it.
    fn greet(&mut self) -> Result<(), ReplayError> {
        let file = self.directory.path().join("greeting");
        write(&file, "table=0,priority=1,actions=flood\n")?;
        self.ofctl(&["add-flows", BRIDGE], Some(&file))?;
        let numbers: Vec<u32> = self.ports.keys().copied().collect();
        let deadline = Instant::now() + PATIENCE;
        for number in &numbers {
            let from = if *number == numbers[0] { numbers[1] } else { numbers[0] };
            let frame = [&FOLLOWER[..12], &[0x88, 0xb6, 0, 0]].concat();
            while !self.send(from, &frame)?.iter().any(|(out, _)| out == number) {
                if Instant::now() > deadline {
                    let what = format!("connect port {number}");
                    return Err(ReplayError::Switch { what, told: "nothing comes".to_owned() });
                }
            }
        }
        Ok(())
    }

    /// Replaces all flows, groups and connections.
    pub fn load(&mut self, set: &FlowSet) -> Result<(), ReplayError> {
        let at = |name: &str| self.directory.path().join(name);
        let (flows, groups) = (at("flows"), at("groups"));
        let follow = format!("table=0,priority=65535,dl_type=0x88b5,actions=output:{FOLLOWERS}\n");
        write(&flows, &(follow + &set.flows.join("\n") + "\n"))?;
        write(&groups, &(set.groups.join("\n") + "\n"))?;
        // One by one: in one bundle, flows of groups that are deleted and added are lost.
        self.ofctl(&["del-flows", BRIDGE], None)?;
        self.ofctl(&["del-groups", BRIDGE], None)?;
        self.ofctl(&["add-groups", BRIDGE], Some(&groups))?;
        self.ofctl(&["--bundle", "add-flows", BRIDGE], Some(&flows))?;
        self.appctl(&["dpctl/flush-conntrack"])?;
        self.appctl(&["revalidator/purge"])?;
        Ok(())
    }

    fn ofctl(&self, words: &[&str], file: Option<&Path>) -> Result<String, ReplayError> {
        let mut command = Command::new("ovs-ofctl");
        command.args(["-O", "OpenFlow15"]).args(words).args(file);
        run(command.env("OVS_RUNDIR", self.directory.path()))
    }

    /// Asks the running switch.
    pub fn appctl(&self, words: &[&str]) -> Result<String, ReplayError> {
        let mut command = Command::new("ovs-appctl");
        run(command.arg("-t").arg(self.directory.path().join("switch.ctl")).args(words))
    }

    /// How it explains what it would do with a frame.
    pub fn trace(&self, port: u32, frame: &[u8]) -> Result<String, ReplayError> {
        let frame: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        self.appctl(&["ofproto/trace", BRIDGE, &format!("in_port={port}"), &frame])
    }

    /// Gives it a frame, and tells everything that comes out for it.
    pub fn send(&mut self, port: u32, frame: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, ReplayError> {
        let Some(stream) = self.ports.get_mut(&port) else {
            let what = format!("send by port {port}");
            return Err(ReplayError::Switch { what, told: "there is no such port".to_owned() });
        };
        for (index, bytes) in [frame, &FOLLOWER, &FOLLOWER].into_iter().enumerate() {
            put(stream, bytes).map_err(ReplayError::io("send to Open vSwitch"))?;
            // What is flooded comes out there as well.
            while index > 0
                && take(&mut self.followers).map_err(ReplayError::io("wait for Open vSwitch"))?
                    != FOLLOWER
            {}
        }
        let mut out = Vec::new();
        for (number, stream) in &mut self.ports {
            loop {
                match take(stream) {
                    Ok(frame) => out.push((*number, frame)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(source) => return Err(ReplayError::io("read from Open vSwitch")(source)),
                }
            }
        }
        Ok(out)
    }
}

fn write(path: &Path, text: &str) -> Result<(), ReplayError> {
    std::fs::write(path, text).map_err(ReplayError::io("write flows"))
}

fn put(stream: &mut UnixStream, frame: &[u8]) -> std::io::Result<()> {
    // Frames are far shorter than 64 KiB.
    let mut bytes = (frame.len() as u16).to_be_bytes().to_vec();
    bytes.extend(frame);
    stream.write_all(&bytes)
}

fn take(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn connect(path: &PathBuf) -> Result<UnixStream, ReplayError> {
    until("a port listens", || path.exists())?;
    let stream = UnixStream::connect(path).map_err(ReplayError::io("connect a port"))?;
    let is_followers = path.ends_with(format!("p{FOLLOWERS}"));
    stream.set_nonblocking(!is_followers).map_err(ReplayError::io("set up a port"))?;
    Ok(stream)
}

fn start(command: &mut Command, directory: &Path, log: &File) -> Result<Process, ReplayError> {
    let copy = || log.try_clone().map(Stdio::from).map_err(ReplayError::io("share a log"));
    command.env("OVS_RUNDIR", directory).env("OVS_LOGDIR", directory);
    command.stdin(Stdio::null()).stdout(copy()?).stderr(copy()?);
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command.spawn().map_err(ReplayError::io(&format!(
        "start {name}, which Debian's openvswitch-switch brings"
    )))?;
    Ok(Process(started))
}

fn run(command: &mut Command) -> Result<String, ReplayError> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(ReplayError::io(&format!(
        "run {what}, which Debian's openvswitch-switch brings"
    )))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ReplayError::Switch { what, told })
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), ReplayError> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > deadline {
            let told = format!("not within {} s", PATIENCE.as_secs());
            return Err(ReplayError::Switch { what: what.to_owned(), told });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
