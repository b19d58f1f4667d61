//! Plots as SVG: lines over two axes, and nothing that needs a script or the network.
//!
//! Pure.

use std::fmt::Write as _;

/// Colours of lines, told apart by people who do not see all colours, too (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "currentColor"];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 46.0;

/// How values of an axis are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By their logarithm.
    Log,
}

/// One line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Drawn in dashes, like what was asked for beside what was.
    pub(crate) dashed: bool,
    /// Number of its colour.
    pub(crate) colour: usize,
}

/// A plot.
pub(crate) struct Plot<'a> {
    pub(crate) x_label: &'a str,
    pub(crate) y_label: &'a str,
    pub(crate) x_scale: Scale,
    pub(crate) y_scale: Scale,
    /// Marks on the x axis with their texts; if empty, they are chosen.
    pub(crate) x_marks: Vec<(f64, String)>,
    pub(crate) lines: Vec<Line>,
}

impl Plot<'_> {
    /// Draws it. Lines without points are left out of the plot and stay in the legend.
    pub(crate) fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::new(self.x_scale, points().map(|point| point.0));
        let y = Axis::new(self.y_scale, points().map(|point| point.1));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by {}\">",
            escape(self.y_label),
            escape(self.x_label)
        );
        self.draw_grid(&mut svg, &x, &y);
        for line in self.lines.iter().filter(|line| !line.points.is_empty()) {
            let points: Vec<_> = line
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", place_x(&x, point.0), place_y(&y, point.1)))
                .collect();
            let _ = write!(
                svg,
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"{} \
                 points=\"{}\"><title>{}</title></polyline>",
                colour(line.colour),
                dashes(line),
                points.join(" "),
                escape(&line.name)
            );
        }
        svg.push_str("</svg>\n<p class=\"legend\">");
        for line in &self.lines {
            let _ = write!(
                svg,
                "<span><svg viewBox=\"0 0 28 6\"><line x2=\"28\" y1=\"3\" y2=\"3\" stroke=\"{}\" \
                 stroke-width=\"2.5\"{}/></svg>{}</span> ",
                colour(line.colour),
                dashes(line),
                escape(&line.name)
            );
        }
        svg.push_str("</p>\n");
        svg
    }

    /// Draws the axes' marks and labels.
    fn draw_grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let bottom = HEIGHT - BOTTOM;
        let chosen = || x.marks().into_iter().map(|value| (value, short(value))).collect();
        let x_marks: Vec<_> = if self.x_marks.is_empty() { chosen() } else { self.x_marks.clone() };
        for (value, text) in x_marks.iter().filter(|(value, _)| (0.0..=1.0001).contains(&x.place(*value))) {
            let at = place_x(x, *value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                escape(text)
            );
        }
        for value in y.marks() {
            let at = place_y(y, value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                short(value)
            );
        }
        let middle = f64::midpoint(TOP, bottom);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(14 {middle:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 8.0,
            escape(self.x_label),
            escape(self.y_label)
        );
    }
}

/// The same for a line in the plot and in the legend.
fn dashes(line: &Line) -> &'static str {
    if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" }
}

fn place_x(axis: &Axis, value: f64) -> f64 {
    LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)
}

fn place_y(axis: &Axis, value: f64) -> f64 {
    HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// From the least to the greatest value of an axis.
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Axis {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let usable = values.filter(|value| value.is_finite() && (scale == Scale::Linear || *value > 0.0));
        let (low, high) = usable
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        match scale {
            _ if low > high => Self { scale, low: 1.0, high: 10.0 },
            Scale::Linear => Self { scale, low: 0.0, high: if high > 0.0 { high * 1.04 } else { 1.0 } },
            Scale::Log => {
                let (low, high) = (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil()));
                Self { scale, low, high: if high > low { high } else { low * 10.0 } }
            }
        }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// Round values within it.
    fn marks(&self) -> Vec<f64> {
        if self.scale == Scale::Log {
            let decades = (self.high / self.low).log10().round().max(0.0);
            #[allow(clippy::cast_possible_truncation)] // some ten at most
            return (0..=decades as i32).map(|decade| self.low * 10f64.powi(decade)).collect();
        }
        let rough = (self.high - self.low) / 6.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(power * 10.0);
        (0u32..=12).map(|i| f64::from(i) * step).take_while(|value| *value <= self.high).collect()
    }
}

/// A number in few letters.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// Text as HTML has it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(scale: Scale, points: Vec<(f64, f64)>) -> String {
        let line = Line { name: "a<b".into(), points, dashed: false, colour: 9 };
        let plot = Plot {
            x_label: "x",
            y_label: "y",
            x_scale: scale,
            y_scale: scale,
            x_marks: Vec::new(),
            lines: vec![line],
        };
        plot.draw()
    }

    #[test]
    fn lines_are_within_the_plot_and_names_are_escaped() {
        for scale in [Scale::Linear, Scale::Log] {
            let svg = plot(scale, vec![(1.0, 10.0), (50.0, 3_000.0)]);
            let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            for point in points.split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                assert!((LEFT..=WIDTH - RIGHT).contains(&x.parse().unwrap()), "{point}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y.parse().unwrap()), "{point}");
            }
            assert!(svg.contains("a&lt;b") && !svg.contains("a<b") && !svg.contains("NaN"));
        }
    }

    #[test]
    fn nothing_to_draw_is_drawn_as_nothing() {
        for scale in [Scale::Linear, Scale::Log] {
            for points in [vec![], vec![(0.0, 0.0)], vec![(5.0, 5.0)]] {
                let svg = plot(scale, points);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.5, 100.0, 12_500.0, 2e6].map(short), ["0.5", "100", "12.5k", "2M"]);
    }
}
