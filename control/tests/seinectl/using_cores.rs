//! `seinectl worker list` and `pod top`: what cores do, and for whom.

use seine_datapath_api::v1;
use serde_json::json;

use crate::fake_datapath::{Facts, FakeDatapath, facts};
use crate::{printed, printed_json, run};

#[test]
fn workers_are_listed_with_their_load() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "worker list"),
        "\
WORKER  CORE  POLL      PACKETS    BUSY  USEFUL  CYCLES  PER BATCH  COMPOSED  SAMPLES  JUDGED  \
OUTDATED  MISMATCHES  RESTS  REVISION  FRAMES
     0     2  adaptive     1200  12.5 %  11.2 %     150        3.0    75.0 %        \
3       2         1           0     55        12      64
     1     3  adaptive     1200  12.5 %  11.2 %     150        3.0    75.0 %        \
3       2         1           0     55        11      64
"
    );
    let json = printed_json(&datapath, "worker list");
    assert_eq!(json["workers"][0]["busy_cycles"], 180_000);
    assert_eq!(json["workers"][0]["useful_cycles"], 162_000);
    assert_eq!(printed(&FakeDatapath::start(Facts::default()), "worker list"), "No worker runs.\n");
}

#[test]
fn queues_are_listed_by_core_the_most_hungry_first() {
    let datapath = FakeDatapath::start(facts());
    assert_eq!(
        printed(&datapath, "worker list --queues"),
        "\
WORKER  CORE  PORT       QUEUE  ENDPOINT             PACKETS  CYCLES  OF CORE
     0     2  pod-a          0  default/client/eth0      900     120    7.5 %
     0     2  seine-gw0      0  -                        200     180    2.5 %
     0     2  pod-b          0  default/server/eth0        0       -    0.0 %
     1     3  seine-gw0      1  -                        200     180    2.5 %
     1     3  pod-a          1  default/client/eth0      100     270    1.9 %
     1     3  pod-b          1  default/server/eth0        0       -    0.0 %
"
    );
    let json = printed_json(&datapath, "worker list --queues");
    assert_eq!(json["queues"][0]["cycles"], 108_000);
    assert_eq!(json["queues"][0].get("rates"), None);
    let none = printed(&FakeDatapath::start(Facts::default()), "worker list --queues");
    assert_eq!(none, "No worker owns a queue.\n");
}

/// A million cycles later: the client has used six tenths of a core, and the gateway's second queue
/// has moved to the first worker.
fn later() -> Facts {
    let facts = facts();
    let mut workers = facts.workers.clone();
    workers.sort_by_key(|worker| worker.index);
    let [first, second] = &mut workers[..] else { panic!("two workers") };
    let spend = |queue: &mut v1::WorkerQueue, packets, cycles| {
        queue.packets += packets;
        queue.cycles += cycles;
    };
    let mut moved = second.queues.remove(0);
    spend(&mut moved, 10, 50_000);
    first.queues.push(moved);
    spend(&mut first.queues[0], 100, 100_000);
    spend(&mut first.queues[1], 2000, 600_000);
    spend(&mut second.queues[0], 1000, 250_000);
    first.busy_cycles += 770_000;
    first.own_cycles += 20_000;
    second.busy_cycles += 250_000;
    workers.iter_mut().for_each(|worker| worker.total_cycles += 1_000_000);
    Facts { workers_later: workers, ..facts }
}

#[test]
fn the_pod_that_uses_most_of_the_cores_is_named_first() {
    let text = printed(&FakeDatapath::start(later()), "pod top");
    let lines: Vec<Vec<&str>> = text.lines().map(|it| it.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["POD", "CORES", "PACKETS", "CYCLES", "OF", "CORE"], "{text}");
    assert_eq!(lines[1][..2], ["default/client", "0.850"], "{text}");
    assert!(text.lines().nth(1).unwrap().ends_with("283  2: 60.0 %, 3: 25.0 %"), "{text}");
    assert!(text.lines().nth(2).unwrap().starts_with("seine-gw0 (gateway)  0.150"), "{text}");
    assert!(text.lines().nth(2).unwrap().ends_with("1364  2: 15.0 %"), "{text}");
    let cores = "\
Core 2 (worker 0): 77.0 % busy, 2.0 % its own work
Core 3 (worker 1): 25.0 % busy, 0.0 % its own work
";
    assert!(text.ends_with(cores), "who sends nothing is left out: {text}");

    let json = printed_json(&FakeDatapath::start(later()), "pod top");
    assert_eq!(json["pods"][0]["name"], "default/client");
    assert_eq!(json["pods"][0]["ports"], json!(["pod-a"]));
    assert_eq!(json["pods"][0]["by_core"][1], json!({"worker": 1, "core": 3, "part": 0.25}));
    assert_eq!(json["pods"][1]["kind"], "gateway");
    assert_eq!(json["cores"][0]["busy"], 0.77);
}

#[test]
fn a_node_on_which_nobody_sends_says_so() {
    let text = printed(&FakeDatapath::start(facts()), "pod top");
    assert_eq!(text, "No packet came from a Pod, the gateway or the uplink.\n");
}

#[test]
fn what_came_of_a_configuration_read_again_is_said() {
    let (cores, waiting) = (vec![0, 0], vec!["frames".to_owned()]);
    let reply = v1::ReloadReply { cores, poll: "spin".into(), waiting };
    let datapath = FakeDatapath::start(Facts { reload: Some(reply), ..facts() });
    assert_eq!(
        printed(&datapath, "worker reload"),
        "Worker 0 runs on core 0, spin.\nWorker 1 runs on core 0, spin.\n\
         Changed, but in force only after a restart: frames.\n"
    );
    assert_eq!(printed_json(&datapath, "worker reload")["cores"], json!([0, 0]));
    let refused = run(&FakeDatapath::start(facts()).socket(), "worker reload");
    assert_eq!((refused.status, &*refused.stdout), (1, ""));
    assert!(refused.stderr.contains("core 9 is not there"), "{}", refused.stderr);
}
