//! `seinectl trace`: from the words of an operator to the packet that is asked about.

use seine_datapath_api::v1::trace_reply::Step;
use seine_datapath_api::v1::trace_request::Protocol;
use seine_datapath_api::v1::{Connection, TraceReply, TraceRequest};

use crate::fake_datapath::{FakeDatapath, facts};
use crate::{printed, printed_json, run};

fn step(stage: &str, table: &str, matched: &str, verdict: &str) -> Step {
    Step {
        stage: stage.into(),
        table: table.into(),
        matched: matched.into(),
        verdict: verdict.into(),
    }
}

fn delivered() -> TraceReply {
    let mut packet = vec![2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 9, 8, 0];
    packet.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 63, 6, 0, 0, 10, 10, 1, 2, 10, 10, 1, 3]);
    packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    TraceReply {
        revision: 12,
        steps: vec![
            step("Classifier", "Classifier", "pod-a is default/client/eth0", "Next"),
            step("Validation", "SpoofGuard", "default/client/eth0 owns 10.10.1.2", "Next"),
            step("Output", "Output", "", "Output pod-b"),
        ],
        verdict: "Output".into(),
        egress: "pod-b".into(),
        packet,
        ..Default::default()
    }
}

fn dropped() -> TraceReply {
    TraceReply {
        revision: 12,
        steps: vec![step("Validation", "SpoofGuard", "", "Drop SpoofedSource")],
        verdict: "Drop".into(),
        reason: "SpoofedSource".into(),
        meaning: "Source MAC or source address is not one of the Pod's own.".into(),
        ..Default::default()
    }
}

fn datapath(trace: TraceReply) -> FakeDatapath {
    let mut facts = facts();
    facts.trace = trace;
    FakeDatapath::start(facts)
}

/// What the datapath is asked by `line`.
fn asked(line: &str) -> TraceRequest {
    let datapath = datapath(delivered());
    printed(&datapath, line);
    let [request] = &datapath.traced()[..] else { panic!("{:?}", datapath.traced()) };
    request.clone()
}

fn refused(line: &str) -> (i32, String) {
    let datapath = datapath(delivered());
    let ended = run(&datapath.socket(), line);
    assert_eq!(ended.stdout, "");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert_eq!(datapath.traced(), []);
    (ended.status, ended.stderr)
}

#[test]
fn a_delivered_packet_is_followed_to_its_egress() {
    let datapath = datapath(delivered());
    assert_eq!(
        printed(&datapath, "trace default/client default/server tcp/80"),
        "\
10.10.1.2 > 10.10.1.3 tcp/80, in by pod-a (default/client/eth0), revision 12

STAGE       TABLE       VERDICT       MATCHED
Classifier  Classifier  Next          pod-a is default/client/eth0
Validation  SpoofGuard  Next          default/client/eth0 owns 10.10.1.2
Output      Output      Output pod-b  -

Output by pod-b (default/server/eth0)
02:00:00:00:00:09 > 02:00:00:00:00:03 IP 10.10.1.2:40000 > 10.10.1.3:80 TCP [S] ttl 63, 54 bytes
"
    );
    let json = printed_json(&datapath, "trace default/client default/server tcp/80");
    assert_eq!(json["verdict"], "Output");
    assert_eq!(json["egress_endpoint"], "default/server/eth0");
    assert_eq!(json["steps"][1]["table"], "SpoofGuard");
    assert!(json["packet_bytes"].as_str().unwrap().starts_with("020000000003"));
}

#[test]
fn a_dropped_packet_has_a_reason_with_its_meaning() {
    let datapath = datapath(dropped());
    let text = printed(&datapath, "trace default/client 10.10.1.3 --source-address 10.9.9.9");
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "Drop SpoofedSource: Source MAC or source address is not one of the Pod's own."
    );
    assert_eq!(printed_json(&datapath, "trace default/client 10.10.1.3")["packet"], "");
}

#[test]
fn the_connection_that_a_packet_meets_is_told_with_its_rules() {
    let connection = Connection {
        protocol: 6,
        original: "10.10.1.2:40000 > 10.96.0.10:80".into(),
        progress: "Established".into(),
        service: "default/web:http".into(),
        ingress_rule: "np/default/web/ingress/0".into(),
        age_ms: 61_500,
        idle_ms: 1500,
        ..Default::default()
    };
    let known = TraceReply { connection: Some(connection), answers: true, ..delivered() };
    let datapath = datapath(known);
    let line = "trace default/client default/server tcp/80 --tcp-flags ack";
    assert_eq!(
        printed(&datapath, line).lines().last().unwrap(),
        "Belongs to connection tcp 10.10.1.2:40000 > 10.96.0.10:80, as an answer: Established, 1 min 1 s old, \
         idle 1 s, Service default/web:http, ingress rule np/default/web/ingress/0"
    );
    let json = printed_json(&datapath, line);
    assert_eq!(json["connection"]["progress"], "Established");
    assert_eq!(json["answers"], true);
}

