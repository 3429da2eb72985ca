//! Groups of horizontal bars, each with a tick at its ideal: times per policy against what the saved work promises.

use super::frame::{self, BOTTOM, LINE, MARGIN, RIGHT, WIDTH};
use super::scale::{Axis, Placed};
use super::svg::{Anchor, Svg};
use super::theme::{self, text_width};

/// A chart of bars. All bars share one axis, which begins at 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarChart {
    /// What it shows, in a few words.
    pub title: String,
    /// With what it was measured: model, machine. May be empty.
    pub subtitle: String,
    /// The axis, with the unit in its title or suffix. `from_zero` is taken as set.
    pub axis: Axis,
    /// The groups, from top to bottom.
    pub groups: Vec<BarGroup>,
    /// What the tick at a bar means, for the key: "ideal: dense time x share of work left".
    pub ideal: String,
}

/// Bars below one heading.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BarGroup {
    /// The heading.
    pub name: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// A bar. Bars of one name have one colour in all groups.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// The interval of its length.
    pub interval: Option<[f64; 2]>,
    /// What it could be at best.
    pub ideal: Option<f64>,
    /// Written at its end, with unit.
    pub text: String,
    /// Shown under the pointer.
    pub tooltip: String,
}

const BAR: f64 = 18.0;
const BAR_STEP: f64 = 25.0;
const HEADING: f64 = 26.0;
const GROUP_GAP: f64 = 18.0;

/// The chart with its axis in place.
struct Drawing<'a> {
    chart: &'a BarChart,
    names: Vec<&'a str>,
    x: Placed,
    left: f64,
    right: f64,
    svg: Svg,
}

impl BarChart {
    /// The chart as an SVG document, 880 pixels wide and as high as its bars need.
    pub fn to_svg(&self) -> String {
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let mut names: Vec<&str> = Vec::new();
        for bar in bars() {
            if !names.contains(&bar.name.as_str()) {
                names.push(&bar.name);
            }
        }
        let widest = |size: f64, texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|text| text_width(text, size)).fold(0.0, f64::max)
        };
        let left = MARGIN + widest(theme::BODY, &mut names.iter().copied()).clamp(60.0, 0.45 * WIDTH) + 12.0;
        let right = WIDTH - RIGHT - widest(theme::BODY, &mut bars().map(|bar| bar.text.as_str())) - 10.0;
        let axis = Axis {
            from_zero: true,
            ..self.axis.clone()
        };
        let values = bars().flat_map(|bar| {
            [bar.value]
                .into_iter()
                .chain(bar.interval.into_iter().flatten())
                .chain(bar.ideal)
        });
        let x = axis.place(values.chain([0.0]), left, right);
        let n_bars = bars().count() as f64;
        let n_groups = self.groups.len() as f64;
        let height = self.top() + n_groups * (HEADING + GROUP_GAP) + n_bars * BAR_STEP + BOTTOM - GROUP_GAP;
        let mut drawing = Drawing {
            chart: self,
            names,
            x,
            left,
            right,
            svg: Svg::new(WIDTH, height, &self.title, &self.subtitle),
        };
        drawing.head();
        drawing.axis(&axis, height - BOTTOM);
        drawing.groups();
        drawing.svg.finish()
    }

    /// Whether there is something for the key.
    fn has_key(&self) -> bool {
        let mut bars = self.groups.iter().flat_map(|group| &group.bars);
        !self.ideal.is_empty() && bars.any(|bar| bar.ideal.is_some())
    }

    /// Where the first group begins.
    fn top(&self) -> f64 {
        frame::below_head(&self.subtitle) + if self.has_key() { LINE } else { 0.0 } - 4.0
    }
}

