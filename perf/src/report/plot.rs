//! Three kinds of plot as SVG: bars with their spread, distributions, and lines.
//!
//! Colours tell systems apart also to the colour-blind; every bar and curve is labelled in words.

pub mod growth;
mod svg;

use self::svg::{Anchor, Svg};
use crate::record::System;
use crate::statistics::{Summary, sorted};

const MARGIN: f64 = 56.0;
const TITLE: f64 = 34.0;
const LINE_COLOURS: [&str; 3] = ["#0072b2", "#e69f00", "#009e73"];

/// Where figures become points.
#[derive(Clone, Copy, Debug)]
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// One bar of a group.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Gives the colour.
    pub system: System,
    /// Height, and the ends of the whisker.
    pub summary: Summary,
    /// Written above.
    pub label: String,
}

/// Groups of bars with one unit.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What and in which unit.
    pub title: String,
    /// A name and bars for each.
    pub groups: Vec<(String, Vec<Bar>)>,
}

/// One curve of a distribution.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Gives the colour.
    pub system: System,
    /// To tell two curves of a system apart.
    pub dashed: bool,
    /// For the legend.
    pub label: String,
    /// In any order.
    pub figures: Vec<f64>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// For the legend.
    pub label: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

fn colour(system: System) -> &'static str {
    match system {
        System::Seine => LINE_COLOURS[0],
        System::Bridge => LINE_COLOURS[1],
    }
}

/// Panels of bars, two beside each other.
pub fn bars(title: &str, panels: &[Panel]) -> String {
    let (width, height) = (430.0, 250.0);
    let rows = panels.len().div_ceil(2) as f64;
    let mut svg = Svg::new(2.0 * width + 20.0, rows * height + TITLE + 24.0, title);
    let legend = [(System::Seine, "Seine"), (System::Bridge, "bridge, VXLAN across")];
    for (index, (system, name)) in legend.into_iter().enumerate() {
        let x = MARGIN + index as f64 * 120.0;
        svg.rectangle(x, TITLE + 2.0, 12.0, 12.0, colour(system));
        svg.text(x + 18.0, TITLE + 12.0, 12.0, Anchor::Start, name);
    }
    for (index, panel) in panels.iter().enumerate() {
        let frame = Frame {
            left: MARGIN + (index % 2) as f64 * width,
            top: TITLE + 56.0 + (index / 2) as f64 * height,
            width: width - MARGIN - 10.0,
            height: height - 80.0,
        };
        panel_of_bars(&mut svg, frame, panel);
    }
    svg.end()
}

fn panel_of_bars(svg: &mut Svg, frame: Frame, panel: &Panel) {
    let all = panel.groups.iter().flat_map(|(_, bars)| bars);
    let top = ceiling(all.map(|bar| bar.summary.most).fold(0.0, f64::max));
    svg.text(frame.left, frame.top - 16.0, 13.0, Anchor::Start, &panel.title);
    vertical_axis(svg, frame, top);
    let step = frame.width / panel.groups.len().max(1) as f64;
    for (index, (name, bars)) in panel.groups.iter().enumerate() {
        let middle = frame.left + (index as f64 + 0.5) * step;
        let base = frame.top + frame.height;
        svg.text(middle, base + 16.0, 11.0, Anchor::Middle, name);
        let width = step * 0.36;
        for (place, bar) in bars.iter().enumerate() {
            let x = middle + (place as f64 - bars.len() as f64 / 2.0) * width;
            let y = |value: f64| base - value / top * frame.height;
            let height = base - y(bar.summary.median);
            svg.rectangle(x + 1.0, y(bar.summary.median), width - 2.0, height, colour(bar.system));
            let centre = x + width / 2.0;
            let [least, most] = [bar.summary.least, bar.summary.most].map(y);
            svg.line(&[(centre, most), (centre, least)], "#333333", false);
            for end in [least, most] {
                svg.line(&[(centre - 4.0, end), (centre + 4.0, end)], "#333333", false);
            }
            svg.text(centre, most - 4.0, 9.0, Anchor::Middle, &bar.label);
        }
    }
}

/// Shares of the figures that a value is not below; the value's axis is logarithmic.
pub fn distribution(title: &str, unit: &str, curves: &[Curve]) -> String {
    let frame = Frame { left: MARGIN, top: TITLE + 10.0, width: 620.0, height: 280.0 };
    let legend = 20.0 * curves.len() as f64;
    let mut svg = Svg::new(720.0, frame.top + frame.height + 44.0 + legend, title);
    let all = || curves.iter().flat_map(|curve| curve.figures.iter().copied());
    let least = all().fold(f64::INFINITY, f64::min).max(1e-3);
    let most = all().fold(0.0, f64::max).max(least * 1.01);
    vertical_axis(&mut svg, frame, 100.0);
    svg.text(frame.left - 8.0, frame.top - 8.0, 11.0, Anchor::End, "%");
    let x = |value: f64| {
        let share = (value.max(1e-3) / least).ln() / (most / least).ln();
        frame.left + share * frame.width
    };
    let base = frame.top + frame.height;
    for tick in round_values(least, most) {
        svg.line(&[(x(tick), frame.top), (x(tick), base)], "#dddddd", false);
        svg.text(x(tick), base + 16.0, 11.0, Anchor::Middle, &format!("{tick}"));
    }
    svg.text(frame.left + frame.width, base + 32.0, 11.0, Anchor::End, unit);
    for (index, curve) in curves.iter().enumerate() {
        let figures = sorted(&curve.figures);
        let count = figures.len() as f64;
        let mut points = Vec::new();
        for (rank, value) in figures.iter().enumerate() {
            for share in [rank as f64 / count, (rank + 1) as f64 / count] {
                points.push((x(*value), base - share * frame.height));
            }
        }
        svg.line(&points, colour(curve.system), curve.dashed);
        let y = base + 44.0 + index as f64 * 20.0;
        svg.line(&[(frame.left, y), (frame.left + 30.0, y)], colour(curve.system), curve.dashed);
        svg.text(frame.left + 38.0, y + 4.0, 12.0, Anchor::Start, &curve.label);
    }
    svg.end()
}

