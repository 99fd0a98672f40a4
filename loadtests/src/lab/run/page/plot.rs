//! Plots on an axis of time that is logarithmic: networks differ by a hundred times.

use std::fmt::Write;

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 20.0;
/// Of one range.
const ROW: f64 = 13.0;
const GAP: f64 = 9.0;
const TOP: f64 = 18.0;
const CURVE_HEIGHT: f64 = 170.0;
const CURVE_WIDTH: f64 = 760.0;

/// From the least to the most milliseconds that are drawn.
#[derive(Clone, Copy, Debug)]
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(0.0, f64::max);
        if !low.is_finite() || high <= 0.0 {
            return Self { low: 1.0, high: 10.0, from, to };
        }
        Self { low: (low * 0.8).max(0.1), high: high * 1.25, from, to }
    }

    fn x(&self, ms: f64) -> f64 {
        let share = (ms.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        self.from + share.min(1.0) * (self.to - self.from)
    }

    /// 1, 2 and 5 of every power of ten within.
    fn ticks(&self) -> Vec<f64> {
        let powers = (-1..6).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        powers.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }

    fn axis(&self, top: f64, bottom: f64) -> String {
        let mut svg = String::new();
        for tick in self.ticks() {
            let (x, text) = (self.x(tick), written(tick));
            // Writing to a string cannot fail.
            let _ = write!(
                svg,
                "<line class=axis x1={x:.1} x2={x:.1} y1={top:.1} y2={bottom:.1} />\
                 <text x={x:.1} y={:.1} text-anchor=middle>{text}</text>",
                top - 5.0
            );
        }
        svg
    }
}

fn written(ms: f64) -> String {
    if ms >= 1000.0 { format!("{} s", ms / 1000.0) } else { format!("{ms} ms") }
}

/// Three figures of one client; one below zero is drawn as a ring.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) label: String,
    pub(super) colour: &'static str,
    pub(super) values: [Option<f64>; 3],
}

/// Groups of ranges under one another on one axis.
pub(super) fn ranges(groups: &[(&str, Vec<Range>)]) -> String {
    let all = groups.iter().flat_map(|(_, ranges)| ranges).flat_map(|range| range.values).flatten();
    let scale = Scale::of(all.map(f64::abs), LEFT, WIDTH - RIGHT);
    let (mut svg, mut y) = (String::new(), TOP);
    for (name, ranges) in groups {
        let middle = y + ranges.len() as f64 * ROW / 2.0 + 4.0;
        let _ = write!(svg, "<text x={:.1} y={middle:.1} text-anchor=end>{name}</text>", LEFT - 10.0);
        for range in ranges {
            svg += &drawn(range, &scale, y + ROW / 2.0);
            y += ROW;
        }
        y += GAP;
    }
    format!("<svg viewBox=\"0 0 {WIDTH} {y:.0}\" width=\"100%\">{}{svg}</svg>", scale.axis(TOP, y - GAP))
}

fn drawn(range: &Range, scale: &Scale, y: f64) -> String {
    let colour = range.colour;
    let dots: Vec<f64> = range.values.iter().flatten().copied().filter(|ms| *ms >= 0.0).collect();
    let mut svg = String::new();
    if let (Some(first), Some(last)) = (dots.first(), dots.last()) {
        let (x1, x2) = (scale.x(*first), scale.x(*last));
        let _ = write!(
            svg,
            "<line x1={x1:.1} x2={x2:.1} y1={y:.1} y2={y:.1} stroke=\"{colour}\" stroke-width=2 />"
        );
    }
    for (ms, radius) in dots.iter().zip([4.5, 3.0, 2.2]) {
        let _ = write!(svg, "<circle cx={:.1} cy={y:.1} r={radius} fill=\"{colour}\" />", scale.x(*ms));
    }
    for ms in range.values.iter().flatten().filter(|ms| **ms < 0.0) {
        let x = scale.x(ms.abs());
        let _ =
            write!(svg, "<circle cx={x:.1} cy={y:.1} r=4 fill=none stroke=\"{colour}\" stroke-width=1.6 />");
    }
    let said: Vec<String> = range.values.iter().flatten().map(|ms| format!("{:.0} ms", ms.abs())).collect();
    format!("<g><title>{}: {}</title>{svg}</g>", range.label, said.join(", "))
}

/// The times of one client's calls.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) colour: &'static str,
    /// Of those that were answered, sorted, milliseconds.
    pub(super) times: Vec<f64>,
    /// How many were made.
    pub(super) of: usize,
}

/// Shares of calls that were answered within a time.
pub(super) fn curves(lines: &[Line]) -> String {
    let all = lines.iter().flat_map(|line| &line.times).copied();
    let scale = Scale::of(all, 45.0, CURVE_WIDTH - RIGHT);
    let y = |share: f64| TOP + (1.0 - share) * (CURVE_HEIGHT - TOP - 6.0);
    let mut svg = scale.axis(TOP, y(0.0));
    for share in [0.0, 0.5, 0.9, 1.0] {
        let (at, end) = (y(share), CURVE_WIDTH - RIGHT);
        let _ = write!(
            svg,
            "<line class=axis x1=45 x2={end:.1} y1={at:.1} y2={at:.1} />\
             <text x=40 y={:.1} text-anchor=end>{:.0} %</text>",
            at + 4.0,
            share * 100.0
        );
    }
    for line in lines {
        let mut path = String::new();
        for (number, ms) in line.times.iter().enumerate() {
            let (before, here) = (share(number, line.of), share(number + 1, line.of));
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{x:.1} {:.1}L{x:.1} {:.1}", y(before), y(here), x = scale.x(*ms));
        }
        let _ = write!(svg, "<path d=\"{path}\" fill=none stroke=\"{}\" stroke-width=1.6 />", line.colour);
    }
    format!("<svg viewBox=\"0 0 {CURVE_WIDTH} {CURVE_HEIGHT}\" width=\"{CURVE_WIDTH}\">{svg}</svg>")
}

fn share(count: usize, of: usize) -> f64 {
    count as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_holds_every_value() {
        let scale = Scale::of([10.0, 100.0, 1000.0].into_iter(), 0.0, 100.0);
        let x = [10.0, 100.0, 1000.0].map(|ms| scale.x(ms));
        assert!((x[1] - x[0] - (x[2] - x[1])).abs() < 1e-6, "{x:?}");
        assert!(x[0] > 0.0 && x[2] < 100.0);
        assert_eq!(scale.ticks(), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
    }

    #[test]
    fn nothing_measured_is_an_empty_plot() {
        assert!(ranges(&[("4g", Vec::new())]).contains("4g"));
        assert!(curves(&[Line { colour: "#000", times: Vec::new(), of: 0 }]).contains("path"));
    }

    #[test]
    fn a_curve_ends_at_the_share_that_was_answered() {
        let svg = curves(&[Line { colour: "#000", times: vec![10.0], of: 2 }]);
        let half = TOP + 0.5 * (CURVE_HEIGHT - TOP - 6.0);
        assert!(svg.contains(&format!("{half:.1}\" fill=none")), "{svg}");
    }
}
