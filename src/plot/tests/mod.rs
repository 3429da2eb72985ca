//! What the charts have in common, and what their tests read out of an SVG.

mod charts;

use super::frame::{self, Marks};
use super::*;

/// The numbers in an attribute of an element: one, or a list of points.
pub(super) fn numbers(element: &str, attribute: &str) -> Vec<f64> {
    let begin = format!(" {attribute}=\"");
    let (_, value) = element.split_once(&begin).expect("the attribute");
    let (value, _) = value.split_once('"').expect("its end");
    let numbers = value.split([' ', ',']);
    numbers.map(|number| number.parse().expect("a number")).collect()
}

/// The elements that contain `what`, in the order in which they are drawn.
pub(super) fn elements<'a>(svg: &'a str, what: &'a str) -> impl Iterator<Item = &'a str> {
    svg.lines().filter(move |line| line.contains(what))
}

#[test]
fn charts_without_values_are_charts() {
    let charts = [
        LineChart::default().to_svg(),
        BarChart::default().to_svg(),
        SpreadChart::default().to_svg(),
    ];
    for svg in charts {
        check("empty", &svg);
    }
}

/// To be seen as pictures: `VP_CHARTS=folder cargo test charts_to_look_at`.
#[test]
fn charts_to_look_at() {
    let folder = std::env::var("VP_CHARTS");
    let charts = [
        ("curve", charts::curve().to_svg()),
        ("equal", charts::equal_cost().to_svg()),
        ("profile", charts::profile().to_svg()),
        ("bars", charts::bars().to_svg()),
        ("spreads", charts::spreads().to_svg()),
    ];
    for (name, svg) in charts {
        check(name, &svg);
        if let Ok(folder) = &folder {
            std::fs::write(format!("{folder}/{name}.svg"), svg).unwrap();
        }
    }
}

fn check(name: &str, svg: &str) {
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{name}");
    assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{name}");
}

/// The second and the fourth name would run into their neighbour's; the third is far from all of them.
#[test]
fn names_of_marks_keep_apart() {
    let mark = |x: f64, name: &str| Mark {
        x,
        name: name.to_owned(),
    };
    let marks = [
        mark(0.0, "fusion"),
        mark(1.0, "exit"),
        mark(50.0, "k"),
        mark(51.0, "last"),
    ];
    let axis = Axis::default().place([0.0, 100.0].into_iter(), 0.0, 880.0);
    let placed = Marks::place(&marks, &axis);
    let one = Marks::place(&marks[..1], &axis);
    assert_eq!(placed.height(), 2.0 * one.height());
    assert_eq!(Marks::place(&[], &axis).height(), 0.0);

    let svg = SpreadChart {
        x: Axis {
            limits: Some([0.0, 100.0]),
            ..Axis::default()
        },
        spreads: [0.0, 100.0]
            .map(|x| Spread {
                x,
                ..Spread::default()
            })
            .to_vec(),
        marks: marks.to_vec(),
        ..SpreadChart::default()
    }
    .to_svg();
    let y: Vec<f64> = elements(&svg, "class=\"muted small halo\"")
        .flat_map(|text| numbers(text, "y"))
        .collect();
    assert!(y[0] > y[1] && y[0] == y[2] && y[1] == y[3], "{y:?}");
    // between the title of the vertical axis and the plot
    assert!(y.iter().all(|&y| y > frame::below_head("") + 28.0), "{y:?}");
}
