//! The real `seinectl` before a fake datapath: what it asks, what it prints, how it fails.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake_datapath;
mod tracing_packets;
mod using_cores;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use fake_datapath::{Facts, FakeDatapath, facts};
use serde_json::{Value, json};

/// Exit status, stdout, stderr.
struct Ended {
    status: i32,
    stdout: String,
    stderr: String,
}

fn seinectl(socket: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seinectl"));
    command.env("SEINE_DATAPATH_SOCKET", socket).args(line.split_whitespace());
    command
}

fn run(socket: &Path, line: &str) -> Ended {
    let output = seinectl(socket, line).output().unwrap();
    Ended {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a command that must succeed prints.
fn printed(datapath: &FakeDatapath, line: &str) -> String {
    let ended = run(&datapath.socket(), line);
    assert_eq!((ended.status, &*ended.stderr), (0, ""), "{line}: {}", ended.stderr);
    ended.stdout
}

fn printed_json(datapath: &FakeDatapath, line: &str) -> Value {
    serde_json::from_str(&printed(datapath, &format!("{line} -o json"))).unwrap()
}

#[test]
fn status_sums_the_node_up_and_names_what_lags() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "status"),
        "\
datapath  seine-datapath 0.1.0, words 1, up 3 h 12 min
client    seinectl 0.1.0
session   7, seine-agent 0.1.0 on node1
revision  12, in force for 5 min 0 s
ports     2 of 110 Pods, gateway seine-gw0, uplink eth0
packets   6000 received, 12 dropped
tracked   12 of 4096 connections, 1 gave way
names     3 of 16384 addresses that Pods were told, 0 gave way
workers   0 on core 2, adaptive
          1 on core 3, adaptive, still at revision 11
"
    );
    let json = printed_json(&datapath, "status");
    assert_eq!(json["revision"], 12);
    assert_eq!(json["gateway"], "seine-gw0");
    assert_eq!(json["workers"][1]["revision"], 11);
}

#[test]
fn connections_are_asked_for_by_pod_service_and_rule() {
    let datapath = FakeDatapath::start(facts());
    let text = printed(
        &datapath,
        "connection list --pod default/client --service default/web --rule acnp/a",
    );
    let line =
        "tcp       10.10.1.2:40000 > 10.10.1.2  10.10.1.3:8080 > 10.10.1.2:40000  Established";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("default/web  acnp/a"), "{text}");
    assert!(text.ends_with("1 of 12 connections; --limit shows more\n"), "{text}");
    assert_eq!(printed(&datapath, "connection count --pod 10.10.9.9"), "12\n");
    assert_eq!(printed_json(&datapath, "connection list")["connections"][0]["idle_ms"], 1500);
}

#[test]
fn policies_sum_up_what_their_rules_have_decided() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "policy list"),
        "\
POLICY                          RULES  SESSIONS  PACKETS  BYTES
AntreaClusterNetworkPolicy:db       1         0        0    0 B
AntreaClusterNetworkPolicy:web      2         4        8  480 B
"
    );
    let text = printed(&datapath, "rule stats --policy AntreaClusterNetworkPolicy:web");
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains("ingress    antrea-policy     7  drop           3        6  360 B"),
        "{text}"
    );
}

#[test]
fn status_says_what_is_missing() {
    let mut facts = facts();
    facts.status = v1_status_before_an_agent();
    facts.ports.retain(|port| port.name == "pod-a");
    facts.ports[0].endpoint.clear();
    facts.ports[0].fault = "bind: no such device".into();
    facts.workers.clear();
    let text = printed(&FakeDatapath::start(facts), "status");
    for line in [
        "session   none: no agent has connected",
        "revision  none: nothing is installed, every packet is dropped",
        "ports     1 of 110 Pods, gateway missing, uplink missing",
        "          1 without an Endpoint: their packets are dropped",
        "          1 with a queue that stopped: see `seinectl port list`",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

fn v1_status_before_an_agent() -> seine_datapath_api::v1::StatusReply {
    seine_datapath_api::v1::StatusReply { ports_max: 110, version: 1, ..Default::default() }
}

#[test]
fn ports_are_listed_by_index_with_their_traffic() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "port list"),
        "\
ID  PORT       KIND     ENDPOINT             ADDRESSES               MAC                 MTU  MODE    QUEUES  RECEIVED    BYTES  SENT  BYTES  DROPS
 0  seine-gw0  gateway  -                    10.10.1.1               02:00:00:00:00:00  1500  -            2         0      1 B     7  700 B      0
 1  eth0       uplink   -                    -                       02:00:00:00:00:01  1500  native       2      1000  1.0 KiB     7  700 B      0
 2  pod-a      pod      default/client/eth0  10.10.1.2               02:00:00:00:00:02  1450  native       2      2000  1.0 MiB     7  700 B     12
 3  pod-b      pod      default/server/eth0  10.10.1.3 fd00:10:1::3  02:00:00:00:00:03  1450  native       2      3000  1.0 GiB     7  700 B      0
"
    );
    let json = printed_json(&datapath, "port list");
    assert_eq!(json["ports"][2]["name"], "pod-a");
    assert_eq!(json["ports"][2]["drops"], 12);
    assert_eq!(json["ports"][3]["addresses"], json!(["10.10.1.3", "fd00:10:1::3"]));
    assert_eq!(json["ports"][3]["receive_bytes"], 1 << 30);
    assert_eq!(json["ports"][3].get("rates"), None);
}

