//! What pollers say of themselves, read from what they print.

use std::collections::BTreeMap;

use crate::forward::session::Figures;

/// The first poller of `ovs-appctl dpif-netdev/pmd-stats-show`.
pub fn of_open_vswitch(text: &str) -> Option<Figures> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("pmd thread"));
    lines.next()?;
    let own = lines.take_while(|line| line.starts_with(' '));
    let values: BTreeMap<&str, f64> = own
        .filter_map(|line| {
            let (name, value) = line.trim().split_once(':')?;
            Some((name, value.split_whitespace().next()?.parse().ok()?))
        })
        .collect();
    let value = |name: &str| values.get(name).copied();
    let packets = value("packets received")?;
    let hits = ["phwol hits", "simple match hits", "emc hits", "smc hits", "megaflow hits"];
    let misses = ["miss with success upcall", "miss with failed upcall"];
    let sum = |names: &[&str]| names.iter().filter_map(|name| value(name)).sum::<f64>();
    let lookups = (sum(&hits) + sum(&misses)).max(1.0);
    let share = |name| value(name).map(|hits| 100.0 * hits / lookups);
    Some(Figures {
        packets,
        busy_cycles: value("processing cycles")?,
        idle_cycles: value("idle cycles"),
        passes_per_packet: value("avg. datapath passes per packet"),
        emc_hit_pct: share("emc hits"),
        smc_hit_pct: share("smc hits"),
        upcalls: Some(sum(&misses)),
        packets_per_output_batch: value("avg. packets per output batch"),
    })
}

/// The accumulated figures of testpmd's `show fwd stats all`, run with `--record-core-cycles`.
pub fn of_testpmd(text: &str) -> Option<Figures> {
    let (_, text) = text.rsplit_once("Accumulated forward statistics")?;
    let after = |name: &str| {
        let (_, rest) = text.split_once(name)?;
        let rest = rest.trim_start_matches([':', '=', ' ']);
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse::<f64>().ok()
    };
    let packets = after("RX-packets")?;
    Some(Figures { packets, busy_cycles: after("total cycles")?, ..Figures::default() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn only_the_poller_is_read_and_not_the_main_thread() {
        let text = "\
pmd thread numa_id 0 core_id 0:
  packets received: 1000
  packet recirculations: 1000
  avg. datapath passes per packet: 2.00
  phwol hits: 0
  mfex opt hits: 0
  simple match hits: 0
  emc hits: 500
  smc hits: 100
  megaflow hits: 1390
  avg. subtable lookups per megaflow hit: 1.50
  miss with success upcall: 10
  miss with failed upcall: 0
  avg. packets per output batch: 12.50
  idle cycles: 1000 (0.10%)
  processing cycles: 999000 (99.90%)
  avg cycles per packet: 1000.00 (1000000/1000)
  avg processing cycles per packet: 999.00 (999000/1000)
main thread:
  packets received: 7
  emc hits: 7
";
        let figures = of_open_vswitch(text).unwrap();
        assert_eq!((figures.packets, figures.busy_cycles), (1000.0, 999_000.0));
        assert_eq!((figures.idle_cycles, figures.upcalls), (Some(1000.0), Some(10.0)));
        assert_eq!((figures.emc_hit_pct, figures.smc_hit_pct), (Some(25.0), Some(5.0)));
        assert_eq!(of_open_vswitch("main thread:\n  packets received: 7\n"), None);
    }

    #[test]
    fn of_testpmd_all_ports_count_together() {
        let text = "\
testpmd> show fwd stats all

  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 500            RX-dropped: 0             RX-total: 500

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 1000           RX-dropped: 0             RX-total: 1000
  TX-packets: 1000           TX-dropped: 0             TX-total: 1000

  CPU cycles/packet=97.00 (total cycles=97005 / total io packets=1000) at 2600 MHz Clock
testpmd> ";
        let figures = of_testpmd(text).unwrap();
        assert_eq!((figures.packets, figures.busy_cycles), (1000.0, 97_005.0));
        assert_eq!(of_testpmd("testpmd> show fwd stats all\n"), None);
    }
}
