use super::*;

fn point(x: f64, y: f64, on_front: bool) -> Point {
    Point {
        x,
        y,
        interval: Some([y - 1.0, y + 1.0]),
        note: format!("{x}"),
        tooltip: format!("x is {x}"),
        on_front,
    }
}

fn chart() -> LineChart {
    LineChart {
        title: "Accuracy & cost".to_owned(),
        front: "Pareto front".to_owned(),
        series: vec![
            Series {
                name: "visipruner".to_owned(),
                points: vec![point(10.0, 90.0, true), point(20.0, 95.0, true)],
                markers: true,
            },
            Series {
                name: "random".to_owned(),
                points: vec![point(15.0, 80.0, false)],
                markers: true,
            },
        ],
        references: vec![Reference {
            y: 96.0,
            name: "dense 96 %".to_owned(),
        }],
        marks: vec![Mark {
            x: 12.0,
            name: "k".to_owned(),
        }],
        ..LineChart::default()
    }
}

fn n_of(svg: &str, what: &str) -> usize {
    svg.matches(what).count()
}

#[test]
fn every_series_has_its_name_and_every_point_its_tooltip() {
    let svg = chart().to_svg();
    for text in [
        "Accuracy &amp; cost",
        ">visipruner</text>",
        ">random</text>",
        ">dense 96 %</text>",
        ">k</text>",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    for x in [10, 15, 20] {
        assert!(svg.contains(&format!("<title>x is {x}</title>")));
    }
}

#[test]
fn points_off_the_front_are_hollow() {
    let mut chart = chart();
    let n_hollow = |chart: &LineChart| n_of(&chart.to_svg(), "class=\"hollow l");
    assert_eq!(n_hollow(&chart), 1);
    chart
        .series
        .iter_mut()
        .flat_map(|series| &mut series.points)
        .for_each(|point| point.on_front = false);
    assert_eq!(n_hollow(&chart), 0);
    assert!(!chart.to_svg().contains("Pareto front"));
}

/// The first point of visipruner is left of and below its second one.
#[test]
fn greater_values_are_further_right_and_up() {
    let svg = chart().to_svg();
    let line = svg
        .lines()
        .find(|line| line.contains("class=\"none l0\" ") && line.contains("stroke-width=\"2\""))
        .unwrap();
    let points = line.split('"').nth(1).unwrap();
    let coordinates: Vec<f64> = points
        .split([' ', ','])
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(
        coordinates[0] < coordinates[2] && coordinates[1] > coordinates[3],
        "{coordinates:?}"
    );
}

#[test]
fn charts_without_points_are_charts() {
    let svg = LineChart::default().to_svg();
    assert!(
        svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf")
    );
}

/// Charts of the kinds that the program draws, to look at: `VP_CHARTS=folder cargo test charts_to_look_at`.
#[test]
fn charts_to_look_at() {
    let folder = std::env::var("VP_CHARTS");
    let save = |name: &str, svg: String| {
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{name}");
        assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{name}");
        if let Ok(folder) = &folder {
            std::fs::write(format!("{folder}/{name}.svg"), svg).unwrap();
        }
    };
    save("curve", curve().to_svg());
    save("equal", equal_cost().to_svg());
    save("profile", profile().to_svg());
    save("bars", bars().to_svg());
}

/// Seven policies at several budgets each, close together.
fn curve() -> LineChart {
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
fn equal_cost() -> LineChart {
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
            ..point(
                x,
                y,
                name == "visipruner" || name == "divprune+visipruner" || name == "sparsevlm",
            )
        }],
        markers: true,
    });
    let series = series.into_iter().chain([Series {
        name: "dense".to_owned(),
        points: vec![point(100.0, 98.7, true)],
        markers: true,
    }]);
    LineChart {
        series: series.collect(),
        ..curve()
    }
}

/// A statistic per layer of a deep model, over several decades.
fn profile() -> LineChart {
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
            scale: crate::plot::Scale::Log,
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

fn bars() -> crate::plot::BarChart {
    use crate::plot::{Bar, BarChart, BarGroup};
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
