//! Whose packets cores are busy with: queue by queue, and Pod by Pod.
//!
//! A port's queue is in the hands of one worker at a time, which says what it spent on the packets
//! received there (docs/decisions/0038-cycles-of-a-pod.md). A Pod's part is that of its queues.

use std::collections::BTreeMap;
use std::time::Duration;

use seine_datapath_api::v1;
use serde::Serialize;

use super::columns::Columns;
use super::load::share;
use super::quantity::{per_second, percent};
use super::render::Render;
use super::report::port_kind;
use super::watch::{Rates, per};

/// `seinectl worker list --queues`: `{"queues": [...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct QueueList {
    /// By worker, and there the most hungry first.
    pub queues: Vec<QueueReport>,
    #[serde(skip)]
    cores: Vec<Core>,
}

/// One queue of a port.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct QueueReport {
    /// The worker that owns it, and its core.
    pub worker: u32,
    /// The core of that worker.
    pub core: u32,
    /// The port.
    pub port: String,
    /// Index of the port on the packet path.
    pub id: u32,
    /// Rises when the index is used again.
    pub generation: u32,
    /// "pod", "gateway", "host" or "uplink".
    pub kind: &'static str,
    /// "default/web-0/eth0", or empty.
    pub endpoint: String,
    /// Which of the port's queues.
    pub queue: u32,
    /// Packets received.
    pub packets: u64,
    /// TSC cycles spent on them.
    pub cycles: u64,
    /// TSC cycles since the worker started.
    pub total_cycles: u64,
    /// With `--watch`, from the second round on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<QueueRates>,
}

/// Over the last interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct QueueRates {
    /// Packets per second.
    pub packets: f64,
    /// TSC cycles a packet; 0 when there was none.
    pub cycles: f64,
    /// Part of the core's cycles that was spent on them, 0 to 1.
    pub of_core: f64,
}

/// What a worker counts for itself.
#[derive(Clone, PartialEq, Debug)]
struct Core {
    worker: u32,
    core: u32,
    busy_cycles: u64,
    own_cycles: u64,
    total_cycles: u64,
}

impl QueueList {
    /// What all workers say of their queues.
    pub fn new(workers: &[v1::Worker]) -> QueueList {
        let mut queues: Vec<QueueReport> = Vec::new();
        for worker in workers {
            queues.extend(worker.queues.iter().map(|queue| QueueReport {
                worker: worker.index,
                core: worker.core,
                port: queue.port.clone(),
                id: queue.port_id,
                generation: queue.generation,
                kind: port_kind(queue.kind()),
                endpoint: queue.endpoint.clone(),
                queue: queue.queue,
                packets: queue.packets,
                cycles: queue.cycles,
                total_cycles: worker.total_cycles,
                rates: None,
            }));
        }
        queues.sort_by(|a, b| {
            let key = |it: &QueueReport| (it.worker, u64::MAX - it.cycles, it.id, it.queue);
            key(a).cmp(&key(b))
        });
        let cores = workers.iter().map(|worker| Core {
            worker: worker.index,
            core: worker.core,
            busy_cycles: worker.busy_cycles,
            own_cycles: worker.own_cycles,
            total_cycles: worker.total_cycles,
        });
        QueueList { queues, cores: cores.collect() }
    }

    /// The cycles that went by on a worker's core since then.
    fn elapsed(&self, earlier: &QueueList, worker: u32) -> u64 {
        let total = |list: &QueueList| {
            let core = list.cores.iter().find(|core| core.worker == worker);
            core.map_or(0, |core| core.total_cycles)
        };
        total(self).saturating_sub(total(earlier))
    }

    /// By worker, what was spent since then on packets, and beside them.
    fn busy(&self, earlier: &QueueList) -> Vec<CoreReport> {
        let report = |core: &Core| {
            let before = earlier.cores.iter().find(|before| before.worker == core.worker)?;
            let elapsed = core.total_cycles.saturating_sub(before.total_cycles);
            Some(CoreReport {
                worker: core.worker,
                core: core.core,
                busy: share(core.busy_cycles.saturating_sub(before.busy_cycles), elapsed),
                own: share(core.own_cycles.saturating_sub(before.own_cycles), elapsed),
            })
        };
        self.cores.iter().filter_map(report).collect()
    }
}

impl Rates for QueueList {
    fn rates_since(&mut self, earlier: &Self, interval: Duration) {
        let rate = per(interval);
        let mut queues = std::mem::take(&mut self.queues);
        for queue in &mut queues {
            let elapsed = self.elapsed(earlier, queue.worker);
            // A queue that has moved to another worker has kept its counts.
            let before = earlier.queues.iter().find(|before| {
                (&before.port, before.id, before.generation, before.queue)
                    == (&queue.port, queue.id, queue.generation, queue.queue)
            });
            queue.rates = before.map(|before| {
                let cycles = queue.cycles.saturating_sub(before.cycles);
                QueueRates {
                    packets: rate(queue.packets, before.packets),
                    cycles: share(cycles, queue.packets.saturating_sub(before.packets)),
                    of_core: share(cycles, elapsed),
                }
            });
        }
        let hunger = |queue: &QueueReport| queue.rates.map_or(0.0, |rates| rates.of_core);
        queues.sort_by(|a, b| a.worker.cmp(&b.worker).then(hunger(b).total_cmp(&hunger(a))));
        self.queues = queues;
    }
}