/// Lines from zero on both axes.
pub fn lines(title: &str, across: &str, up: &str, lines: &[Line]) -> String {
    let most = most_across(lines);
    drawn(title, across, up, lines, &|value| value / most)
}

/// As [`lines`], each step across a multiple of the one before.
pub fn logarithmic_lines(title: &str, across: &str, up: &str, lines: &[Line]) -> String {
    let all = lines.iter().flat_map(|line| line.points.iter());
    let least = all.map(|point| point.0).fold(f64::INFINITY, f64::min).max(1.0);
    let most = most_across(lines).max(least * 1.01);
    let share = move |value: f64| (value.max(least) / least).ln() / (most / least).ln();
    drawn(title, across, up, lines, &share)
}

fn most_across(lines: &[Line]) -> f64 {
    lines.iter().flat_map(|line| line.points.iter()).map(|point| point.0).fold(1.0, f64::max)
}

/// Lines, where `share` says how far across a value lies.
fn drawn(
    title: &str,
    across: &str,
    up: &str,
    lines: &[Line],
    share: &dyn Fn(f64) -> f64,
) -> String {
    let frame = Frame { left: MARGIN, top: TITLE + 10.0, width: 560.0, height: 260.0 };
    let legend = 20.0 * lines.len() as f64;
    let mut svg = Svg::new(660.0, frame.top + frame.height + 44.0 + legend, title);
    let all = lines.iter().flat_map(|line| line.points.iter());
    let top = ceiling(all.map(|point| point.1).fold(0.0, f64::max));
    vertical_axis(&mut svg, frame, top);
    svg.text(frame.left - 8.0, frame.top - 8.0, 11.0, Anchor::End, up);
    let base = frame.top + frame.height;
    svg.text(frame.left + frame.width, base + 32.0, 11.0, Anchor::End, across);
    let x = |value: f64| frame.left + share(value) * frame.width;
    for (index, line) in lines.iter().enumerate() {
        let colour = LINE_COLOURS[index % LINE_COLOURS.len()];
        let place = |&(across, up): &(f64, f64)| (x(across), base - up / top * frame.height);
        let points: Vec<(f64, f64)> = line.points.iter().map(place).collect();
        svg.line(&points, colour, false);
        for ((px, py), (value, _)) in points.iter().zip(&line.points) {
            svg.circle(*px, *py, colour);
            if index == 0 {
                svg.text(*px, base + 16.0, 11.0, Anchor::Middle, &format!("{value}"));
            }
        }
        let y = base + 44.0 + index as f64 * 20.0;
        svg.line(&[(frame.left, y), (frame.left + 30.0, y)], colour, false);
        svg.text(frame.left + 38.0, y + 4.0, 12.0, Anchor::Start, &line.label);
    }
    svg.end()
}

fn vertical_axis(svg: &mut Svg, frame: Frame, top: f64) {
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        let y = frame.top + frame.height * (1.0 - share);
        svg.line(&[(frame.left, y), (frame.left + frame.width, y)], "#dddddd", false);
        svg.text(frame.left - 6.0, y + 4.0, 11.0, Anchor::End, &short(top * share));
    }
}

/// "12k" for 12000.
fn short(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

/// A round number that is not below `value`, and whose quarters are round enough.
fn ceiling(value: f64) -> f64 {
    let value = value.max(f64::MIN_POSITIVE);
    let scale = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 5.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * scale >= value);
    step.unwrap_or(10.0) * scale
}

/// 1, 2, 5, 10, ... between two values.
fn round_values(least: f64, most: f64) -> Vec<f64> {
    let mut values = Vec::new();
    let mut scale = 10_f64.powf(least.log10().floor());
    while scale <= most {
        let round = [1.0, 2.0, 5.0].map(|step| step * scale);
        values.extend(round.into_iter().filter(|value| (least..=most).contains(value)));
        scale *= 10.0;
    }
    values
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn axes_end_at_round_numbers_above_their_figures() {
        assert_eq!(ceiling(4341.0), 5000.0);
        assert_eq!(ceiling(100.0), 100.0);
        assert_eq!(round_values(3.0, 60.0), [5.0, 10.0, 20.0, 50.0]);
    }

    #[test]
    fn every_bar_and_curve_is_drawn() {
        let summary = Summary::of(&[1.0, 2.0, 3.0]).unwrap();
        let bar = |system| Bar { system, summary, label: "2 <".to_owned() };
        let group = ("same node v4".to_owned(), vec![bar(System::Seine), bar(System::Bridge)]);
        let panel = Panel { title: "TCP_RR".to_owned(), groups: vec![group] };
        let text = bars("title", &[panel]);
        assert_eq!(text.matches("<rect").count(), 1 + 2 + 2, "ground, legend, bars");
        assert!(text.contains("2 &lt;") && text.ends_with("</svg>\n"));
        let curve = Curve {
            system: System::Seine,
            dashed: true,
            label: "all".to_owned(),
            figures: vec![3.0, 1.0],
        };
        assert!(distribution("title", "ms", &[curve]).contains("stroke-dasharray"));
        let line = Line { label: "agent".to_owned(), points: vec![(0.0, 1.0), (60.0, 2.0)] };
        assert_eq!(lines("title", "Pods", "MiB", &[line]).matches("<circle").count(), 2);
    }
}
