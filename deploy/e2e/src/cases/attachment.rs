//! The plugin on a real node: what the CNI checklist asks for that needs a cluster.

use std::collections::BTreeSet;

use serde_json::Value;

use super::reach::reach;
use super::{Case, Stage, Underlay, manifests, pod};
use crate::attached::check_attachment;
use crate::cluster::Cluster;
use crate::cni::{Attachment, Call};
use crate::counters;
use crate::failure::{Failure, Outcome, expect};
use crate::namespace::Namespace;
use crate::node::Node;
use crate::pod::Family;

pub(super) const CASES: &[Case] = &[
    Case { name: "the result of ADD is what is in the pod", run: result_is_true },
    Case { name: "every pod is in native mode with its checksum offload on", run: native },
    Case {
        name: "twenty pods are added and deleted at once, each with its own address",
        run: twenty,
    },
    Case { name: "five versions of the specification are spoken", run: versions },
    Case {
        name: "DEL succeeds twice, for strangers, and when the namespace is gone",
        run: deletes,
    },
    Case { name: "CHECK notices a missing interface, address and route", run: checks },
    Case { name: "an ADD that fails leaves nothing behind", run: rolls_back },
    Case { name: "STATUS tells a dead datapath from a dead agent", run: status },
];

/// The versions that carry a result of addresses with interfaces.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn one_node(stage: &mut Stage) -> Outcome<&mut Cluster> {
    stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1), ("b", 1)]))
}

fn result_is_true(stage: &mut Stage) -> Outcome {
    let cluster = one_node(stage)?;
    let pod = cluster.pod("a")?;
    let text = pod.namespace.ip("-j addr show dev eth0")?;
    let link: Value = serde_json::from_str(&text).unwrap_or_default();
    let (link, result) = (&link[0], &pod.attachment.result);
    let told = result["interfaces"].as_array().cloned().unwrap_or_default();
    let told = told.into_iter().find(|it| it["name"] == "eth0").unwrap_or_default();
    expect(link["address"] == told["mac"], || format!("MAC {told} is not {}", link["address"]))?;
    expect(link["mtu"] == told["mtu"], || format!("MTU {told} is not {}", link["mtu"]))?;
    expect(link["mtu"] == 1450, || format!("MTU {} is not the tunnel's", link["mtu"]))?;
    expect(told["sandbox"] == pod.namespace.path().display().to_string(), || {
        format!("sandbox of {told} is not CNI_NETNS")
    })?;
    for address in &pod.attachment.addresses {
        let there = link["addr_info"].as_array().is_some_and(|all| {
            all.iter().any(|it| {
                it["local"] == address.addr().to_string() && it["prefixlen"] == address.prefix_len()
            })
        });
        expect(there, || format!("{address} of the result is not on eth0: {text}"))?;
    }
    expect(pod.attachment.addresses.len() == 2, || "not one address of each family".to_owned())?;
    for family in ["-4", "-6"] {
        let routes = pod.namespace.ip(&format!("{family} route show default"))?;
        expect(routes.contains("dev eth0"), || format!("no default route {family}: `{routes}`"))?;
    }
    Ok(())
}

fn native(stage: &mut Stage) -> Outcome {
    let cluster = one_node(stage)?;
    for pod in &cluster.pods {
        check_attachment(cluster.node(&pod.manifest.node)?, pod)?;
    }
    let ports = &cluster.nodes[0].ports_namespace;
    for key in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        let value = ports.value(key)?;
        expect(value == "0", || format!("{key} is {value} where host ends live"))?;
    }
    let addresses =
        ports.ip("-o addr show scope global")? + &ports.ip("-o addr show scope link")?;
    expect(addresses.is_empty(), || format!("host ends have addresses: {addresses}"))
}

