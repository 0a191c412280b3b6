//! The page of a run: three charts and their figures, with nothing to fetch and nothing that runs.
//!
//! Who sees no charts has all of it in tables. Colours are those of whoever reads: light or dark.

use std::fmt::Write;

use super::report::{Report, Side, bytes, micros, number};

/// The page, in HTML.
pub(super) fn page(report: &Report) -> String {
    let title = escaped(&report.title());
    let mut body = String::new();
    let sides = [("pushed", &report.push), ("pulled", &report.pull)];
    let sides: Vec<(&str, &Side)> =
        sides.iter().filter_map(|(word, side)| side.as_ref().map(|side| (*word, side))).collect();
    body += &throughput(&sides);
    for (word, side) in &sides {
        if side.latency.is_some() {
            body += &latency_over_time(word, side);
            body += &distribution(word, side);
        }
    }
    for (word, side) in &sides {
        body += &seconds(word, side);
    }
    let figures = escaped(&report.text());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<h1>sidestream bench</h1>\n<pre>{figures}</pre>\n{body}</body>\n</html>\n"
    )
}

fn throughput(sides: &[(&str, &Side)]) -> String {
    let lines = sides.iter().map(|(word, side)| Line {
        name: (*word).to_owned(),
        points: side.every_second.iter().map(|own| (own.at, own.records_per_second)).collect(),
    });
    Chart {
        title: "Records a second".into(),
        lines: lines.collect(),
        is_log: false,
        is_nines: false,
        across: |value| format!("{} s", (value * 100.0).round() / 100.0),
        up: number,
    }
    .svg()
}

fn latency_over_time(word: &str, side: &Side) -> String {
    let quantile = |index: usize| {
        let of_second = |own: &super::tally::Second| Some((own.at, own.latency?.named()[index].1));
        side.every_second.iter().filter_map(of_second).collect::<Vec<_>>()
    };
    let lines = [(0, "p50"), (2, "p99"), (5, "max")]
        .map(|(index, name)| Line { name: name.to_owned(), points: quantile(index) });
    Chart {
        title: format!("Latency of what was {word}, each second"),
        lines: lines.into(),
        is_log: true,
        is_nines: false,
        across: |value| format!("{} s", (value * 100.0).round() / 100.0),
        up: micros,
    }
    .svg()
}

fn distribution(word: &str, side: &Side) -> String {
    let Some(latency) = side.latency else { return String::new() };
    // Each nine as wide as the one before it.
    let nines = [std::f64::consts::LOG10_2, 1.0, 2.0, 3.0, 4.0];
    let points = nines.into_iter().zip(latency.named()).map(|(nines, (_, value))| (nines, value));
    Chart {
        title: format!("Latency of what was {word}, by percentile"),
        lines: vec![Line { name: "latency".into(), points: points.collect() }],
        is_log: true,
        is_nines: true,
        across: |nines| match nines {
            nines if nines < 1.0 => String::new(),
            nines => format!("{:.*} %", (nines - 2.0).max(0.0) as usize, 100.0 - 100.0 / 10f64.powf(nines)),
        },
        up: micros,
    }
    .svg()
}

fn seconds(word: &str, side: &Side) -> String {
    let mut rows = String::new();
    for own in &side.every_second {
        let latency = own.latency.map_or([String::new(), String::new(), String::new()], |latency| {
            [latency.p50, latency.p99, latency.max].map(micros)
        });
        let [p50, p99, max] = latency;
        // Writing to memory does not fail.
        let _ = writeln!(
            rows,
            "<tr><td>{:.1}</td><td>{}</td><td>{}</td><td>{p50}</td><td>{p99}</td><td>{max}</td></tr>",
            own.at,
            number(own.records_per_second),
            bytes(own.bytes_per_second)
        );
    }
    format!(
        "<details><summary>What was {word}, each second</summary>\n<table>\n<thead><tr><th scope=\"col\">s</th>\
         <th scope=\"col\">records/s</th><th scope=\"col\">a second</th><th scope=\"col\">p50</th>\
         <th scope=\"col\">p99</th><th scope=\"col\">max</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</details>\n"
    )
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Chart {
    title: String,
    lines: Vec<Line>,
    /// Whether a step up is ten times as much.
    is_log: bool,
    /// Whether a step to the right is a nine more.
    is_nines: bool,
    across: fn(f64) -> String,
    up: fn(f64) -> String,
}

impl Chart {
    fn svg(&self) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        if all().next().is_none() {
            return String::new();
        }
        let (_, right) = bounds(all().map(|point| point.0));
        let (low, high) = bounds(all().map(|point| point.1));
        let (low, high, step) = match self.is_log {
            // Whole powers of ten around all of it.
            true => (floor_of(low), (floor_of(high) + 1.0).max(floor_of(low) + 1.0), 1.0),
            false => (0.0, high.max(1.0) * 1.05, round_step(high.max(1.0))),
        };
        let right = if right > 0.0 { right } else { 1.0 };
        let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - MARGIN);
        let y = |value: f64| {
            let value = if self.is_log { value.max(LEAST).log10() } else { value };
            HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - MARGIN)
        };
        let mut drawn = String::new();
        // Writing to memory does not fail.
        let mut mark = low;
        while mark <= high {
            let value = if self.is_log { 10f64.powf(mark) } else { mark };
            let (at, text, end, edge) = (y(value), escaped(&(self.up)(value)), WIDTH - MARGIN, LEFT - 6.0);
            let _ = writeln!(
                drawn,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
            let _ = writeln!(drawn, "<text x=\"{edge}\" y=\"{:.1}\" class=\"up\">{text}</text>", at + 4.0);
            mark += step;
        }
        let mut mark = 0.0;
        while mark <= right {
            let (at, text) = (x(mark), escaped(&(self.across)(mark)));
            let _ =
                writeln!(drawn, "<text x=\"{at:.1}\" y=\"{}\" class=\"across\">{text}</text>", HEIGHT - 8.0);
            mark += if self.is_nines { 1.0 } else { round_step(right) };
        }
        for (index, line) in self.lines.iter().enumerate() {
            let points: Vec<_> = thinned(&line.points)
                .into_iter()
                .map(|(across, up)| format!("{:.1},{:.1}", x(across), y(up)))
                .collect();
            let (name, points) = (escaped(&line.name), points.join(" "));
            let _ = writeln!(
                drawn,
                "<polyline class=\"line{index}\" points=\"{points}\"><title>{name}</title></polyline>"
            );
            let at = LEFT + 10.0 + 90.0 * index as f64;
            let _ = writeln!(drawn, "<text class=\"name{index}\" x=\"{at}\" y=\"14\">{name}</text>");
        }
        let title = escaped(&self.title);
        format!(
            "<figure><figcaption>{title}</figcaption>\n<svg role=\"img\" aria-label=\"{title}; the figures are in the tables below\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n{drawn}</svg></figure>\n"
        )
    }
}

