//! Charts of the kinds that the program draws.

use crate::plot::{
    Axis, Bar, BarChart, BarGroup, LineChart, Mark, Outlier, Point, Reference, Scale, Series, Spread,
    SpreadChart,
};

fn point(x: f64, y: f64) -> Point {
    Point {
        x,
        y,
        interval: Some([y - 1.0, y + 1.0]),
        note: format!("{x}"),
        tooltip: format!("x is {x}"),
        on_front: false,
    }
}

/// Seven policies at several budgets each, close together.
pub fn curve() -> LineChart {
    let policy = |name: &str, points: &[(f64, f64, &str)]| Series {
        name: name.to_owned(),
        markers: true,
        points: points
            .iter()
            .map(|&(x, y, note)| Point {
                x,
                y,
                interval: Some([y - 0.9, (y + 0.7).min(100.0)]),
                note: note.to_owned(),
                tooltip: format!("{name} {note}: {y} %"),
                on_front: false,
            })
            .collect(),
    };
    let mut series = vec![
        policy("dense 98.7 %", &[(100.0, 98.7, "")]),
        policy(
            "visipruner",
            &[
                (38.0, 96.4, "0.4"),
                (41.0, 98.1, "0.2"),
                (47.0, 98.5, "0.1"),
                (56.0, 98.6, "0.05"),
            ],
        ),
        policy(
            "fastv",
            &[
                (22.0, 80.2, "8"),
                (31.0, 91.0, "16"),
                (48.0, 96.2, "32"),
                (70.0, 98.3, "48"),
            ],
        ),
        policy(
            "pyramiddrop",
            &[(35.0, 93.5, ""), (44.0, 96.8, ""), (60.0, 98.0, "")],
        ),
        policy(
            "divprune",
            &[
                (13.0, 71.0, "8"),
                (25.0, 84.0, "16"),
                (50.0, 94.1, "32"),
                (75.0, 97.4, "48"),
            ],
        ),
        policy(
            "random",
            &[
                (13.0, 62.0, "8"),
                (25.0, 72.5, "16"),
                (50.0, 86.0, "32"),
                (75.0, 94.0, "48"),
            ],
        ),
        policy("vtw", &[(30.0, 66.0, "3"), (50.0, 95.0, "5"), (70.0, 98.6, "7")]),
    ];
    let all: Vec<(f64, f64)> = series
        .iter()
        .flat_map(|s| s.points.iter().map(|p| (p.x, p.y)))
        .collect();
    let front = crate::eval::sweep::pareto_front(&all);
    series
        .iter_mut()
        .flat_map(|s| &mut s.points)
        .zip(front)
        .for_each(|(point, on_front)| point.on_front = on_front);
    LineChart {
        title: "Accuracy against visual-attention compute".to_owned(),
        subtitle: "tiny-llava-shapes, 1,500 held-out questions; bars are 95 % intervals".to_owned(),
        x: Axis {
            title: "visual-attention compute, % of dense".to_owned(),
            suffix: " %".to_owned(),
            from_zero: true,
            limits: Some([0.0, 104.0]),
            ..Axis::default()
        },
        y: Axis {
            title: "accuracy".to_owned(),
            suffix: " %".to_owned(),
            limits: Some([0.0, 100.0]),
            ..Axis::default()
        },
        series,
        references: vec![Reference {
            y: 98.7,
            name: String::new(),
        }],
        front: "Pareto front: nothing is cheaper and better (filled points)".to_owned(),
        ..LineChart::default()
    }
}

/// Ten policies at about the same cost, most of them about as accurate.
pub fn equal_cost() -> LineChart {
    let names = [
        ("visipruner", 40.1, 98.4),
        ("fixed", 40.0, 97.9),
        ("pyramiddrop", 40.6, 97.6),
        ("sparsevlm", 39.4, 97.1),
        ("fastv", 39.9, 96.9),
        ("divprune+visipruner", 38.9, 96.5),
        ("divprune", 40.2, 94.0),
        ("uniform", 40.0, 90.2),
        ("random", 40.0, 89.7),
        ("vtw", 41.0, 86.1),
    ];
    let series = names.map(|(name, x, y)| Series {
        name: name.to_owned(),
        points: vec![Point {
            interval: Some([y - 1.4, y + 1.1]),
            on_front: ["visipruner", "divprune+visipruner", "sparsevlm"].contains(&name),
            ..point(x, y)
        }],
        markers: true,
    });
    let series = series.into_iter().chain([Series {
        name: "dense".to_owned(),
        points: vec![Point {
            on_front: true,
            ..point(100.0, 98.7)
        }],
        markers: true,
    }]);
    LineChart {
        series: series.collect(),
        ..curve()
    }
}