impl Drawing<'_> {
    fn head(&mut self) {
        let chart = self.chart;
        let y = frame::head(&mut self.svg, &chart.title, &chart.subtitle);
        if chart.has_key() {
            self.svg.line((24.0, y - 13.0), (24.0, y + 3.0), "ink", 2.5);
            self.svg.text((34.0, y), "muted", Anchor::Start, &chart.ideal);
        }
    }

    /// Lines from top to bottom at the axis's values.
    fn axis(&mut self, axis: &Axis, bottom: f64) {
        let top = self.chart.top() + HEADING - 6.0;
        let below = (self.right, bottom + 18.0);
        frame::values_below(&mut self.svg, (axis, &self.x), 7, below, |svg, value, x| {
            let class = if value == 0.0 { "axis" } else { "grid" };
            svg.line((x, top), (x, bottom), class, 1.0);
        });
    }

    fn groups(&mut self) {
        let chart = self.chart;
        let mut y = chart.top();
        for group in &chart.groups {
            self.svg
                .text((MARGIN, y + 14.0), "strong halo", Anchor::Start, &group.name);
            y += HEADING;
            for bar in &group.bars {
                self.bar(bar, y);
                y += BAR_STEP;
            }
            y += GROUP_GAP;
        }
    }

    fn bar(&mut self, bar: &Bar, y: f64) {
        let colour = self.names.iter().position(|name| *name == bar.name).unwrap_or(0) % theme::N_COLOURS;
        let (zero, end, middle) = (self.x.at(0.0), self.x.at(bar.value.max(0.0)), y + BAR / 2.0);
        self.svg.open_tooltip(&bar.tooltip);
        self.svg
            .text((self.left - 12.0, middle + 4.5), "", Anchor::End, &bar.name);
        self.svg.rect(
            (zero, y),
            ((end - zero).max(1.0), BAR),
            &format!("f{colour}"),
            "rx=\"2\"",
        );
        let mut reach = end;
        if let Some([low, high]) = bar.interval {
            let (low, high) = (self.x.at(low), self.x.at(high));
            self.svg.line((low, middle), (high, middle), "halo", 4.0);
            self.svg.line((low, middle), (high, middle), "ink", 1.6);
            reach = reach.max(high);
        }
        if let Some(ideal) = bar.ideal {
            let x = self.x.at(ideal);
            // A halo keeps the tick visible on its own bar.
            self.svg.rect((x - 2.6, y - 3.0), (5.2, BAR + 6.0), "surface", "");
            self.svg.line((x, y - 3.0), (x, y + BAR + 3.0), "ink", 2.5);
            // The text goes behind the tick where there is no room before it.
            let is_in_the_way = x > reach - 4.0 && x < reach + 16.0 + text_width(&bar.text, theme::BODY);
            if is_in_the_way {
                reach = reach.max(x);
            }
        }
        self.svg
            .text((reach + 8.0, middle + 4.5), "halo", Anchor::Start, &bar.text);
        self.svg.close_group();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::tests::{elements, numbers};

    /// What bars have and nothing else.
    const BARS: &str = "rx=\"2\"";

    fn chart() -> BarChart {
        let bar = |name: &str, value: f64, ideal: Option<f64>| Bar {
            name: name.to_owned(),
            value,
            ideal,
            text: format!("{value:.0} ms"),
            tooltip: format!("{name}: {value:.0} ms"),
            interval: Some([value * 0.9, value * 1.1]),
        };
        BarChart {
            title: "Times".to_owned(),
            ideal: "ideal".to_owned(),
            groups: vec![
                BarGroup {
                    name: "prefill".to_owned(),
                    bars: vec![bar("dense", 80.0, None), bar("pruned", 40.0, Some(30.0))],
                },
                BarGroup {
                    name: "decode".to_owned(),
                    bars: vec![bar("pruned", 20.0, Some(18.0)), bar("dense", 25.0, None)],
                },
            ],
            ..BarChart::default()
        }
    }

    #[test]
    fn a_name_has_one_colour_in_all_groups() {
        let svg = chart().to_svg();
        let fills: Vec<&str> = elements(&svg, BARS)
            .map(|line| if line.contains("class=\"f0\"") { "f0" } else { "f1" })
            .collect();
        assert_eq!(fills, ["f0", "f1", "f1", "f0"]);
    }

    /// The bars' widths are to each other as their values.
    #[test]
    fn bars_begin_at_zero() {
        let svg = chart().to_svg();
        let widths: Vec<f64> = elements(&svg, BARS)
            .flat_map(|bar| numbers(bar, "width"))
            .collect();
        assert!(
            (widths[0] / widths[1] - 2.0).abs() < 0.01 && (widths[0] / widths[2] - 4.0).abs() < 0.02,
            "{widths:?}"
        );
    }

    #[test]
    fn the_key_is_there_only_with_an_ideal() {
        let mut chart = chart();
        assert!(chart.to_svg().contains(">ideal</text>"));
        chart
            .groups
            .iter_mut()
            .flat_map(|group| &mut group.bars)
            .for_each(|bar| bar.ideal = None);
        assert!(!chart.to_svg().contains(">ideal</text>"));
    }
}
