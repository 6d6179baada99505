//! The real binary on real devices: nodes and Pods are network namespaces of the test's own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::time::{Duration, Instant};

use lab::{Lab, attempt, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seine_datapath_api::v1;
use seine_datapath_api::v1::datapath_client::DatapathClient;
use tonic::transport::Channel;

/// Whether one ping of a few gets through.
fn reaches(from: &str, to: &str) -> bool {
    attempt(&format!("ip netns exec {from} ping -c 3 -i 0.2 -W 1 {to}")).status.success()
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn pods_reach_each_other_on_a_node_across_nodes_and_the_gateway() {
    let mut lab = Lab::new();
    let mut clients = Vec::new();
    for node in &mut lab.nodes {
        clients.push(node.start().await);
    }
    let (one, neighbour, far) = (lab.pod(0, 2), lab.pod(0, 3), lab.pod(1, 2));
    lab.nodes[0].install(&mut clients[0], &[2, 3]).await;
    lab.nodes[1].install(&mut clients[1], &[2]).await;
    let node = lab.nodes[0].namespace.clone();
    run(&format!("ip -n {node} addr add 10.10.1.1/24 dev seine-gw0"));
    run(&format!("ip -n {node} link set seine-gw0 up"));

    assert!(reaches(&one, "10.10.1.3"), "same node:\n{}", lab.nodes[0].log());
    assert!(reaches(&neighbour, "10.10.1.2"), "same node, back");
    assert!(reaches(&one, "10.10.2.2"), "across nodes:\n{}", lab.nodes[0].log());
    assert!(reaches(&far, "10.10.1.3"), "across nodes, back:\n{}", lab.nodes[1].log());
    assert!(reaches(&one, "10.10.1.1"), "the node");

    assert!(reaches(&node, "10.10.1.2"), "from the node: {:?}", drops(&mut clients[0]).await);
    // The uplink passes what is not claimed.
    assert!(reaches(&node, "192.0.2.2"), "the underlay stays the kernel's");
    tcp(&one, "10.10.1.3", &neighbour);
    tcp(&one, "10.10.2.2", &far);
}

async fn drops(client: &mut DatapathClient<Channel>) -> Vec<String> {
    let drops = client.list_drops(v1::ListDropsRequest {}).await.unwrap().into_inner().drops;
    drops.iter().map(|it| format!("{} {} {}", it.port, it.reason, it.packets)).collect()
}

/// Sends a megabyte by TCP, so with checksums that the sender left to its device.
fn tcp(client: &str, address: &str, server: &str) {
    let server = std::process::Command::new("nsenter")
        .args([&format!("--net=/run/netns/{server}"), "iperf3", "-s", "-1"])
        .stdout(std::process::Stdio::null())
        .spawn();
    let mut server = server.unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let output = attempt(&format!(
        "ip netns exec {client} iperf3 -c {address} -n 1M --connect-timeout 3000"
    ));
    // When the client failed nobody ends the server.
    let _ = server.kill();
    server.wait().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_killed_worker_process_drops_until_the_agent_is_back_and_then_forwards() {
    let mut lab = Lab::new();
    let mut client = lab.nodes[0].start().await;
    let (one, _two) = (lab.pod(0, 2), lab.pod(0, 3));
    lab.nodes[0].install(&mut client, &[2, 3]).await;
    assert!(reaches(&one, "10.10.1.3"));

    let before = lab.nodes[0].child().unwrap();
    kill(before, Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while lab.nodes[0].child().is_none_or(|child| child == before) {
        assert!(Instant::now() < deadline, "no other worker process:\n{}", lab.nodes[0].log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = lab.nodes[0].connect().await;
    assert!(!reaches(&one, "10.10.1.3"), "nobody has told the new process of any Pod");
    lab.nodes[0].install(&mut client, &[2, 3]).await;
    assert!(reaches(&one, "10.10.1.3"), "{}", lab.nodes[0].log());
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_worker_process_killed_six_times_takes_the_parent_with_it_loudly() {
    let mut lab = Lab::new();
    lab.nodes[0].start().await;
    let mut last = None;
    for _ in 0..6 {
        let deadline = Instant::now() + Duration::from_secs(10);
        let child = loop {
            match lab.nodes[0].child() {
                Some(child) if Some(child) != last => break child,
                _ => assert!(Instant::now() < deadline, "{}", lab.nodes[0].log()),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        kill(child, Signal::SIGKILL).unwrap();
        last = Some(child);
    }
    assert_eq!(lab.nodes[0].wait(), Some(70));
    assert!(lab.nodes[0].log().contains("giving up"), "{}", lab.nodes[0].log());
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn the_worker_process_dies_with_its_parent() {
    let mut lab = Lab::new();
    lab.nodes[0].start().await;
    let child = lab.nodes[0].child().unwrap();
    kill(lab.nodes[0].parent(), Signal::SIGKILL).unwrap();
    assert_eq!(lab.nodes[0].wait(), None, "ended by a signal");
    let deadline = Instant::now() + Duration::from_secs(5);
    while kill(child, None).is_ok() {
        assert!(Instant::now() < deadline, "the worker process lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn stopping_leaves_the_pins_and_removing_leaves_nothing() {
    let mut lab = Lab::new();
    let mut client = lab.nodes[0].start().await;
    lab.pod(0, 2);
    lab.nodes[0].install(&mut client, &[2]).await;
    let node = &mut lab.nodes[0];
    let running = node.binary("--remove").output().unwrap();
    assert_eq!(running.status.code(), Some(78), "refused while it runs");
    assert_eq!(node.stop(), Some(0));
    assert!(node.run_dir.join("bpf/pod2/link").exists(), "a stopped datapath fails closed");
    let (namespace, ports) = (node.namespace.clone(), node.ports_namespace.clone());
    assert!(run(&format!("ip -n {ports} link show pod2")).contains("xdp"));
    for _ in 0..2 {
        let removed = node.binary("--remove").output().unwrap();
        assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    }
    assert!(!node.run_dir.exists());
    assert!(!run(&format!("ip -n {namespace} link")).contains("seine-gw0"));
    assert!(!run(&format!("ip -n {namespace} link")).contains("xdp"));
    assert!(!run("ip netns list").contains(&ports));
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_next_hop_follows_the_neighbour_that_moves() {
    let mut lab = Lab::new();
    let mut client = lab.nodes[0].start().await;
    lab.pod(0, 2);
    lab.nodes[0].install(&mut client, &[2]).await;
    let other = lab.nodes[1].namespace.clone();
    for mac in ["02:00:00:00:77:01", "02:00:00:00:77:02"] {
        run(&format!("ip -n {other} link set eth0 down"));
        run(&format!("ip -n {other} link set eth0 address {mac}"));
        run(&format!("ip -n {other} link set eth0 up"));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            // The kernel learns of the move when the neighbour asks for its address.
            run(&format!("ip -n {other} neigh flush dev eth0"));
            attempt(&format!("ip netns exec {other} ping -c 1 -W 1 192.0.2.1"));
            let request = v1::TraceRequest {
                ingress: "pod2".into(),
                source: "10.10.1.2".into(),
                destination: "10.10.2.9".into(),
                protocol: v1::trace_request::Protocol::Icmp.into(),
                ..v1::TraceRequest::default()
            };
            let reply = client.trace(request).await.unwrap().into_inner();
            let hop = reply.packet.get(..6).map(|mac| lab::text(mac.try_into().unwrap()));
            if hop.as_deref() == Some(mac) {
                break;
            }
            assert!(Instant::now() < deadline, "{mac}: {reply:?}\n{}", lab.nodes[0].log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn what_is_missing_on_the_node_is_said_before_anything_changes() {
    let lab = Lab::new();
    let node = &lab.nodes[0];
    let checked = node.binary("--check").output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    run(&format!("ip -n {} link set eth0 down", node.namespace));
    run(&format!("nsenter --net=/run/netns/{} ethtool -L eth0 rx 1 tx 1", node.namespace));
    let refused = node.binary("").output().unwrap();
    assert_eq!(refused.status.code(), Some(78));
    let lines = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(lines.contains("`eth0` is down; `ip link set eth0 up`"), "{lines}");
    assert!(lines.contains("`eth0` has 1 queues and 2 workers want one each"), "{lines}");
    assert!(!node.run_dir.exists(), "nothing was changed");
}

/// Seconds of processor time that a process and all its threads have used.
fn processor_seconds(process: Pid) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn thirty_idle_pods_cost_next_to_no_processor_time() {
    let mut lab = Lab::new();
    let mut client = lab.nodes[0].start().await;
    let numbers: Vec<u8> = (2..32).collect();
    let pods: Vec<String> = numbers.iter().map(|&number| lab.pod(0, number)).collect();
    lab.nodes[0].install(&mut client, &numbers).await;
    assert!(reaches(&pods[0], "10.10.1.31"));
    // Neighbour discovery of new interfaces goes on for a few seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let process = lab.nodes[0].child().unwrap();
    let before = processor_seconds(process);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let used = processor_seconds(process) - before;
    assert!(used <= 0.1, "{used} s of 5");
}

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN"]
async fn a_pod_that_vanishes_costs_no_processor_time_and_can_come_back() {
    let mut lab = Lab::new();
    let mut client = lab.nodes[0].start().await;
    let (one, two) = (lab.pod(0, 2), lab.pod(0, 3));
    lab.nodes[0].install(&mut client, &[2, 3]).await;
    assert!(reaches(&one, "10.10.1.3"));
    run(&format!("ip -n {two} link delete eth0"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let process = lab.nodes[0].child().unwrap();
    let before = processor_seconds(process);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = processor_seconds(process) - before;
    assert!(used <= 0.1, "{used} s of 3");
    let ports = client.list_ports(v1::ListPortsRequest {}).await.unwrap().into_inner().ports;
    let port = ports.iter().find(|port| port.name == "pod3").unwrap();
    assert!(port.fault.contains("pod3"), "{port:?}");

    lab.link(0, 3, &two);
    lab.nodes[0].install(&mut client, &[2, 3]).await;
    assert!(reaches(&one, "10.10.1.3"), "{}", lab.nodes[0].log());
}
