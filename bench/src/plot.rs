//! Comparisons as a picture: one panel a metric, one bar a way, in plain SVG.

use std::fmt::Write;

use crate::peer::IPOP;
use crate::report::{Comparison, Measured, Metric};

/// Sizes in pixels.
const PANEL: (usize, usize) = (520, 40);
const BAR: usize = 20;
const NAME: usize = 190;
const FIGURE: usize = 80;
const COLUMNS: usize = 2;

/// All of them, below each other.
pub(crate) fn svg(comparisons: &[Comparison]) -> String {
    let (mut panels, mut top) = (String::new(), 0);
    for comparison in comparisons {
        let height = PANEL.1 + comparison.ways.len() * BAR;
        for (number, metric) in comparison.metrics.iter().enumerate() {
            let corner = (PANEL.0 * (number % COLUMNS) + 10, top + height * (number / COLUMNS));
            panel(&mut panels, corner, metric, &comparison.ways, number);
        }
        top += comparison.metrics.len().div_ceil(COLUMNS) * height + BAR;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{top}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{panels}</svg>\n",
        PANEL.0 * COLUMNS,
    )
}

fn panel(text: &mut String, (left, top): (usize, usize), metric: &Metric, ways: &[Measured], number: usize) {
    let direction = if metric.more_is_better {
        "more is better"
    } else {
        "less is better"
    };
    let title = format!("{}, {} ({direction})", metric.title, metric.unit);
    say(
        text,
        format_args!(
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{}</text>\n",
            top + 28,
            escaped(&title)
        ),
    );
    let figure = |way: &Measured| metric.of(&way.samples[number]);
    let most = ways.iter().filter_map(figure).fold(f64::MIN_POSITIVE, f64::max);
    let room = (PANEL.0 - NAME - FIGURE) as f64;
    for (row, way) in ways.iter().enumerate() {
        let (y, baseline) = (top + PANEL.1 + row * BAR, top + PANEL.1 + row * BAR + 14);
        say(
            text,
            format_args!("<text x=\"{left}\" y=\"{baseline}\">{}</text>\n", escaped(&way.name)),
        );
        let start = left + NAME;
        let Some(value) = figure(way) else {
            say(
                text,
                format_args!("<text x=\"{start}\" y=\"{baseline}\" fill=\"gray\">-</text>\n"),
            );
            continue;
        };
        let (width, digits) = ((value / most * room).max(1.0), metric.digits);
        let colour = if way.name.starts_with(IPOP) {
            "#0b6e4f"
        } else {
            "#b8c0c8"
        };
        say(
            text,
            format_args!(
                "<rect x=\"{start}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\n",
                BAR - 4
            ),
        );
        let end = start as f64 + width + 4.0;
        say(
            text,
            format_args!("<text x=\"{end:.1}\" y=\"{baseline}\">{value:.digits$}</text>\n"),
        );
    }
}

fn say(text: &mut String, what: std::fmt::Arguments) {
    text.write_fmt(what).expect("a string takes all");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_figures_are_great() {
        const METRICS: &[Metric] = &[Metric::more("rate & more", "Gbit/s", 1)];
        let mut comparison = Comparison::new("rates", METRICS, ["bare", IPOP, "absent"].into_iter());
        comparison.add("bare", "rate & more", 40.0);
        comparison.add(IPOP, "rate & more", 10.0);
        let picture = svg(&[comparison]);
        let widths: Vec<&str> = picture
            .lines()
            .filter(|line| line.starts_with("<rect x="))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next())
            .collect();
        assert_eq!(widths, ["250.0", "62.5"]);
        assert!(picture.contains("rate &amp; more") && picture.ends_with("</svg>\n"));
    }
}
