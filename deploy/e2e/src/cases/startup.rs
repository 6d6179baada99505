//! Bad starts: one clear line, a failing exit code, and nothing on the node changed.

use std::fs;
use std::time::Duration;

use super::{Case, Stage, Underlay, manifests};
use crate::daemon::Daemon;
use crate::failure::{Failure, Outcome, expect};
use crate::node::{Node, binary};
use crate::underlay::UPLINK;

pub(super) const CASES: &[Case] = &[
    Case { name: "an unknown key of either daemon is refused by name", run: unknown_key },
    Case {
        name: "a datapath whose uplink is missing names it and changes nothing",
        run: missing_uplink,
    },
    Case { name: "a datapath whose queue is taken says so and changes nothing", run: queue_taken },
    Case {
        name: "a datapath without a right names the right and changes nothing",
        run: missing_right,
    },
    Case {
        name: "a datapath with too little locked memory says how much it needs",
        run: locked_memory,
    },
    Case { name: "an agent whose node is in no manifest says which", run: unknown_node },
];

/// What of a node a failed start must leave as it was.
fn snapshot(node: &Node) -> Outcome<String> {
    let links = node.namespace.ip("-d -o link show")?;
    let rest = [
        node.namespace.ip("addr show")?,
        node.namespace.ip("-4 route show table all")?,
        node.namespace.ip("-6 route show table all")?,
        node.namespace.ip("rule show")?,
        node.namespace.run("nft list ruleset")?,
        node.namespace.value("ipv4/ip_forward")?,
        node.ports_namespace.path().exists().to_string(),
    ];
    // Lifetimes and counters of what is there may move by themselves.
    let text = format!("{links}{}", rest.concat());
    Ok(text.lines().filter(|line| !line.contains("valid_lft")).collect::<Vec<_>>().join("\n"))
}

/// The same once it stays what it is: a link that was just set up comes to be `UP` by itself.
fn settled(node: &Node) -> Outcome<String> {
    let mut last = snapshot(node)?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let now = snapshot(node)?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

/// Starts a daemon that must not start; its complaint, after a look at what it left.
fn refused(node: &Node, program: &str, configuration: &str, prefix: &[&str]) -> Outcome<String> {
    let before = settled(node)?;
    let mut words = prefix.iter().copied().map(str::to_owned).collect::<Vec<_>>();
    words.push(binary(program)?.display().to_string());
    let mut command = node.namespace.command(&words[0]);
    command.args(&words[1..]).arg("--config").arg(node.file(configuration));
    let log = node.file("refused.log");
    // One left by the attempt before would be read in place of this one's.
    let _ = fs::remove_file(&log);
    let mut daemon = Daemon::start(&node.journal, program, &mut command, &log)?;
    let status = daemon.wait(Duration::from_secs(10))?;
    let text = fs::read_to_string(&log).map_err(Failure::io("read", &log))?;
    expect(status.code().is_some_and(|code| code != 0), || {
        format!("{program} ended with {status}: {text}")
    })?;
    let after = snapshot(node)?;
    let changed = after.lines().find(|line| !before.contains(line));
    expect(after == before, || format!("a refused {program} changed the node: {changed:?}"))?;
    let mut lines = text.lines().filter(|line| line.contains("error") || line.contains(program));
    let last = lines.next_back().or(text.lines().next_back()).unwrap_or_default().to_owned();
    expect(!last.is_empty() && !text.contains("panicked"), || format!("no clear line: {text}"))?;
    expect(text.lines().count() <= 2, || format!("more than a line or two: {text}"))?;
    Ok(last)
}

fn names(line: &str, words: &[&str]) -> Outcome {
    let missing = words.iter().find(|word| !line.contains(*word));
    match missing {
        Some(word) => Err(Failure::Unmet(format!("`{line}` does not say `{word}`"))),
        None => Ok(()),
    }
}

fn machine(stage: &mut Stage) -> Outcome<&Node> {
    let cluster = stage.machines(&manifests(1, Underlay::Ipv4, &[]))?;
    Ok(&cluster.nodes[0])
}

fn unknown_key(stage: &mut Stage) -> Outcome {
    let node = machine(stage)?;
    for (program, file) in [("seine-datapath", "datapath.toml"), ("seine-agent", "agent.toml")] {
        let path = node.file(file);
        let text = fs::read_to_string(&path).map_err(Failure::io("read", &path))?;
        node.write("odd.toml", &format!("uplnik = \"eth0\"\n{text}"))?;
        names(&refused(node, program, "odd.toml", &["env"])?, &["uplnik"])?;
    }
    Ok(())
}

fn missing_uplink(stage: &mut Stage) -> Outcome {
    let node = machine(stage)?;
    let text = node.datapath_configuration().replace(UPLINK, "nosuch0");
    node.write("odd.toml", &text)?;
    names(&refused(node, "seine-datapath", "odd.toml", &["env"])?, &["nosuch0"])
}

fn queue_taken(stage: &mut Stage) -> Outcome {
    let cluster = stage.machines(&manifests(1, Underlay::Ipv4, &[]))?;
    let node = &mut cluster.nodes[0];
    node.start_datapath()?;
    // A second datapath with files of its own, on the same uplink.
    let directory = node.directory.display().to_string();
    let text = node.datapath_configuration().replace("-ports", "-second");
    let text = text.replace(&directory, &format!("{directory}/second"));
    let text = format!("{text}[gateway]\ninterface = \"seine-gw9\"\n");
    node.write("odd.toml", &text)?;
    node.journal.namespace(&format!("{}-second", node.namespace.name()))?;
    names(&refused(node, "seine-datapath", "odd.toml", &["env"])?, &[UPLINK])
}

fn missing_right(stage: &mut Stage) -> Outcome {
    let node = machine(stage)?;
    node.write("plain.toml", &node.datapath_configuration())?;
    for (drop, name) in [("-net_admin", "CAP_NET_ADMIN"), ("-bpf,-sys_admin", "CAP_")] {
        let bounding = format!("--bounding-set={drop}");
        let line = refused(node, "seine-datapath", "plain.toml", &["setpriv", &bounding])?;
        names(&line, &[name])?;
    }
    Ok(())
}

/// A limit that packet memory does not fit, and no right that exempts from it.
fn locked_memory(stage: &mut Stage) -> Outcome {
    let node = machine(stage)?;
    node.write("plain.toml", &node.datapath_configuration())?;
    let prefix = ["prlimit", "--memlock=1048576", "setpriv", "--bounding-set=-ipc_lock"];
    let line = refused(node, "seine-datapath", "plain.toml", &prefix)?;
    names(&line, &["locked memory", "1048576", "CAP_IPC_LOCK"])
}

fn unknown_node(stage: &mut Stage) -> Outcome {
    let cluster = stage.machines(&manifests(1, Underlay::Ipv4, &[]))?;
    let node = &cluster.nodes[0];
    let path = node.file("agent.toml");
    let text = fs::read_to_string(&path).map_err(Failure::io("read", &path))?;
    node.write("odd.toml", &text.replace("\"node1\"", "\"node7\""))?;
    // It may wait for its Node to appear, as an agent does that starts before its Node; then it
    // says so and takes no Pod.
    let log = node.file("agent-odd.log");
    let mut command = node.namespace.command(binary("seine-agent")?);
    command.arg("--config").arg(node.file("odd.toml"));
    let mut agent = Daemon::start(&node.journal, "seine-agent", &mut command, &log)?;
    crate::daemon::until("the agent names its node", 10, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("node7"))
    })?;
    agent.stop()
}
