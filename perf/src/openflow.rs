//! The flows that Antrea would give Open vSwitch for a State: our second opinion on a pipeline, and
//! the flow set that Open vSwitch is measured with.
//!
//! Written anew from what Antrea's pipeline is known to do (its tables, matches, marks and ct
//! zones), with nothing in common with `seine_pipeline` but the objects: rules are conjunctive
//! matches here, Services are groups, connections are those of Open vSwitch. What flows do not
//! express is counted in [`FlowSet::left_out`], by feature.

mod connectivity;
mod flow;
mod policy;
mod service;
mod subject;
mod table;
pub mod walk;

use std::collections::BTreeMap;

use flow::Writer;
use seine_pipeline::state::Object;
use subject::Subject;
pub use table::Table;

/// A key of the ports that [`flows`] is given: where packets go that Antrea's agent is sent, to be
/// answered or logged. Without it they go to the controller.
pub const AGENT: &str = "(agent)";

/// What a switch is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowSet {
    /// As `ovs-ofctl -O OpenFlow15 add-flows` takes them, one a line.
    pub flows: Vec<String>,
    /// As `ovs-ofctl -O OpenFlow15 add-groups` takes them; they come before the flows.
    pub groups: Vec<String>,
    /// What of the objects is not in it, and how often.
    pub left_out: BTreeMap<&'static str, usize>,
}

/// Why there are no flows for a State.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// It has none of what every State has.
    #[error("the objects hold no {0}")]
    Missing(&'static str),
    /// A port has no number.
    #[error("port `{0}` has no OpenFlow number")]
    NoNumber(String),
    /// 16-bit priorities do not suffice.
    #[error("{rules} rules of different rank do not fit into the {room} priorities of {table}")]
    NoPriority {
        /// How many.
        rules: usize,
        /// Of how many.
        room: usize,
        /// Where.
        table: &'static str,
    },
}

/// Writes the flows for all objects of a State. `ports` has the OpenFlow number of each port that
/// is there, by its name; an uplink's is that of the tunnel port.
pub fn flows(objects: &[Object], ports: &BTreeMap<String, u32>) -> Result<FlowSet, FlowError> {
    let subject = Subject::of(objects, ports)?;
    let mut writer = Writer::default();
    connectivity::write(&subject, &mut writer);
    let groups = service::write(&subject, &mut writer);
    policy::write(&subject, &groups, &mut writer)?;
    Ok(writer.finish())
}

#[cfg(test)]
mod tests;