#[test]
fn pods_are_looked_up_and_every_option_reaches_the_datapath() {
    let plain = asked("trace default/client default/server tcp/80");
    let expected = TraceRequest {
        ingress: "pod-a".into(),
        source: "10.10.1.2".into(),
        destination: "10.10.1.3".into(),
        protocol: Protocol::Tcp.into(),
        source_port: 40000,
        destination_port: 80,
        payload_bytes: 0,
        ttl: 64,
        source_mac: Vec::new(),
        destination_mac: Vec::new(),
        tcp_flags: None,
    };
    assert_eq!(plain, expected);
    let flagged = asked("trace default/client default/server tcp/80 --tcp-flags syn,ack");
    assert_eq!(flagged, TraceRequest { tcp_flags: Some(0x12), ..expected.clone() });
    let sctp = asked("trace default/client default/server sctp/80");
    assert_eq!(sctp, TraceRequest { protocol: Protocol::Sctp.into(), ..expected.clone() });
    let all = asked(
        "trace pod-a 10.10.2.7 udp/53 --source 10.9.9.9 --source-port 5 --payload 1400 --ttl 1 \
         --source-mac 02:00:00:00:00:09 --destination-mac 02:00:00:00:00:0a",
    );
    let expected = TraceRequest {
        source: "10.9.9.9".into(),
        destination: "10.10.2.7".into(),
        protocol: Protocol::Udp.into(),
        source_port: 5,
        destination_port: 53,
        payload_bytes: 1400,
        ttl: 1,
        source_mac: vec![2, 0, 0, 0, 0, 9],
        destination_mac: vec![2, 0, 0, 0, 0, 10],
        ..expected
    };
    assert_eq!(all, expected);
}

#[test]
fn the_family_is_that_of_the_destination_or_asked_for() {
    let v6 = asked("trace default/server fd00:10:1::9");
    assert_eq!((&*v6.source, &*v6.destination), ("fd00:10:1::3", "fd00:10:1::9"));
    let asked_for = asked("trace default/server default/server -6");
    assert_eq!(asked_for.destination, "fd00:10:1::3");
    assert_eq!(asked_for.protocol, i32::from(Protocol::Icmp));
}

#[test]
fn gateway_and_tunnel_have_names_of_their_own() {
    let gateway = asked("trace gateway default/server");
    assert_eq!((&*gateway.ingress, &*gateway.source), ("seine-gw0", ""));
    let tunnel = asked("trace tunnel default/server tcp/80 --source-address 10.10.2.7");
    assert_eq!((&*tunnel.ingress, &*tunnel.source), ("tunnel", "10.10.2.7"));
    let arp = asked("trace default/client gateway arp");
    assert_eq!((&*arp.destination, arp.protocol), ("10.10.1.1", i32::from(Protocol::Arp)));
}

#[test]
fn what_is_not_on_this_node_is_said_so() {
    let (status, message) = refused("trace default/client other/pod");
    assert_eq!(status, 1);
    assert!(message.contains("`other/pod/eth0` is not on this node"), "{message}");
    assert!(message.contains("default/client/eth0, default/server/eth0"), "{message}");
    let (status, message) = refused("trace nonsense default/server");
    assert!(status == 1 && message.contains("no port is called `nonsense`"), "{message}");
    let (status, message) = refused("trace default/client default/server -6");
    assert!(status == 1 && message.contains("no IPv6 address"), "{message}");
    let (status, message) = refused("trace tunnel default/server");
    assert!(status == 1 && message.contains("--source-address"), "{message}");
}

#[test]
fn packets_that_cannot_be_are_status_2() {
    let (status, message) = refused("trace default/server fd00:10:1::9 --source 10.9.9.9");
    assert!(status == 2 && message.contains("not of one family"), "{message}");
    let (status, message) = refused("trace default/client default/server udp/53 --tcp-flags ack");
    assert!(status == 2 && message.contains("give tcp/PORT, not udp/53"), "{message}");
}
