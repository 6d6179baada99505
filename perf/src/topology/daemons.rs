//! The daemons of a cluster as processes: what they have used so far.

use seine_e2e::failure::Outcome;
use seine_e2e::node::Node;

use crate::process;

/// What the daemons of some nodes have used since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU of the datapaths, their parents included.
    pub datapath_cpu_ms: u64,
    /// CPU of the agents.
    pub agent_cpu_ms: u64,
    /// Times that threads of datapaths went to sleep.
    pub datapath_rests: u64,
    /// Times that threads of agents did.
    pub agent_rests: u64,
}

/// The processes of a node by name: "datapath parent", "datapath", "agent".
pub fn processes(node: &mut Node) -> Outcome<Vec<(&'static str, u32)>> {
    let datapath = node.datapath()?;
    let mut processes = vec![("datapath parent", datapath.id())];
    processes.extend(datapath.children().into_iter().map(|id| ("datapath", id)));
    processes.push(("agent", node.agent()?.id()));
    Ok(processes)
}

impl Used {
    /// Reads it now.
    pub fn now(nodes: &mut [Node]) -> Outcome<Used> {
        let mut used = Used::default();
        for node in nodes {
            for (name, id) in processes(node)? {
                let (cpu, rests) = (process::cpu_ms(id)?, process::rests(id)?);
                if name == "agent" {
                    used.agent_cpu_ms += cpu;
                    used.agent_rests += rests;
                } else {
                    used.datapath_cpu_ms += cpu;
                    used.datapath_rests += rests;
                }
            }
        }
        Ok(used)
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Used) -> Used {
        Used {
            datapath_cpu_ms: self.datapath_cpu_ms.saturating_sub(before.datapath_cpu_ms),
            agent_cpu_ms: self.agent_cpu_ms.saturating_sub(before.agent_cpu_ms),
            datapath_rests: self.datapath_rests.saturating_sub(before.datapath_rests),
            agent_rests: self.agent_rests.saturating_sub(before.agent_rests),
        }
    }
}