fn twenty(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[]))?;
    let node = &cluster.nodes[0];
    let sandboxes: Outcome<Vec<Namespace>> =
        (0..20).map(|i| Namespace::create(&cluster.journal, &format!("batch{i}"))).collect();
    let sandboxes = sandboxes?;
    let run = |command: &'static str| -> Vec<Outcome<Attachment>> {
        std::thread::scope(|scope| {
            let calls = sandboxes.iter().enumerate().map(|(index, sandbox)| {
                scope.spawn(move || {
                    let call = Call::of(command, &format!("batch-{index}"), &sandbox.path())
                        .for_pod("default", &format!("batch-{index}"));
                    if command == "ADD" {
                        return node.plugin.add(&call);
                    }
                    node.plugin.call(&call).map(|_| nothing())
                })
            });
            let calls: Vec<_> = calls.collect();
            let join = |it: std::thread::ScopedJoinHandle<'_, Outcome<Attachment>>| {
                it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            calls.into_iter().map(join).collect()
        })
    };
    let added: Outcome<Vec<Attachment>> = run("ADD").into_iter().collect();
    let added = added?;
    let addresses: BTreeSet<_> = added.iter().flat_map(|it| it.addresses.clone()).collect();
    let macs: BTreeSet<_> = added.iter().map(|it| it.mac.clone()).collect();
    expect(addresses.len() == 40 && macs.len() == 20, || {
        format!("{} addresses and {} MACs of 20 pods", addresses.len(), macs.len())
    })?;
    let deleted: Outcome<Vec<Attachment>> = run("DEL").into_iter().collect();
    deleted?;
    nothing_left(node)?;
    for sandbox in &sandboxes {
        expect(!has_eth0(sandbox), || format!("eth0 is still in {}", sandbox.name()))?;
        sandbox.remove()?;
    }
    Ok(())
}

/// What a DEL returns in place of an attachment.
fn nothing() -> Attachment {
    Attachment {
        result: Value::Null,
        host_interface: String::new(),
        mac: String::new(),
        addresses: Vec::new(),
    }
}

fn has_eth0(sandbox: &Namespace) -> bool {
    sandbox.ip("link show dev eth0").is_ok()
}

/// No port of a Pod is open, and no host end is left.
fn nothing_left(node: &Node) -> Outcome {
    let ports = counters::ports(node)?;
    let pods: Vec<&str> = ports
        .iter()
        .filter(|port| port.kind() == seine_datapath_api::v1::port::Kind::Pod)
        .map(|port| port.name.as_str())
        .collect();
    expect(pods.is_empty(), || format!("ports are still open: {pods:?}"))?;
    let links = node.ports_namespace.ip("-o link show type veth")?;
    expect(links.is_empty(), || format!("host ends are still there: {links}"))
}

fn versions(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[]))?;
    let node = &cluster.nodes[0];
    for (index, version) in VERSIONS.into_iter().enumerate() {
        let sandbox = Namespace::create(&cluster.journal, &format!("version{index}"))?;
        let call = |command| {
            Call::of(command, &format!("version-{index}"), &sandbox.path()).in_version(version)
        };
        let attachment = node.plugin.add(&call("ADD"))?;
        let result = &attachment.result;
        expect(result["cniVersion"] == version, || format!("asked {version}: {result}"))?;
        let old = version.starts_with('0');
        let ips = result["ips"].as_array().cloned().unwrap_or_default();
        expect(!ips.is_empty() && ips.iter().all(|ip| ip["version"].is_string() == old), || {
            format!("`version` of ips in {version}: {result}")
        })?;
        if version >= "0.4.0" {
            let mut check = call("CHECK");
            check.previous = Some(result.clone());
            node.plugin.call(&check)?;
        }
        let deleted = node.plugin.call(&call("DEL"))?;
        expect(deleted.stdout.is_empty(), || format!("DEL printed {}", deleted.stdout))?;
        sandbox.remove()?;
    }
    nothing_left(node)
}

fn deletes(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[("a", 1), ("b", 1)]))?;
    let node = &cluster.nodes[0];
    let (a, b) = (cluster.pod("a")?, cluster.pod("b")?);
    node.plugin.call(&Call::of("DEL", "never-seen", &a.namespace.path()))?;
    reach(cluster, "a", "b", Family::V4)?;
    let mut without = Call::of("DEL", &a.container_id, &a.namespace.path());
    without.netns = None;
    node.plugin.call(&without)?;
    node.plugin.call(&without)?;
    expect(!has_eth0(&a.namespace), || "eth0 outlived a DEL without CNI_NETNS".to_owned())?;
    b.namespace.remove()?;
    node.plugin.call(&Call::of("DEL", &b.container_id, &b.namespace.path()))?;
    nothing_left(node)
}

