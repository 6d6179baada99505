//! Memory of the daemons by number of Pods.

use super::figure;
use super::grid::Grid;
use super::plot::{self, Line};
use crate::record::{ProcessMemory, Record};

/// The processes in the order of every table.
const PROCESSES: [&str; 3] = ["datapath", "datapath parent", "agent"];

fn looks<'a>(records: &'a [Record], process: &str) -> Vec<&'a ProcessMemory> {
    let memory = records.iter().filter_map(|record| match record {
        Record::Memory(memory) => Some(memory),
        _ => None,
    });
    memory.filter(|it| it.process == process).collect()
}

fn mib(kib: u64) -> String {
    figure(kib as f64 / 1024.0)
}

/// KiB more for each Pod, between the least and the most Pods.
fn growth_kib(looks: &[&ProcessMemory], part: fn(&ProcessMemory) -> u64) -> Option<f64> {
    let (first, last) = (looks.first()?, looks.last()?);
    let pods = last.pods.checked_sub(first.pods).filter(|pods| *pods > 0)?;
    Some((part(last) as f64 - part(first) as f64) / pods as f64)
}

/// A row for each process and number of Pods, and what a Pod adds.
pub fn table(records: &[Record]) -> Option<String> {
    looks(records, PROCESSES[0]).first()?;
    let head = [
        "process",
        "Pods",
        "resident",
        "anonymous",
        "file, rings",
        "shared",
        "locked",
        "pinned",
        "huge",
        "frames",
    ];
    let mut grid = Grid::new(&head, 1);
    let mut growth = Grid::new(&["part", "KiB for each Pod"], 1);
    for process in PROCESSES {
        let looks = looks(records, process);
        for look in &looks {
            let memory = &look.memory;
            let parts = [
                memory.resident_kib,
                memory.anonymous_kib,
                memory.file_kib,
                memory.shared_kib,
                memory.locked_kib,
                memory.pinned_kib,
                memory.huge_kib,
                look.frames_kib,
            ];
            let mut row = vec![process.to_owned(), look.pods.to_string()];
            row.extend(parts.map(mib));
            grid.row(row);
        }
        let resident = super::maybe(growth_kib(&looks, |it| it.memory.resident_kib));
        growth.row(vec![format!("{process}, resident"), resident]);
    }
    for (name, process) in [("Seine's", PROCESSES[0]), ("plain", "bridge")] {
        let kernel = super::maybe(growth_kib(&looks(records, process), |it| it.kernel_kib));
        growth.row(vec![format!("kernel, {name} Pods, namespaces included"), kernel]);
    }
    let caption = "Memory, MiB. `frames` is packet memory, a part of what is resident: registered \
                   with AF_XDP and so locked, which the kernel counts by user and not in VmLck or \
                   VmPin.";
    let growth = growth.text("What a Pod adds, from the fewest Pods to the most.");
    Some(format!("{}\n{growth}", grid.text(caption)))
}

/// Resident memory by number of Pods.
pub fn plot(records: &[Record]) -> Option<String> {
    let line = |process: &&str| {
        let looks = looks(records, process);
        let point = |it: &&ProcessMemory| (it.pods as f64, it.memory.resident_kib as f64 / 1024.0);
        let growth = growth_kib(&looks, |it| it.memory.resident_kib)?;
        let label = format!("{process}: {} KiB a Pod", figure(growth));
        Some(Line { label, points: looks.iter().map(point).collect() })
    };
    let lines: Vec<Line> = PROCESSES.iter().filter_map(line).collect();
    if lines.is_empty() {
        return None;
    }
    Some(plot::lines("Resident memory", "Pods", "MiB", &lines))
}