/// The power of ten at or below a value.
fn floor_of(value: f64) -> f64 {
    value.max(LEAST).log10().floor()
}

/// A round number that is in a range some five times.
fn round_step(range: f64) -> f64 {
    let power = 10f64.powf((range / 5.0).log10().floor());
    let fits = |step: &f64| range / step <= 6.0;
    [1.0, 2.0, 5.0].map(|digit| digit * power).into_iter().find(fits).unwrap_or(10.0 * power)
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// As many points as can be told apart: of those that fall together, the highest.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let together = points.len().div_ceil(POINTS_MAX).max(1);
    let highest = |own: &[(f64, f64)]| own.iter().copied().max_by(|one, two| one.1.total_cmp(&two.1));
    points.chunks(together).filter_map(highest).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 84.0;
const BOTTOM: f64 = 30.0;
const MARGIN: f64 = 20.0;
/// Below, a logarithm leads nowhere.
const LEAST: f64 = 0.001;
const POINTS_MAX: usize = 720;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --grid: #d0d7de; --a: #0a5ccf; --b: #b3471d; --c: #6b7280 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --grid: #30363d; --a: #6cb0ff; --b: #ff9d6b; --c: #9ba3ad }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto } figure { margin: 2rem 0 } svg { width: 100%; height: auto; font-size: 12px }
text { fill: var(--ink) } .up { text-anchor: end } .across { text-anchor: middle } .grid { stroke: var(--grid) }
polyline { fill: none; stroke-width: 2 } .line0 { stroke: var(--a) } .line1 { stroke: var(--b); stroke-dasharray: 8 3 }
.line2 { stroke: var(--c); stroke-dasharray: 2 3 } .name0 { fill: var(--a) } .name1 { fill: var(--b) } .name2 { fill: var(--c) }
table { border-collapse: collapse } th, td { text-align: right; padding: .1rem .8rem; font-variant-numeric: tabular-nums }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_says_what_it_shows_and_draws_every_line() {
        let line = |name: &str| Line { name: name.into(), points: vec![(1.0, 10.0), (2.0, 1000.0)] };
        let lines = vec![line("one"), line("<two>")];
        let chart =
            Chart { title: "a & b".into(), lines, is_log: true, is_nines: false, across: number, up: micros };
        let svg = chart.svg();
        assert!(svg.contains("aria-label=\"a &amp; b;") && svg.contains("&lt;two&gt;"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn one_point_and_no_point_are_charts_too() {
        let chart = |points: Vec<(f64, f64)>| {
            let lines = vec![Line { name: "one".into(), points }];
            Chart { title: "few".into(), lines, is_log: false, is_nines: false, across: number, up: number }
                .svg()
        };
        assert!(!chart(vec![(1.0, 0.0)]).contains("NaN"));
        assert_eq!(chart(Vec::new()), "");
    }

    #[test]
    fn marks_are_round_and_few() {
        assert_eq!(
            [1.0, 7.0, 10.0, 93.0, 2111.0, 600.0].map(round_step),
            [0.2, 2.0, 2.0, 20.0, 500.0, 100.0]
        );
        assert_eq!([0.5, 1.0, 99.0, 100.0].map(floor_of), [-1.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn many_points_are_thinned_and_the_highest_stays() {
        let points: Vec<_> = (0..10_000).map(|n| (f64::from(n), if n == 4321 { 9.0 } else { 1.0 })).collect();
        let thinned = thinned(&points);
        assert!(thinned.len() <= POINTS_MAX && thinned.contains(&(4321.0, 9.0)));
    }
}