fn checks(stage: &mut Stage) -> Outcome {
    type Break = fn(&Namespace, &Attachment) -> Outcome<String>;
    let breaks: [(&str, Break); 4] = [
        ("an IPv4 address", |sandbox, attachment| {
            sandbox.ip(&format!("addr del {} dev eth0", attachment.addresses[0]))
        }),
        ("an IPv6 address", |sandbox, attachment| {
            sandbox.ip(&format!("addr del {} dev eth0", attachment.addresses[1]))
        }),
        ("the default route", |sandbox, _| sandbox.ip("route del default")),
        ("the interface", |sandbox, _| sandbox.ip("link del eth0")),
    ];
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[]))?;
    let node = &cluster.nodes[0];
    for (index, (what, break_it)) in breaks.into_iter().enumerate() {
        let sandbox = Namespace::create(&cluster.journal, &format!("check{index}"))?;
        let id = format!("check-{index}");
        let attachment = node.plugin.add(&Call::of("ADD", &id, &sandbox.path()))?;
        let mut check = Call::of("CHECK", &id, &sandbox.path());
        check.previous = Some(attachment.result.clone());
        let answer = node.plugin.call(&check)?;
        expect(answer.stdout.is_empty(), || format!("CHECK printed {}", answer.stdout))?;
        break_it(&sandbox, &attachment)?;
        let answer = node.plugin.run(&check)?;
        expect(!answer.success && answer.code() != 0, || {
            format!("CHECK did not notice that {what} is gone: {}", answer.stdout)
        })?;
        node.plugin.call(&Call::of("DEL", &id, &sandbox.path()))?;
        sandbox.remove()?;
    }
    nothing_left(node)
}

fn rolls_back(stage: &mut Stage) -> Outcome {
    let cluster = one_node(stage)?;
    let (node, a) = (&cluster.nodes[0], cluster.pod("a")?);
    let ports_before = counters::ports(node)?.len();
    let links_before = node.ports_namespace.ip("-o link show type veth")?;
    // Another container in the same namespace: its eth0 is taken.
    let second = Call::of("ADD", "second", &a.namespace.path());
    let answer = node.plugin.run(&second)?;
    expect(!answer.success, || "a second ADD of eth0 into one namespace succeeded".to_owned())?;
    let mut missing = Call::of("ADD", "missing", &a.namespace.path());
    missing.netns = Some("/run/netns/seine-there-is-none".to_owned());
    let answer = node.plugin.run(&missing)?;
    expect(!answer.success, || "an ADD into no namespace succeeded".to_owned())?;
    let mut own = Call::of("ADD", "own", &a.namespace.path());
    own.netns = Some(node.namespace.path().display().to_string());
    let answer = node.plugin.run(&own)?;
    expect(!answer.success, || "an ADD into the node's own namespace succeeded".to_owned())?;
    let ports = counters::ports(node)?.len();
    expect(ports == ports_before, || format!("{ports} ports instead of {ports_before}"))?;
    let links = node.ports_namespace.ip("-o link show type veth")?;
    expect(links.lines().count() == links_before.lines().count(), || {
        format!("host ends were left behind: {links}")
    })?;
    reach(cluster, "a", "b", Family::V4)?;
    // The addresses of the failed ones are free: the next Pod gets one right after the others'.
    let sandbox = pod("next", 1);
    cluster.attach(&sandbox)?;
    reach(cluster, "next", "a", Family::V6)
}

fn status(stage: &mut Stage) -> Outcome {
    let cluster = stage.cluster(&manifests(1, Underlay::Ipv4, &[]))?;
    let node = cluster.node_mut("node1")?;
    let mut call = Call::of("STATUS", "", std::path::Path::new(""));
    (call.container_id, call.netns, call.interface) = (None, None, None);
    node.plugin.call(&call)?;
    node.datapath()?.stop()?;
    let answer = node.plugin.run(&call)?;
    expect(answer.code() == 51, || {
        format!("with no datapath pods are cut off, which is code 51: {}", answer.stdout)
    })?;
    node.agent()?.stop()?;
    let answer = node.plugin.run(&call)?;
    expect(answer.code() == 50, || format!("with no agent it is code 50: {}", answer.stdout))?;
    let version = Call { command: "VERSION", ..call };
    let answer = node.plugin.run(&version)?;
    let spoken = answer.value["supportedVersions"].as_array().cloned().unwrap_or_default();
    let missing = VERSIONS.iter().find(|version| !spoken.iter().any(|it| it == *version));
    match missing {
        Some(version) => Err(Failure::Unmet(format!("{version} is not spoken: {}", answer.stdout))),
        None => Ok(()),
    }
}
