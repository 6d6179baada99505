//! Small differences: pairs of runs, the median of their ratios, and an interval around it.

use super::grid::Grid;
use super::{figure, forward, spread};
use crate::record::{GOAL_GHZ, Pair, Record};
use crate::statistics::{Interval, PAIRS_MIN, Summary};

/// The pairs of each comparison, in the order in which they came.
fn rows(records: &[Record]) -> Vec<Vec<&Pair>> {
    let mut rows: Vec<Vec<&Pair>> = Vec::new();
    for record in records {
        let Record::Pair(pair) = record else { continue };
        let same = |row: &&mut Vec<&Pair>| {
            (&row[0].against, &row[0].profile) == (&pair.against, &pair.profile)
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.push(pair),
            None => rows.push(vec![pair]),
        }
    }
    rows
}

/// Ratios of the cycles: how many times as many with it as without it.
fn ratios(row: &[&Pair]) -> Vec<f64> {
    row.iter().map(|pair| pair.cycles[0] / pair.cycles[1]).collect()
}

/// Cycles more with it, of [`GOAL_GHZ`]; nothing where the clock is not known.
fn more(row: &[&Pair]) -> Vec<f64> {
    let known = row.iter().filter(|pair| pair.tsc_ghz > 0.0);
    known.map(|pair| (pair.cycles[0] - pair.cycles[1]) * GOAL_GHZ / pair.tsc_ghz).collect()
}

/// What is held against an interval.
struct Goal {
    name: String,
    limit: f64,
}

impl Goal {
    fn rate(lost_pct: f64) -> Goal {
        // A rate falls by a share where cycles rise to the inverse of what is left.
        Goal { name: format!("{lost_pct} %"), limit: 1.0 / (1.0 - lost_pct / 100.0) }
    }

    fn cycles(more: f64) -> Goal {
        Goal { name: format!("+{more}"), limit: more }
    }

    /// "met", "missed" or that the interval spans it; no verdict of too few pairs.
    fn verdict(&self, interval: Option<Interval>, pairs: usize) -> String {
        let Goal { name, limit } = self;
        match interval {
            Some(_) if pairs < PAIRS_MIN => format!("{name}: fewer than {PAIRS_MIN} pairs"),
            Some(Interval { most, .. }) if most <= *limit => format!("{name}: met"),
            Some(Interval { least, .. }) if least > *limit => format!("{name}: missed"),
            Some(_) => format!("{name}: not distinguishable"),
            None => format!("{name}: too few pairs"),
        }
    }
}

fn lost_pct(ratio: f64) -> f64 {
    100.0 * (1.0 - 1.0 / ratio)
}

/// A row for each comparison.
pub fn table(records: &[Record]) -> Option<String> {
    let rows = rows(records);
    rows.first()?;
    let head = [
        "with",
        "of",
        "connections",
        "size",
        "cycles with",
        "without",
        "ratio",
        "95 % interval",
        "rate lost %",
        "cycles more",
        "goals",
        "steal %",
        "away %",
        "pairs",
    ];
    let mut grid = Grid::new(&head, 2);
    for row in &rows {
        let first = row[0];
        let of = |place: usize| {
            Summary::of(&row.iter().map(|pair| pair.cycles[place]).collect::<Vec<_>>())
        };
        let worst = |of: fn(&Pair) -> f64| row.iter().map(|pair| of(pair)).fold(0.0, f64::max);
        let interval = Interval::of(&ratios(row));
        let more = Interval::of(&more(row));
        let rates = first.goals_pct.iter().map(|goal| (Goal::rate(*goal), interval));
        let cycles = first.goals_cycles.iter().map(|goal| (Goal::cycles(*goal), more));
        let goals = rates.chain(cycles).map(|(goal, found)| goal.verdict(found, row.len()));
        let bound = if row.iter().any(|pair| pair.generator_bound) { " (g)" } else { "" };
        let [ratio, between, lost] = match interval {
            Some(Interval { least, median, most }) => [
                format!("{median:.3} x"),
                format!("{least:.3}-{most:.3}"),
                format!("{:.1} [{:.1}-{:.1}]", lost_pct(median), lost_pct(least), lost_pct(most)),
            ],
            None => ["-", "-", "-"].map(str::to_owned),
        };
        grid.row(vec![
            first.against.clone(),
            forward::described(&first.profile),
            first.profile.connections.to_string(),
            first.profile.size.to_string(),
            spread(of(0)) + bound,
            spread(of(1)),
            ratio,
            between,
            lost,
            more.map_or("-".to_owned(), |it| {
                format!("{:.0} [{:.0}-{:.0}]", it.median, it.least, it.most)
            }),
            goals.collect::<Vec<_>>().join("; "),
            figure(worst(|pair| pair.steal_pct)),
            figure(worst(|pair| pair.away_pct)),
            row.len().to_string(),
        ]);
    }
    Some(grid.text(
        "Pairs of runs, one right after the other, who goes first changing from pair to pair: the \
         median of the ratios of their cycles, and the interval that holds the true median with \
         95 % (of ranks, so that no shape of noise is assumed). A goal that lies within the \
         interval is not distinguishable from what was measured. `cycles more`: with it than \
         without, of 2.3 GHz, which goals in cycles are said in. (g): a worker waited for its \
         generator in one of the runs. `steal` and `away`: the worst of all runs.",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::forward::profile::{Kind, Profile};

    fn pair(round: usize, cycles: [f64; 2]) -> Record {
        Record::Pair(Box::new(Pair {
            round,
            against: "churn".to_owned(),
            cycles,
            mpps: [1.0; 2],
            generator_bound: false,
            steal_pct: 0.0,
            away_pct: 0.0,
            goals_pct: vec![5.0, 2.0],
            goals_cycles: vec![1.0, 1.5],
            tsc_ghz: 2.0 * GOAL_GHZ,
            profile: Profile::plain(Kind::Established),
        }))
    }

    #[test]
    fn a_goal_is_met_or_missed_only_where_the_interval_says_so() {
        let clear: Vec<Record> =
            (0..20).map(|it| pair(it, [102.1 + (it % 3) as f64, 100.0])).collect();
        let text = table(&clear).unwrap();
        assert!(text.contains("5 %: met; 2 %: missed; +1: missed; +1.5: not"), "{text}");
        let noisy: Vec<Record> = (0..20).map(|it| pair(it, [97.0 + it as f64, 100.0])).collect();
        let text = table(&noisy).unwrap();
        assert!(text.contains("5 %: not distinguishable; 2 %: not"), "{text}");
    }

    #[test]
    fn few_pairs_are_no_verdict() {
        let few: Vec<Record> = (0..10).map(|it| pair(it, [103.1, 100.0])).collect();
        assert!(table(&few).unwrap().contains("5 %: fewer than 20 pairs"));
    }
}
