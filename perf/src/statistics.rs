//! Medians, percentiles, and when two systems may be called different.

/// Differences below this share of the peer are noise on a machine with neighbours.
const NOISE_SHARE: f64 = 0.15;
/// A sign test must be this sure before a smaller difference counts.
const SIGNIFICANCE: f64 = 0.05;

/// The middle of some figures, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many figures.
    pub count: usize,
    /// The least.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// The most.
    pub most: f64,
}

impl Summary {
    /// Of some figures; `None` when there are none.
    pub fn of(figures: &[f64]) -> Option<Summary> {
        let sorted = sorted(figures);
        Some(Summary {
            count: sorted.len(),
            least: *sorted.first()?,
            median: median(&sorted)?,
            most: *sorted.last()?,
        })
    }
}

/// The value that `percent` of the figures do not exceed (nearest rank): with 50 figures, p99 is
/// the worst one.
pub fn percentile(figures: &[f64], percent: f64) -> Option<f64> {
    let sorted = sorted(figures);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Figures in rising order.
pub fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The middle of sorted figures; the mean of the two middle ones when their number is even.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[middle - 1] + upper) / 2.0)
}

/// How one system compares with its peer, measured in turns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Median of the ratios of each pair: 1.2 is 20 % above the peer.
    pub ratio: f64,
    /// Whether that is more than noise.
    pub distinguishable: bool,
}

impl Comparison {
    /// Compares pairs of (own, peer) that were measured one right after the other.
    ///
    /// Different are: medians 15 % apart with at least three quarters of three or more pairs on
    /// that side; or any difference whose side a sign test is sure of at 5 %, which takes six
    /// pairs that all agree.
    pub fn of(pairs: &[(f64, f64)]) -> Option<Comparison> {
        let pairs: Vec<_> = pairs.iter().filter(|(_, peer)| *peer > 0.0).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(own, peer)| own / peer).collect();
        let ratio = Summary::of(&ratios)?.median;
        let above = ratios.iter().filter(|ratio| **ratio > 1.0).count();
        let below = ratios.iter().filter(|ratio| **ratio < 1.0).count();
        let agreeing = if ratio > 1.0 { above } else { below };
        let clear = (ratio - 1.0).abs() >= NOISE_SHARE
            && ratios.len() >= 3
            && agreeing * 4 >= ratios.len() * 3;
        let distinguishable = clear || sign_test(above, below) < SIGNIFICANCE;
        Some(Comparison { ratio, distinguishable })
    }
}

/// Pairs of runs that a verdict about a small difference takes.
pub const PAIRS_MIN: usize = 20;

/// A median, and the interval that holds the true one in 95 of a hundred cases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// Its upper end.
    pub most: f64,
}

impl Interval {
    /// By ranks: the true median lies below a figure or above it as a fair coin falls, whatever
    /// the figures' distribution. Fewer than six tell nothing at 5 %.
    pub fn of(figures: &[f64]) -> Option<Interval> {
        let sorted = sorted(figures);
        let count = sorted.len();
        // So many figures at either end are outside.
        let outside = (1..=count / 2)
            .take_while(|outside| sign_test(count - (outside - 1), outside - 1) < SIGNIFICANCE)
            .last()?;
        Some(Interval {
            least: *sorted.get(outside - 1)?,
            median: median(&sorted)?,
            most: *sorted.get(count - outside)?,
        })
    }
}

/// The chance that a fair coin falls at least as unevenly as this, on either side.
fn sign_test(above: usize, below: usize) -> f64 {
    let (count, fewer) = (above + below, above.min(below));
    let mut ways = 1.0;
    let mut sum = 0.0;
    for i in 0..=fewer {
        if i > 0 {
            ways *= (count - i + 1) as f64 / i as f64;
        }
        sum += ways;
    }
    (2.0 * sum / 2_f64.powi(i32::try_from(count).unwrap_or(i32::MAX))).min(1.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(summary, Summary { count: 4, least: 1.0, median: 2.5, most: 4.0 });
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn the_interval_of_twenty_lies_between_the_sixth_and_the_fifteenth() {
        // As in any table of the sign test's intervals.
        let figures: Vec<f64> = (1..=20).map(f64::from).collect();
        let interval = Interval { least: 6.0, median: 10.5, most: 15.0 };
        assert_eq!(Interval::of(&figures), Some(interval));
        assert_eq!(Interval::of(&figures[..6]).map(|it| (it.least, it.most)), Some((1.0, 6.0)));
        assert_eq!(Interval::of(&figures[..5]), None);
    }

    #[test]
    fn p99_of_fifty_is_the_worst() {
        let figures: Vec<f64> = (1..=50).map(f64::from).collect();
        assert_eq!(percentile(&figures, 99.0), Some(50.0));
        assert_eq!(percentile(&figures, 50.0), Some(25.0));
        assert_eq!(percentile(&[7.0], 50.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_tenth_in_five_pairs_is_noise() {
        let comparison = Comparison::of(&[(110.0, 100.0); 5]).unwrap();
        assert!(!comparison.distinguishable);
    }

    #[test]
    fn a_tenth_in_six_agreeing_pairs_is_not() {
        assert!(Comparison::of(&[(110.0, 100.0); 6]).unwrap().distinguishable);
        let mut pairs = vec![(110.0, 100.0); 5];
        pairs.push((90.0, 100.0));
        assert!(!Comparison::of(&pairs).unwrap().distinguishable);
    }

    #[test]
    fn a_half_that_most_pairs_show_is_a_difference() {
        let pairs = [(50.0, 100.0), (60.0, 100.0), (55.0, 100.0), (120.0, 100.0)];
        let comparison = Comparison::of(&pairs).unwrap();
        assert!(comparison.distinguishable && comparison.ratio < 0.6);
        assert!(!Comparison::of(&[(50.0, 100.0)]).unwrap().distinguishable);
    }
}
