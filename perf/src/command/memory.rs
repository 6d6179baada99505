//! Memory of each daemon, with more and more Pods attached.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use seine_e2e::cluster::Cluster;
use seine_e2e::failure::{Failure, Outcome};

use crate::output::Output;
use crate::process;
use crate::record::{ProcessMemory, Record};
use crate::topology::{Stage, daemons, stage};

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
    output.expect_steps(arguments.pods.len());
    for wanted in &arguments.pods {
        output.step(&format!("{wanted} pods"));
        for index in cluster.pods.len()..*wanted {
            cluster.attach(&stage::near(index))?;
        }
        // What was freed is given back by then, and rings have been touched.
        std::thread::sleep(Duration::from_secs(1));
        for record in look(&mut cluster)? {
            output.add(Record::Memory(record))?;
        }
    }
    cluster.close()
}

fn look(cluster: &mut Cluster) -> Outcome<Vec<ProcessMemory>> {
    let pods = cluster.pods.len();
    let available_kib = available_kib()?;
    let mut records = Vec::new();
    for node in &mut cluster.nodes {
        let umem_kib = registered_kib(node)?;
        for (name, id) in daemons::processes(node)? {
            records.push(ProcessMemory {
                pods,
                process: name.to_owned(),
                memory: process::memory(id)?,
                umem_kib: if name == "datapath" { umem_kib } else { 0 },
                available_kib,
            });
        }
    }
    Ok(records)
}

/// KiB registered with AF_XDP sockets of a node, each region once.
fn registered_kib(node: &seine_e2e::node::Node) -> Outcome<u64> {
    let mut regions = BTreeMap::new();
    for namespace in [&node.namespace, &node.ports_namespace] {
        regions.extend(regions_of(&namespace.run("ss -H --xdp -a -e")?));
    }
    Ok(regions.values().sum::<u64>() / 1024)
}

/// Identifier and bytes of every region that `ss` names.
fn regions_of(text: &str) -> BTreeMap<u64, u64> {
    let number = |text: &str, key: &str| -> Option<u64> {
        let rest = &text[text.find(key)? + key.len()..];
        rest.split(|it: char| !it.is_ascii_digit()).next()?.parse().ok()
    };
    let regions = text.split("umem(").skip(1);
    regions.filter_map(|it| Some((number(it, "id:")?, number(it, "size:")?))).collect()
}

fn available_kib() -> Outcome<u64> {
    let path = Path::new("/proc/meminfo");
    let text = fs::read_to_string(path).map_err(Failure::io("read", path))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| Failure::Unmet("/proc/meminfo has no MemAvailable".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_many_sockets_share_counts_once() {
        let text = "UNCONN 0 0 a:q0 * umem(id:7,size:4096,num_pages:1,chunk_size:2048) x\n\
                    UNCONN 0 0 b:q0 * umem(id:7,size:4096,num_pages:1,chunk_size:2048)\n\
                    UNCONN 0 0 c:q0 * umem(id:9,size:8192,num_pages:2,chunk_size:2048)\n";
        assert_eq!(regions_of(text), BTreeMap::from([(7, 4096), (9, 8192)]));
    }
}
