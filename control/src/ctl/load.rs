//! What workers do, and what the stages cost them.

use std::time::Duration;

use seine_datapath_api::v1;
use serde::Serialize;

use super::columns::Columns;
use super::quantity::{per_second, percent};
use super::render::Render;
use super::watch::{Rates, per};

/// `seinectl worker list`: `{"workers": [...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WorkerList {
    /// In the order of their indexes.
    pub workers: Vec<WorkerReport>,
}

/// One worker.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WorkerReport {
    /// Its number.
    pub index: u32,
    /// The core it is pinned to.
    pub core: u32,
    /// "adaptive" or "spin".
    pub poll: String,
    /// Packets handled.
    pub packets: u64,
    /// Batches with at least one packet.
    pub batches: u64,
    /// Rounds that found nothing.
    pub empty_polls: u64,
    /// Times it slept in the kernel.
    pub rests: u64,
    /// TSC cycles spent on batches.
    pub busy_cycles: u64,
    /// Those of them that were spent on the packets of some port.
    pub useful_cycles: u64,
    /// TSC cycles since start.
    pub total_cycles: u64,
    /// The revision it works with.
    pub revision: u64,
    /// Frames in its own cache.
    pub frames_cached: u32,
    /// Packets decided about by what was composed, without the stages.
    pub composed_hits: u64,
    /// Hits that took the stages, too.
    pub samples: u64,
    /// Those of them about which the stages decided otherwise: 0, or Seine has a fault.
    pub mismatches: u64,
    /// Samples whose connection rules judged once more.
    pub judged: u64,
    /// Hits that took the stages, too, and proved nothing: another worker was there meanwhile.
    pub outdated: u64,
    /// With `--watch`, from the second round on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<WorkerRates>,
}

/// Over the last interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct WorkerRates {
    /// Packets per second.
    pub packets: f64,
    /// Part of all cycles that was spent on batches, 0 to 1.
    pub busy: f64,
    /// Part of all cycles that was spent on the packets of some port, 0 to 1.
    pub useful: f64,
    /// TSC cycles a packet; 0 when there was none.
    pub cycles: f64,
    /// Part of the packets that needed no stage, 0 to 1.
    pub composed: f64,
}

impl From<v1::Worker> for WorkerReport {
    fn from(worker: v1::Worker) -> WorkerReport {
        WorkerReport {
            index: worker.index,
            core: worker.core,
            poll: worker.poll,
            packets: worker.packets,
            batches: worker.batches,
            empty_polls: worker.empty_polls,
            rests: worker.rests,
            busy_cycles: worker.busy_cycles,
            useful_cycles: worker.busy_cycles.saturating_sub(worker.own_cycles),
            total_cycles: worker.total_cycles,
            revision: worker.revision,
            frames_cached: worker.frames_cached,
            composed_hits: worker.composed_hits,
            samples: worker.samples,
            mismatches: worker.mismatches,
            judged: worker.judged,
            outdated: worker.outdated,
            rates: None,
        }
    }
}

impl Rates for WorkerList {
    fn rates_since(&mut self, earlier: &Self, interval: Duration) {
        let rate = per(interval);
        for worker in &mut self.workers {
            let before = earlier.workers.iter().find(|before| before.index == worker.index);
            worker.rates = before.map(|before| {
                let busy = worker.busy_cycles.saturating_sub(before.busy_cycles);
                let total = worker.total_cycles.saturating_sub(before.total_cycles);
                WorkerRates {
                    packets: rate(worker.packets, before.packets),
                    busy: share(busy, total),
                    useful: share(worker.useful_cycles.saturating_sub(before.useful_cycles), total),
                    cycles: share(busy, worker.packets.saturating_sub(before.packets)),
                    composed: share(
                        worker.composed_hits.saturating_sub(before.composed_hits),
                        worker.packets.saturating_sub(before.packets),
                    ),
                }
            });
        }
    }
}