/// A statistic per layer of a deep model, over several decades.
pub fn profile() -> LineChart {
    let line = |name: &str, value: fn(f64) -> f64| Series {
        name: name.to_owned(),
        markers: false,
        points: (0..32)
            .map(|il| Point {
                x: f64::from(il),
                y: value(f64::from(il)),
                tooltip: format!("layer {il}"),
                ..Point::default()
            })
            .collect(),
    };
    LineChart {
        title: "What hiding the picture changes, layer by layer".to_owned(),
        subtitle: "KL divergence of the next token's distribution from dense, mean over 64 prompts"
            .to_owned(),
        x: Axis {
            title: "layer".to_owned(),
            whole: true,
            ..Axis::default()
        },
        y: Axis {
            title: "KL divergence, nats".to_owned(),
            scale: Scale::Log,
            ..Axis::default()
        },
        series: vec![
            line("this layer alone", |il| {
                0.002 + 0.4 * (-(il - 15.0) * (il - 15.0) / 18.0).exp()
            }),
            line("from here on", |il| {
                3.0 / (1.0 + ((il - 16.0) / 1.6).exp()) + 0.0004
            }),
        ],
        marks: vec![
            Mark {
                x: 6.0,
                name: "k = 6".to_owned(),
            },
            Mark {
                x: 16.0,
                name: "fusion".to_owned(),
            },
            Mark {
                x: 24.0,
                name: "earliest exit".to_owned(),
            },
            Mark {
                x: 25.0,
                name: "latest fusion".to_owned(),
            },
        ],
        ..LineChart::default()
    }
}

/// Times per policy.
pub fn bars() -> BarChart {
    let bar = |name: &str, value: f64, ideal: Option<f64>| Bar {
        name: name.to_owned(),
        value,
        interval: Some([value * 0.97, value * 1.04]),
        ideal,
        text: format!("{value:.0} ms"),
        tooltip: format!("{name}: {value:.0} ms"),
    };
    let group = |name: &str, [dense, visi, fastv, random]: [f64; 4], ideal: f64| BarGroup {
        name: name.to_owned(),
        bars: vec![
            bar("dense", dense, None),
            bar("visipruner", visi, Some(ideal)),
            bar("fastv", fastv, Some(ideal * 0.9)),
            bar("random + visipruner", random, Some(ideal * 1.3)),
        ],
    };
    BarChart {
        title: "Where the time goes".to_owned(),
        subtitle: "llava-v1.5-7b Q4_K_M, 576 vision tokens, 8 threads; median of 20, with 95 % intervals"
            .to_owned(),
        axis: Axis {
            title: "milliseconds".to_owned(),
            ..Axis::default()
        },
        groups: vec![
            group("time to first token", [931.0, 540.0, 580.0, 623.0], 495.0),
            group("prefill", [801.0, 410.0, 450.0, 493.0], 370.0),
            group("decode, 32 tokens", [640.0, 605.0, 610.0, 615.0], 590.0),
        ],
        ideal: "ideal: dense time times the share of work that is left".to_owned(),
    }
}

/// Sizes of value vectors in every other layer, with marks too close for one row of names.
pub fn spreads() -> SpreadChart {
    let spread = |x: f64| Spread {
        x,
        quartiles: [2.0 + 0.1 * x, 3.0 + 0.1 * x, 5.0 + 0.2 * x],
        ends: [1.0, 9.0 + 0.3 * x],
        outliers: vec![Outlier {
            y: 0.02 + 0.001 * x,
            tooltip: format!("layer {x}, vision token 7"),
        }],
        compared: Some(4.0),
        tooltip: format!("layer {x}"),
    };
    SpreadChart {
        title: "Sizes of value vectors, layer by layer".to_owned(),
        subtitle: "a token far below the others can draw attention without changing the output".to_owned(),
        y: Axis {
            title: "L1 norm of the value vector".to_owned(),
            scale: Scale::Log,
            ..Axis::default()
        },
        name: "vision tokens, quartile to quartile".to_owned(),
        outliers: "vision tokens far from the others".to_owned(),
        compared: "text tokens, median".to_owned(),
        spreads: (0..16).map(|i| spread(2.0 * f64::from(i))).collect(),
        x: profile().x,
        marks: profile().marks,
    }
}
