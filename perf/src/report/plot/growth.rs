//! Growth curves: both axes logarithmic, so that what is proportional rises evenly and what does
//! not grow is level.

use super::svg::{Anchor, Svg};
use super::{Frame, MARGIN, TITLE, round_values, short};

/// Told apart by the colour-blind, too.
const COLOURS: [&str; 5] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#555555"];

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    /// For the legend.
    pub label: String,
    /// Which of the colours; curves of one thing share it.
    pub colour: usize,
    /// To tell two curves of one colour apart.
    pub dashed: bool,
    /// From left to right; above zero.
    pub points: Vec<(f64, f64)>,
}

/// Where a value is between two others, by its logarithm.
fn share(value: f64, (least, most): (f64, f64)) -> f64 {
    (value / least).ln() / (most / least).ln().max(f64::MIN_POSITIVE)
}

fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    (least, values.fold(least * 1.01, f64::max))
}

/// Curves over each other.
pub fn curves(title: &str, across: &str, up: &str, series: &[Series]) -> String {
    let frame = Frame { left: MARGIN, top: TITLE + 10.0, width: 620.0, height: 320.0 };
    let rows = series.len().div_ceil(2);
    let legend = 20.0 * rows as f64;
    let mut svg = Svg::new(720.0, frame.top + frame.height + 50.0 + legend, title);
    let all = series.iter().flat_map(|series| series.points.iter().copied());
    let (horizontal, vertical) = (range(all.clone().map(|it| it.0)), range(all.map(|it| it.1)));
    let base = frame.top + frame.height;
    let x = |value: f64| frame.left + share(value, horizontal) * frame.width;
    let y = |value: f64| base - share(value, vertical) * frame.height;
    for tick in round_values(vertical.0, vertical.1) {
        svg.line(&[(frame.left, y(tick)), (frame.left + frame.width, y(tick))], "#dddddd", false);
        svg.text(frame.left - 6.0, y(tick) + 4.0, 11.0, Anchor::End, &short(tick));
    }
    for tick in round_values(horizontal.0, horizontal.1) {
        svg.line(&[(x(tick), frame.top), (x(tick), base)], "#dddddd", false);
        svg.text(x(tick), base + 16.0, 11.0, Anchor::Middle, &short(tick));
    }
    svg.text(frame.left - 8.0, frame.top - 8.0, 11.0, Anchor::End, up);
    svg.text(frame.left + frame.width, base + 32.0, 11.0, Anchor::End, across);
    for (index, series) in series.iter().enumerate() {
        let colour = COLOURS[series.colour % COLOURS.len()];
        let points: Vec<(f64, f64)> = series.points.iter().map(|it| (x(it.0), y(it.1))).collect();
        svg.line(&points, colour, series.dashed);
        points.iter().for_each(|(x, y)| svg.circle(*x, *y, colour));
        let left = frame.left + (index / rows) as f64 * 320.0;
        let top = base + 50.0 + (index % rows) as f64 * 20.0;
        svg.line(&[(left, top), (left + 30.0, top)], colour, series.dashed);
        svg.text(left + 38.0, top + 4.0, 12.0, Anchor::Start, &series.label);
    }
    svg.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_within_the_frame() {
        let points = vec![(10.0, 800.0), (100.0, 900.0), (40_000.0, 2500.0)];
        let one =
            |dashed| Series { label: "policies".into(), colour: 0, dashed, points: points.clone() };
        let text = curves("title", "installed", "ns", &[one(false), one(true)]);
        assert_eq!(text.matches("<circle").count(), 6);
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert!(text.contains("40k") || text.contains("20k"), "{text}");
    }
}