/// 0 of nothing.
pub(super) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Render for WorkerList {
    fn text(&self) -> String {
        if self.workers.is_empty() {
            return "No worker runs.\n".into();
        }
        let names = [
            "WORKER",
            "CORE",
            "POLL",
            "PACKETS",
            "BUSY",
            "USEFUL",
            "CYCLES",
            "PER BATCH",
            "COMPOSED",
            "SAMPLES",
            "JUDGED",
            "OUTDATED",
            "MISMATCHES",
            "RESTS",
            "REVISION",
            "FRAMES",
        ];
        let numbers = names.map(|name| if name == "POLL" { "WORKER" } else { name });
        let mut columns = Columns::new(names).right(&numbers);
        for worker in &self.workers {
            let (packets, busy, useful, cycles, composed) = match &worker.rates {
                Some(rates) => (
                    per_second(rates.packets),
                    format!("{:.1} %", rates.busy * 100.0),
                    format!("{:.1} %", rates.useful * 100.0),
                    rates.cycles,
                    format!("{:.1} %", rates.composed * 100.0),
                ),
                None => (
                    worker.packets.to_string(),
                    percent(worker.busy_cycles, worker.total_cycles),
                    percent(worker.useful_cycles, worker.total_cycles),
                    share(worker.busy_cycles, worker.packets),
                    percent(worker.composed_hits, worker.packets),
                ),
            };
            let per_batch = share(worker.packets, worker.batches);
            columns.row([
                worker.index.to_string(),
                worker.core.to_string(),
                worker.poll.clone(),
                packets,
                busy,
                useful,
                if worker.packets > 0 { format!("{cycles:.0}") } else { String::new() },
                if worker.batches > 0 { format!("{per_batch:.1}") } else { String::new() },
                composed,
                worker.samples.to_string(),
                worker.judged.to_string(),
                worker.outdated.to_string(),
                worker.mismatches.to_string(),
                worker.rests.to_string(),
                worker.revision.to_string(),
                worker.frames_cached.to_string(),
            ]);
        }
        columns.to_string()
    }
}

/// `seinectl worker reload`: `{"cores": [...], "poll", "waiting": [...]}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Reloaded {
    /// Of each worker its core, from now on.
    pub cores: Vec<u32>,
    /// "adaptive" or "spin".
    pub poll: String,
    /// Keys that have changed and take a restart.
    pub waiting: Vec<String>,
}

impl From<v1::ReloadReply> for Reloaded {
    fn from(reply: v1::ReloadReply) -> Reloaded {
        let v1::ReloadReply { cores, poll, waiting } = reply;
        Reloaded { cores, poll, waiting }
    }
}

impl Render for Reloaded {
    fn text(&self) -> String {
        let mut text = String::new();
        for (worker, core) in self.cores.iter().enumerate() {
            text += &format!("Worker {worker} runs on core {core}, {}.\n", self.poll);
        }
        if !self.waiting.is_empty() {
            let keys = self.waiting.join(", ");
            text += &format!("Changed, but in force only after a restart: {keys}.\n");
        }
        text
    }
}

/// `seinectl stage list`: `{"timed_walks", "stages": [...]}`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StageList {
    /// Walks through the stages that were timed, of all workers.
    pub timed_walks: u64,
    /// In the order in which a packet meets them.
    pub stages: Vec<StageReport>,
}

/// What a stage cost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StageReport {
    /// Its name.
    pub stage: String,
    /// Timed packets that met it.
    pub packets: u64,
    /// TSC cycles for all of them.
    pub cycles: u64,
}

impl StageList {
    /// The sum over workers.
    pub fn new(workers: &[v1::Worker]) -> StageList {
        let mut stages: Vec<StageReport> = Vec::new();
        for cost in workers.iter().flat_map(|worker| &worker.stages) {
            match stages.iter_mut().find(|known| known.stage == cost.stage) {
                Some(known) => {
                    known.packets += cost.packets;
                    known.cycles += cost.cycles;
                }
                None => stages.push(StageReport {
                    stage: cost.stage.clone(),
                    packets: cost.packets,
                    cycles: cost.cycles,
                }),
            }
        }
        StageList { timed_walks: workers.iter().map(|worker| worker.timed_walks).sum(), stages }
    }
}

impl Render for StageList {
    fn text(&self) -> String {
        if self.timed_walks == 0 {
            return "No packet was timed yet: one in 256 of those that take the stages is.\n"
                .into();
        }
        let mut columns = Columns::new(["STAGE", "TIMED PACKETS", "CYCLES", "OF A WALK"]).right(&[
            "TIMED PACKETS",
            "CYCLES",
            "OF A WALK",
        ]);
        let total: u64 = self.stages.iter().map(|stage| stage.cycles).sum();
        for stage in &self.stages {
            columns.row([
                stage.stage.clone(),
                stage.packets.to_string(),
                format!("{:.0}", share(stage.cycles, stage.packets)),
                percent(stage.cycles, total),
            ]);
        }
        let walk = share(total, self.timed_walks);
        format!("{columns}A walk takes {walk:.0} cycles; {} were timed.\n", self.timed_walks)
    }
}