#[test]
fn a_port_that_stopped_says_why() {
    let mut facts = facts();
    facts.ports[0].fault = "transmit: device is gone".into();
    let text = printed(&FakeDatapath::start(facts), "port list");
    let last = text.lines().last().unwrap();
    assert_eq!(last, "Port pod-b has a queue that stopped: transmit: device is gone");
}

#[test]
fn drops_are_explained_most_first() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "drop list"),
        "\
PACKETS  PORT   REASON         MEANING
   3400  eth0   NotTunnel      Came in by the uplink, but is no Geneve packet.
     12  pod-a  SpoofedSource  Source MAC or address is not the Pod's own.
"
    );
    let json = printed_json(&datapath, "drop list --port pod-a");
    assert_eq!(
        json,
        json!({"drops": [{
            "reason": "SpoofedSource", "port": "pod-a", "packets": 12,
            "meaning": "Source MAC or address is not the Pod's own.",
        }]})
    );
    assert_eq!(printed(&datapath, "drop list --port pod-b"), "No packet was dropped.\n");
}

#[test]
fn stages_are_listed_with_what_they_cost() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "stage list"),
        "\
STAGE       TIMED PACKETS  CYCLES  OF A WALK
Classifier              8     100     80.0 %
Output                  4      50     20.0 %
A walk takes 125 cycles; 8 were timed.
"
    );
    assert_eq!(printed_json(&datapath, "stage list")["stages"][0]["cycles"], 800);
    let idle = printed(&FakeDatapath::start(Facts::default()), "stage list");
    assert!(idle.starts_with("No packet was timed yet"), "{idle}");
}

#[test]
fn tables_are_listed_and_shown() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "table list"),
        "\
STAGE       TABLE       ENTRIES
Classifier  Classifier        4
Validation  SpoofGuard        2
"
    );
    assert_eq!(
        printed(&datapath, "table show SpoofGuard"),
        "\
SpoofGuard in stage Validation: 2 entries

PORT  ENDPOINT             ADDRESSES
   2  default/client/eth0  10.10.1.2
  13  default/server/eth0  -
"
    );
    assert_eq!(printed_json(&datapath, "table show SpoofGuard")["rows"][1][0], "13");
}

#[test]
fn watching_adds_rates_from_the_second_round_on() {
    let datapath = FakeDatapath::start(facts());
    let mut child = seinectl(&datapath.socket(), "port list --watch 1 -o json")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let rounds: Vec<Value> =
        lines.take(2).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(rounds[0]["ports"][2].get("rates"), None);
    assert_eq!(rounds[1]["ports"][2]["rates"]["receive_packets"], 0.0);
}

#[test]
fn a_datapath_that_is_away_is_one_line_and_status_1() {
    let ended = run(Path::new("/nonexistent/datapath.sock"), "status");
    assert_eq!((ended.status, &*ended.stdout), (1, ""));
    assert_eq!(
        ended.stderr,
        "seinectl: cannot reach seine-datapath at `/nonexistent/datapath.sock`: is it running, \
         and are you root?\n"
    );
}

#[test]
fn what_the_datapath_refuses_is_one_line_and_status_1() {
    let ended = run(&FakeDatapath::start(facts()).socket(), "table show Nonsense");
    assert_eq!((ended.status, &*ended.stdout), (1, ""));
    assert_eq!(
        ended.stderr,
        "seinectl: seine-datapath refused `table show`: there is no table `Nonsense` (NotFound)\n"
    );
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for line in [
        "",
        "pod list",
        "port",
        "port list --watch 0",
        "table show",
        "trace default/client",
        "trace default/client default/server tcp/0",
        "trace default/client default/server sctp/0",
        "trace default/client default/server tcp/80 --tcp-flags syn+ack",
        "trace default/client nonsense tcp/80",
        "trace default/client 10.10.1.3 --source-mac 02:00",
        "trace default/client 10.10.1.3 --ttl 0",
    ] {
        let ended = run(Path::new("/nonexistent/datapath.sock"), line);
        assert_eq!((ended.status, &*ended.stdout), (2, ""), "{line}: {}", ended.stderr);
    }
}

#[test]
fn help_teaches_by_example() {
    let help = run(Path::new("/nonexistent"), "--help").stdout;
    assert!(help.contains("seinectl trace default/client default/server tcp/80"), "{help}");
    let help = run(Path::new("/nonexistent"), "trace --help").stdout;
    assert!(help.contains("--source-address 10.10.2.7"), "{help}");
    let help = run(Path::new("/nonexistent"), "pod top --help").stdout;
    assert!(help.contains("A Pod pays for the packets it sends"), "{help}");
    let help = run(Path::new("/nonexistent"), "worker list --help").stdout;
    assert!(help.contains("USEFUL "), "{help}");
}