impl Render for QueueList {
    fn text(&self) -> String {
        if self.queues.is_empty() {
            return "No worker owns a queue.\n".into();
        }
        let names = ["WORKER", "CORE", "PORT", "QUEUE", "ENDPOINT", "PACKETS", "CYCLES", "OF CORE"];
        let numbers = ["WORKER", "CORE", "QUEUE", "PACKETS", "CYCLES", "OF CORE"];
        let mut columns = Columns::new(names).right(&numbers);
        for queue in &self.queues {
            let (packets, cycles, of_core) = match &queue.rates {
                Some(rates) => (per_second(rates.packets), rates.cycles, part(rates.of_core)),
                None => (
                    queue.packets.to_string(),
                    share(queue.cycles, queue.packets),
                    percent(queue.cycles, queue.total_cycles),
                ),
            };
            columns.row([
                queue.worker.to_string(),
                queue.core.to_string(),
                queue.port.clone(),
                queue.queue.to_string(),
                queue.endpoint.clone(),
                packets,
                if cycles > 0.0 { format!("{cycles:.0}") } else { String::new() },
                of_core,
            ]);
        }
        columns.to_string()
    }
}

fn part(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// `seinectl pod top`: `{"pods": [...], "cores": [...]}`, over the last interval.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PodList {
    /// The most hungry first; those that sent nothing are left out.
    pub pods: Vec<PodReport>,
    /// By worker.
    pub cores: Vec<CoreReport>,
    #[serde(skip)]
    queues: QueueList,
}

/// What a Pod, or one of the node's own ports, uses.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PodReport {
    /// "default/web-0"; the port of what is no Pod, or has no Endpoint yet.
    pub name: String,
    /// "pod", "gateway", "host" or "uplink".
    pub kind: &'static str,
    /// Its ports.
    pub ports: Vec<String>,
    /// Packets sent per second.
    pub packets: f64,
    /// TSC cycles a packet.
    pub cycles: f64,
    /// Cores' worth of cycles: 1 is a whole core.
    pub cores: f64,
    /// How much of which core, in the order of the workers.
    pub by_core: Vec<CorePart>,
}

/// A part of one core.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct CorePart {
    /// The worker.
    pub worker: u32,
    /// Its core.
    pub core: u32,
    /// Part of its cycles, 0 to 1.
    pub part: f64,
}

/// What a core did.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct CoreReport {
    /// The worker.
    pub worker: u32,
    /// Its core.
    pub core: u32,
    /// Part of its cycles spent on rounds with packets, 0 to 1.
    pub busy: f64,
    /// Part of its cycles spent on no port's packets in those rounds.
    pub own: f64,
}

impl PodList {
    /// Nothing known yet: rates need two rounds.
    pub fn new(workers: &[v1::Worker]) -> PodList {
        PodList { pods: Vec::new(), cores: Vec::new(), queues: QueueList::new(workers) }
    }
}

impl Rates for PodList {
    fn rates_since(&mut self, earlier: &Self, interval: Duration) {
        self.queues.rates_since(&earlier.queues, interval);
        self.cores = self.queues.busy(&earlier.queues);
        let mut pods = BTreeMap::<String, PodReport>::new();
        for queue in &self.queues.queues {
            let Some(rates) = queue.rates.filter(|rates| rates.of_core > 0.0) else { continue };
            let name = pod_of(queue).to_owned();
            let pod = pods.entry(name.clone()).or_insert_with(|| PodReport {
                name,
                kind: queue.kind,
                ports: Vec::new(),
                packets: 0.0,
                cycles: 0.0,
                cores: 0.0,
                by_core: Vec::new(),
            });
            if !pod.ports.contains(&queue.port) {
                pod.ports.push(queue.port.clone());
            }
            // Cycles of all its packets, until all are known.
            pod.cycles += rates.cycles * rates.packets;
            pod.packets += rates.packets;
            pod.cores += rates.of_core;
            match pod.by_core.iter_mut().find(|known| known.worker == queue.worker) {
                Some(known) => known.part += rates.of_core,
                None => pod.by_core.push(CorePart {
                    worker: queue.worker,
                    core: queue.core,
                    part: rates.of_core,
                }),
            }
        }
        self.pods = pods.into_values().collect();
        for pod in &mut self.pods {
            pod.cycles = if pod.packets > 0.0 { pod.cycles / pod.packets } else { 0.0 };
        }
        self.pods.sort_by(|a, b| b.cores.total_cmp(&a.cores));
    }
}

impl Render for PodList {
    fn text(&self) -> String {
        if self.pods.is_empty() {
            return "No packet came from a Pod, the gateway or the uplink.\n".into();
        }
        let mut columns = Columns::new(["POD", "CORES", "PACKETS", "CYCLES", "OF CORE"])
            .right(&["CORES", "PACKETS", "CYCLES"]);
        for pod in &self.pods {
            let by_core = pod.by_core.iter();
            let by_core = by_core.map(|it| format!("{}: {}", it.core, part(it.part)));
            columns.row([
                match pod.kind {
                    "pod" => pod.name.clone(),
                    kind => format!("{} ({kind})", pod.name),
                },
                format!("{:.3}", pod.cores),
                per_second(pod.packets),
                format!("{:.0}", pod.cycles),
                by_core.collect::<Vec<_>>().join(", "),
            ]);
        }
        let mut text = columns.to_string();
        for CoreReport { worker, core, busy, own } in &self.cores {
            let (busy, own) = (part(*busy), part(*own));
            text += &format!("Core {core} (worker {worker}): {busy} busy, {own} its own work\n");
        }
        text
    }
}

/// "default/web-0" of "default/web-0/eth0".
fn pod_of(queue: &QueueReport) -> &str {
    match queue.endpoint.rsplit_once('/') {
        Some((pod, _)) => pod,
        None => &queue.port,
    }
}
