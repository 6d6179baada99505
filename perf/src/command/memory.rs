//! Memory of each daemon, with more and more Pods attached; and what the kernel holds for them,
//! beside the same number of Pods on a bridge.

use std::fs;
use std::path::Path;
use std::time::Duration;

use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome};

use crate::output::Output;
use crate::process::{self, Memory};
use crate::record::{ProcessMemory, Record};
use crate::topology::plain::PlainNode;
use crate::topology::{Stage, daemons, stage};

/// After a change: what was freed is given back by then, and rings have been touched.
const SETTLE: Duration = Duration::from_secs(2);
/// Parts of the kernel's memory that grow with Pods, by the names of /proc/meminfo.
const KERNEL_PARTS: [&str; 4] = ["SUnreclaim", "VmallocUsed", "Percpu", "KernelStack"];

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Numbers of attached Pods to look at, rising.
    #[arg(long, value_delimiter = ',', default_value = "0,10,30,60")]
    pub pods: Vec<usize>,
}

/// Runs it.
pub fn run(arguments: &Arguments, output: &mut Output) -> Outcome {
    let most = arguments.pods.iter().copied().max().unwrap_or(0);
    let mut cluster = Stage { nodes: 1, pods: most, far: 0 }.start(output)?;
    output.expect_steps(arguments.pods.len() * 2);
    for wanted in &arguments.pods {
        output.step(&format!("{wanted} pods on seine"));
        for index in cluster.pods.len()..*wanted {
            cluster.attach(&stage::near(index))?;
        }
        std::thread::sleep(SETTLE);
        for record in look(&mut cluster)? {
            output.add(Record::Memory(record))?;
        }
    }
    while let Some(name) = cluster.pods.first().map(|pod| pod.manifest.name.clone()) {
        cluster.detach(&name)?;
    }
    let mut plain = PlainNode::create(&cluster.journal, &cluster.underlay, 1)?;
    let mut pods = Vec::new();
    for wanted in &arguments.pods {
        output.step(&format!("{wanted} pods on bridge"));
        for index in pods.len()..*wanted {
            pods.push(plain.attach(&cluster.journal, &format!("pod{index}"))?);
        }
        std::thread::sleep(SETTLE);
        output.add(Record::Memory(ProcessMemory {
            pods: pods.len(),
            process: "bridge".to_owned(),
            memory: Memory::default(),
            frames_kib: 0,
            kernel_kib: kernel_kib()?,
        }))?;
    }
    cluster.close()
}

fn look(cluster: &mut Cluster) -> Outcome<Vec<ProcessMemory>> {
    let pods = cluster.pods.len();
    let kernel_kib = kernel_kib()?;
    let mut records = Vec::new();
    for node in &mut cluster.nodes {
        for (name, id) in daemons::processes(node)? {
            let frames_kib = if name == "datapath" { process::largest_mapping_kib(id)? } else { 0 };
            records.push(ProcessMemory {
                pods,
                process: name.to_owned(),
                memory: process::memory(id)?,
                frames_kib,
                kernel_kib,
            });
        }
    }
    Ok(records)
}

fn kernel_kib() -> Outcome<u64> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(Failure::io("read", path))?;
    Ok(kernel_parts_kib(&text))
}

fn kernel_parts_kib(meminfo: &str) -> u64 {
    let parts = meminfo.lines().filter_map(|line| line.split_once(':'));
    let counted = parts.filter(|(name, _)| KERNEL_PARTS.contains(name));
    counted.filter_map(|(_, value)| value.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reclaimed_is_not_counted() {
        let meminfo = "MemFree: 9000 kB\nSlab: 70 kB\nSReclaimable: 50 kB\nSUnreclaim: 20 kB\n\
                       KernelStack: 3 kB\nVmallocTotal: 99999 kB\nVmallocUsed: 4 kB\nPercpu: 1 kB\n";
        assert_eq!(kernel_parts_kib(meminfo), 28);
    }
}
