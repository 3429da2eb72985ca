//! The charts over layers.

use super::data::{InspectedLayer, Inspection};
use super::outliers::Fences;
use crate::plot::{Axis, LineChart, Mark, Outlier, Point, Reference, Scale, Series, Spread, SpreadChart};

/// A cosine as its distance from 1. Below this distance nothing can be told apart in a probe's precision.
const LEAST_TURN: f64 = 1e-7;

impl Inspection {
    /// How far the attention output of the last prompt token turns at most when one vision token is left out, per
    /// layer: `1 - min_j cos(o - c_j, o)`, with the thresholds of the policy and what it read itself (paper, 3.4).
    pub fn cosine_chart(&self) -> LineChart {
        LineChart {
            title: "The vision token that matters most, layer by layer".to_owned(),
            subtitle:
                "higher: leaving out one vision token turns the attention output of the last token further"
                    .to_owned(),
            x: layer_axis(self.n_layer),
            y: Axis {
                title: "1 − smallest cos(o − c, o) over the vision tokens".to_owned(),
                scale: Scale::Log,
                ..Axis::default()
            },
            series: self.cosine_series(),
            references: self.cosine_levels(),
            marks: self.marks(),
            ..LineChart::default()
        }
    }

    fn cosine_series(&self) -> Vec<Series> {
        let point = |il: usize, cos: f64, who: &str| Point {
            x: il as f64,
            y: turn(cos),
            tooltip: format!("layer {il}: smallest cosine {cos:.6} ({who})"),
            ..Point::default()
        };
        let dense = self.layers.iter().enumerate().filter_map(|(il, layer)| {
            layer
                .min_cos()
                .map(|cos| point(il, cos, "dense run, all vision tokens"))
        });
        let dense = Series {
            name: "dense run".to_owned(),
            points: dense.collect(),
            // a single layer has no line
            markers: self.n_layer == 1,
        };
        let Some(policy) = &self.policy else {
            return vec![dense];
        };
        let read = policy.layers.iter().enumerate().filter_map(|(il, layer)| {
            let who = format!("read by {}, {} vision tokens", policy.label, layer.n_vision);
            layer.min_cos.map(|cos| point(il, cos, &who))
        });
        let read = Series {
            name: format!("read by {}", policy.label),
            points: read.collect(),
            markers: true,
        };
        [dense, read]
            .into_iter()
            .filter(|series| !series.points.is_empty())
            .collect()
    }

    fn cosine_levels(&self) -> Vec<Reference> {
        let thresholds = self.policy.as_ref().and_then(|policy| policy.thresholds.as_ref());
        let level = |name: &str, cos: f64| Reference {
            y: turn(cos),
            name: format!("{name} {cos}"),
        };
        thresholds.map_or_else(Vec::new, |thresholds| {
            vec![
                level("fusion: cosine below", thresholds.layer_threshold),
                level("exit: all cosines at least", thresholds.exit_threshold),
            ]
        })
    }

    /// The sizes of value vectors per layer: vision tokens, those among them that stand apart, and text.
    pub fn value_chart(&self) -> SpreadChart {
        let spreads = self.layers.iter().enumerate();
        SpreadChart {
            title: "Sizes of value vectors, layer by layer".to_owned(),
            subtitle: "a token far below the others can draw attention without changing the output: a sink"
                .to_owned(),
            x: layer_axis(self.n_layer),
            y: Axis {
                title: "L1 norm of the value vector, mean over KV heads".to_owned(),
                scale: Scale::Log,
                ..Axis::default()
            },
            spreads: spreads.filter_map(|(il, layer)| spread(il, layer)).collect(),
            name: "vision tokens, quartile to quartile".to_owned(),
            outliers: "vision tokens far from the others".to_owned(),
            compared: "text tokens, median".to_owned(),
            marks: self.stage_marks(),
        }
    }

    /// Where the shallow layers end, fusion and exit.
    fn marks(&self) -> Vec<Mark> {
        let thresholds = self.policy.as_ref().and_then(|policy| policy.thresholds.as_ref());
        let k = thresholds.map(|thresholds| Mark {
            x: thresholds.shallow_mid_layer as f64,
            name: format!("k = {}", thresholds.shallow_mid_layer),
        });
        k.into_iter().chain(self.stage_marks()).collect()
    }

    fn stage_marks(&self) -> Vec<Mark> {
        let Some(policy) = &self.policy else {
            return Vec::new();
        };
        let mark = |name: &str, il: usize| Mark {
            x: il as f64,
            name: format!("{name} {il}"),
        };
        let fusion = policy.fusion_layer.map(|il| mark("fusion", il));
        let fusion = fusion.or(policy.first_drop().map(|il| mark("drop", il)));
        let exit = policy.exit_layer.map(|il| mark("exit", il));
        fusion.into_iter().chain(exit).collect()
    }
}

fn turn(cos: f64) -> f64 {
    (1.0 - cos).max(LEAST_TURN)
}

fn layer_axis(n_layer: usize) -> Axis {
    Axis {
        title: "layer".to_owned(),
        whole: true,
        limits: Some([-0.5, n_layer as f64 - 0.5]),
        ..Axis::default()
    }
}

/// The vision tokens' value vectors in one layer; `None` if all are zero.
fn spread(il: usize, layer: &InspectedLayer) -> Option<Spread> {
    let fences = Fences::of(&layer.value_l1)?;
    let ordinary = layer
        .value_l1
        .iter()
        .copied()
        .filter(|&value| value > 0.0 && !fences.exclude(value));
    let (least, greatest) = ordinary.fold((f64::INFINITY, 0.0), |(least, greatest), value| {
        (f64::min(least, value), f64::max(greatest, value))
    });
    let apart = layer
        .value_l1
        .iter()
        .enumerate()
        .filter(|(_, value)| fences.exclude(**value));
    let outlier = |(token, &y): (usize, &f64)| Outlier {
        y,
        tooltip: format!(
            "layer {il}, vision token {token}: {y:.3}, attention {:.2} %",
            100.0 * layer.attention[token]
        ),
    };
    let median = fences.quartiles[1];
    Some(Spread {
        x: il as f64,
        quartiles: fences.quartiles,
        ends: [least, greatest],
        outliers: apart.map(outlier).collect(),
        compared: Fences::of(&layer.text_value_l1).map(|text| text.quartiles[1]),
        tooltip: format!("layer {il}: vision tokens, median {median:.3}, from {least:.3} to {greatest:.3}"),
    })
}
