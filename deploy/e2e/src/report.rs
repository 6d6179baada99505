//! What the demo prints: one line for each row as it is done, or one JSON object.

use serde::Serialize;

use crate::counters::Counters;

/// Packets that no healthy cluster is blamed for: hosts announce themselves and ask for routers.
const NOISE: [&str; 2] = ["Multicast", "NeighborNoAnswer"];
/// Drops that an unpaced sender brings about by itself.
const OVERLOAD: [&str; 2] = ["EgressFull", "NoFrame"];

/// One row of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// "measure", "attach", "trace".
    pub kind: &'static str,
    /// "same node", "across"; the Pod or node of an attach row.
    pub way: String,
    /// "v4", "v6"; empty where it has no meaning.
    pub family: &'static str,
    /// "ping", "TCP_RR", "native XDP".
    pub test: String,
    /// The figure; absent when there is none.
    pub value: Option<f64>,
    /// Its unit.
    pub unit: &'static str,
    /// What else is worth knowing.
    pub note: String,
    /// Datapath counters that moved: "node1/podport rx +12 tx +12".
    pub moved: Vec<String>,
    /// Drops that moved: "node1/podport Multicast +1".
    pub drops: Vec<String>,
    /// Why it failed; absent when it did not.
    pub failure: Option<String>,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// Says what is under way: on the standard error stream, so that JSON stays clean.
    pub fn progress(self, text: &str) {
        eprintln!("{text}");
    }

    /// Prints the head of the table.
    pub fn head(self) {
        if self == Format::Text {
            println!(
                "\n{:<4} {:<14} {:<4} {:<13} {:>20}  {:<30} counters that moved",
                "", "between", "ip", "test", "measured", ""
            );
        }
    }

    /// Prints one row.
    pub fn line(self, line: &Line) {
        match self {
            Format::Json => println!("{}", serde_json::to_string(line).unwrap_or_default()),
            Format::Text => print_text(line),
        }
    }
}

fn print_text(line: &Line) {
    let verdict = if line.failure.is_none() { "ok" } else { "FAIL" };
    let figure = match line.value {
        Some(value) if value >= 100.0 => format!("{value:.0} {}", line.unit),
        Some(value) => format!("{value:.1} {}", line.unit),
        None => String::new(),
    };
    let moved = line.moved.join("; ");
    println!(
        "{verdict:<4} {:<14} {:<4} {:<13} {figure:>20}  {:<30} {moved}",
        line.way, line.family, line.test, line.note
    );
    for drop in &line.drops {
        println!("     {:<36}dropped: {drop}", "");
    }
    if let Some(failure) = &line.failure {
        println!("     {:<36}failed: {failure}", "");
    }
}

/// The ports whose counters moved, as text.
pub fn moved(counters: &Counters) -> Vec<String> {
    let text = |((node, port), packets): (&(String, String), &crate::counters::PortPackets)| {
        format!("{node}/{port} rx +{} tx +{}", packets.receive, packets.transmit)
    };
    counters.ports.iter().map(text).collect()
}

/// The drops that moved, as text.
pub fn drops(counters: &Counters) -> Vec<String> {
    let drops = counters.drops.iter();
    drops
        .map(|((node, port, reason), packets)| format!("{node}/{port} {reason} +{packets}"))
        .collect()
}

/// Drops that neither noise nor, where the sender is `unpaced`, overload explains.
pub fn unexpected(counters: &Counters, unpaced: bool) -> Option<String> {
    let explained =
        |reason: &str| NOISE.contains(&reason) || (unpaced && OVERLOAD.contains(&reason));
    let mut rest = counters.clone();
    rest.drops.retain(|(_, _, reason), _| !explained(reason));
    (!rest.drops.is_empty()).then(|| format!("unexpected drops: {}", drops(&rest).join("; ")))
}
